//! Calls of the admin API from the command line: deadlines, and repeats under one change id.
//! Knows nothing of what the calls mean.

mod nodes;

use std::{
    error::Error,
    future::Future,
    time::{Duration, Instant},
};

use tonic::{Code, Response, Status, service::interceptor::InterceptedService, transport::Channel};
use uuid::Uuid;

use self::nodes::{Nodes, Unreached};
use super::{
    CliError, Common, DEFAULT_PRODUCT, Output, declared, duration,
    error::{ErrorCode, failed},
};
use crate::{
    config::secret_file,
    wire::{
        OUTCOME,
        auth::{ClientAuth, ClusterSecret},
        pb::admin::{ChangeOptions, ChangeReply, admin_client::AdminClient},
    },
};

/// The generated client with the cluster secret on every call.
pub type Client = AdminClient<InterceptedService<Channel, ClientAuth>>;

/// How long a command tries without `--timeout`. The nodes have the same limit.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a command tries with `--wait` and without `--timeout`: it waits for silent nodes.
const TIMEOUT_WAIT: Duration = Duration::from_secs(300);
/// The node answers at the deadline with the reason; the answer needs a moment to arrive.
const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// First pause before a repeat; doubled each time up to `PAUSE_MAX`: an election takes about a second.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a repeat.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Largest answer read: 16384 slots, each its own range, take about half a megabyte.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// A cluster, reached through one of the nodes that the command names.
#[derive(Debug)]
pub struct Remote {
    /// The common flags.
    pub common: Common,
    nodes: Nodes,
    secret: ClusterSecret,
    /// What the command says of itself.
    declared: String,
}

/// A change, which may be sent several times.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    id: Uuid,
    wait: bool,
    deadline: Instant,
}

impl Attempt {
    /// The same change, sent again in order to wait for its effect.
    #[must_use]
    pub const fn waiting(self) -> Self {
        Self { wait: true, ..self }
    }
}

/// Why a call has no answer that can be used.
enum CallError {
    /// No node was reached; nothing was sent.
    Unreached(Unreached),
    /// Not executed; a repeat may succeed.
    NotExecuted(String),
    /// Outcome unknown.
    Unknown(String),
    /// Refused, with the code in JSON; a repeat would be refused too.
    Refused(ErrorCode, String),
    /// The change was made; what the call waited for failed.
    Made(String),
}

impl Remote {
    /// Reads the secret; connects only when called.
    ///
    /// # Errors
    /// [`CliError::Usage`] if `--node` has no addresses, [`CliError::Failed`] if the secret file cannot be used.
    pub fn new(common: Common) -> Result<Self, CliError> {
        let nodes = Nodes::parse(&common.node)?;
        let secret = match &common.secret_file {
            Some(path) => secret_file::cluster_secrets(path).map(ClusterSecret::of).map_err(failed)?,
            None => ClusterSecret::none(),
        };
        let declared = declared::text(&common.typed);
        Ok(Self { common, nodes, secret, declared })
    }

    /// What the command says of itself.
    #[must_use]
    pub fn declared(&self) -> &str {
        &self.declared
    }

    /// Whether answers are JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        self.common.output == Output::Json
    }

    /// The product that the command is about.
    #[must_use]
    pub fn product(&self) -> &str {
        self.common.product.as_deref().unwrap_or(DEFAULT_PRODUCT)
    }

    fn timeout(&self) -> Duration {
        self.common.timeout.unwrap_or(if self.common.wait { TIMEOUT_WAIT } else { TIMEOUT })
    }

    async fn call_once<T, F, Fut>(&self, deadline: Instant, call: F) -> Result<T, CallError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = self.nodes.connect(deadline).await.map_err(CallError::Unreached)?;
        let client = AdminClient::with_interceptor(channel, ClientAuth(self.secret.clone()))
            .max_decoding_message_size(ANSWER_LEN_MAX);
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = tokio::time::timeout(left + ANSWER_GRACE, call(client)).await;
        let failed = match answer {
            Ok(Ok(reply)) => return Ok(reply.into_inner()),
            Ok(Err(status)) => judge(&status),
            Err(_) => CallError::Unknown("the node has not answered in time".into()),
        };
        if matches!(failed, CallError::NotExecuted(_) | CallError::Unknown(_)) {
            self.nodes.skip();
        }
        Err(failed)
    }

    /// A call that changes nothing, repeated until there is an answer or the deadline has passed.
    ///
    /// # Errors
    /// [`CliError::Refused`] with the node's refusal, or why there is no answer.
    pub async fn read<T, F, Fut>(&self, call: F) -> Result<T, CliError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.timeout();
        let mut pause = PAUSE;
        loop {
            let why = match self.call_once(deadline, &call).await {
                Ok(reply) => return Ok(reply),
                Err(CallError::Refused(code, why)) => return Err(CliError::Refused(code, why)),
                Err(CallError::Unreached(unreached)) if unreached.certain => return Err(no_node(&unreached)),
                Err(CallError::Unreached(unreached)) => unreached.why,
                Err(CallError::NotExecuted(why) | CallError::Unknown(why) | CallError::Made(why)) => why,
            };
            if Instant::now() + pause >= deadline {
                let text = format!("no answer within {}: {why}", duration::show(self.timeout()));
                return Err(CliError::Refused(ErrorCode::NoAnswer, text));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A new change, under an id of its own.
    #[must_use]
    pub fn attempt(&self, wait: bool) -> Attempt {
        Attempt { id: Uuid::new_v4(), wait, deadline: Instant::now() + self.timeout() }
    }

    /// Makes a change; with `--wait`, returns when the node has waited. Says nothing: see `change::run`.
    ///
    /// # Errors
    /// As [`Remote::send`].
    pub async fn change<F, Fut>(&self, check: &str, call: F) -> Result<ChangeReply, CliError>
    where
        F: Fn(Client, ChangeOptions) -> Fut,
        Fut: Future<Output = Result<Response<ChangeReply>, Status>>,
    {
        self.send(self.attempt(self.common.wait), check, call).await
    }

    /// Sends a change; repeats it under its id if the leader changes. `check` is the command that shows whether the
    /// change was made.
    ///
    /// # Errors
    /// [`CliError::Failed`] or [`CliError::Refused`] only if the change was not executed, [`CliError::Made`] if it was
    /// made, [`CliError::Unknown`] if it may have been executed.
    pub async fn send<F, Fut>(&self, attempt: Attempt, check: &str, call: F) -> Result<ChangeReply, CliError>
    where
        F: Fn(Client, ChangeOptions) -> Fut,
        Fut: Future<Output = Result<Response<ChangeReply>, Status>>,
    {
        let Attempt { id, wait, deadline } = attempt;
        let dry_run = self.common.dry_run;
        let mut pause = PAUSE;
        let mut reached = false;
        let mut unknown: Option<String> = None;
        loop {
            let options = || {
                let left = deadline.saturating_duration_since(Instant::now());
                let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
                let declared = self.declared.clone();
                ChangeOptions { change_id: id.as_bytes().to_vec().into(), dry_run, wait, timeout_ms, declared }
            };
            let why = match self.call_once(deadline, |client| call(client, options())).await {
                Ok(reply) => return Ok(reply),
                Err(CallError::Refused(code, why)) => {
                    return Err(match unknown {
                        // A dry run changes nothing.
                        Some(before) if !dry_run => CliError::Unknown(format!(
                            "outcome unknown: a first call was not answered ({before}), and its repeat was refused: {why}\ncheck with: {check}"
                        )),
                        _ => CliError::Refused(code, why),
                    });
                }
                Err(CallError::Made(why)) => return Err(CliError::Made(why)),
                // At the first call the address is wrong or the node is down: report it without a repeat.
                Err(CallError::Unreached(unreached)) if unreached.certain && !reached => {
                    return Err(no_node(&unreached));
                }
                Err(CallError::Unreached(unreached)) => unreached.why,
                Err(CallError::NotExecuted(why)) => why,
                Err(CallError::Unknown(why)) => {
                    unknown = Some(why.clone());
                    why
                }
            };
            reached = true;
            if Instant::now() + pause >= deadline {
                let within = duration::show(self.timeout());
                return Err(match unknown {
                    Some(before) if !dry_run => {
                        CliError::Unknown(format!("outcome unknown after {within}: {before}\ncheck with: {check}"))
                    }
                    _ => CliError::Refused(
                        ErrorCode::NotExecuted,
                        format!("not executed, gave up after {within}: {why}"),
                    ),
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn no_node(unreached: &Unreached) -> CliError {
    let advice = "start one (pontoon serve, or pontoon playground), or name another with --node HOST:PORT";
    CliError::Refused(ErrorCode::NoNode, format!("{}; {advice}", unreached.why))
}

/// Whether the call was executed, according to its status. proto/admin.proto has the rules, at `ChangeReply`.
fn judge(status: &Status) -> CallError {
    let why = if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
    // The command says it, with the time that it has waited.
    let why = why.strip_prefix("outcome unknown: ").map_or(why.clone(), str::to_owned);
    match status.metadata().get(OUTCOME).map(|outcome| outcome.as_bytes()) {
        Some(b"made") => return CallError::Made(why),
        Some(b"none") if status.code() == Code::Unavailable => return CallError::NotExecuted(why),
        Some(b"none") => return CallError::Refused(code(status), why),
        _ => {}
    }
    match status.code() {
        // A status with a cause was made on this side, by a connection that broke: what the node did is unknown.
        Code::Unavailable if status.source().is_none() => CallError::NotExecuted(why),
        Code::Unavailable
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Internal
        | Code::Aborted => CallError::Unknown(match status.source() {
            Some(cause) => format!("the connection broke: {}", innermost(cause)),
            None => why,
        }),
        Code::Unimplemented => {
            let why = format!("the node has another version and does not know this call: {why}");
            CallError::Refused(code(status), why)
        }
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::DataLoss
        | Code::Unauthenticated => CallError::Refused(code(status), why),
    }
}

/// The code of a refusal in JSON.
fn code(status: &Status) -> ErrorCode {
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => ErrorCode::InvalidArgument,
        Code::NotFound => ErrorCode::NotFound,
        Code::Unauthenticated | Code::PermissionDenied => ErrorCode::Unauthenticated,
        Code::ResourceExhausted => ErrorCode::ResourceExhausted,
        Code::Unimplemented => ErrorCode::OtherVersion,
        _ => ErrorCode::Refused,
    }
}

/// An error and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut chain = vec![error];
    let mut next = error.source();
    while let Some(cause) = next {
        chain.push(cause);
        next = cause.source();
    }
    chain
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}
