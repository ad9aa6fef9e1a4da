//! Calls of the admin API from the command line: deadlines, and retries under one change id.
//! Knows nothing of what the calls mean.

use std::{
    error::Error,
    future::Future,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{
    Code, Response, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use super::{CliError, Common, Output, duration, error::failed};
use crate::{
    config::secret_file,
    model::ids::HostPort,
    wire::{
        OUTCOME,
        auth::{ClientAuth, ClusterSecret},
        pb::admin::{ChangeOptions, ChangeReply, admin_client::AdminClient},
    },
};

/// The generated client with the cluster secret on every call.
pub type Client = AdminClient<InterceptedService<Channel, ClientAuth>>;

/// How long a command tries when `--timeout` does not say (the numbers; the nodes have the same).
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same with `--wait`: a node that is silent is waited for.
const TIMEOUT_WAIT: Duration = Duration::from_secs(300);
/// A node on another continent accepts a connection within this; a host that is off does not answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The node gives up at the deadline and says why; the answer needs a moment more to arrive.
const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// First pause before a repeat; doubled each time up to `PAUSE_MAX`: an election takes about a second.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a repeat.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Largest answer read: 16384 slots, each its own range, take about half a megabyte.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// A cluster as reached through one of its nodes.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The common flags.
    pub common: Common,
    endpoint: Endpoint,
    secret: ClusterSecret,
}

/// How an attempt ended that brought no answer.
enum Attempt {
    /// Nothing was done; a repeat may succeed.
    NotExecuted(String),
    /// It may have been done.
    Unknown(String),
    /// A decision that a repeat will not change.
    Refused(String),
    /// It was done; what was to follow was not seen in time.
    Made(String),
    /// Nobody listens there.
    NobodyThere(String),
}

impl Remote {
    /// Reads the secret; connects only when called.
    ///
    /// # Errors
    /// When the address makes no sense (usage) or the secret file is not as it must be.
    pub fn new(common: Common) -> Result<Self, CliError> {
        let node = HostPort::parse(&common.node).map_err(|e| CliError::Usage(format!("--node: {e}")))?;
        let secret = match &common.secret_file {
            Some(path) => secret_file::cluster_secret(path).map_err(failed)?,
            None => ClusterSecret::none(),
        };
        let endpoint = Endpoint::from_shared(format!("http://{node}"))
            .map_err(|e| CliError::Usage(format!("--node: '{node}' is no address: {e}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .user_agent(concat!("pontoon-cli/", env!("CARGO_PKG_VERSION")))
            .map_err(failed)?;
        Ok(Self { common, endpoint, secret })
    }

    /// Whether answers are JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        self.common.output == Output::Json
    }

    fn timeout(&self) -> Duration {
        self.common.timeout.unwrap_or(if self.common.wait { TIMEOUT_WAIT } else { TIMEOUT })
    }

    async fn connect(&self) -> Result<Client, Attempt> {
        match self.endpoint.connect().await {
            Ok(channel) => Ok(AdminClient::with_interceptor(channel, ClientAuth(self.secret.clone()))
                .max_decoding_message_size(ANSWER_LEN_MAX)),
            Err(e) => {
                let why = innermost(&e);
                if causes(&e).iter().any(|c| {
                    c.downcast_ref::<std::io::Error>()
                        .is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
                }) {
                    Err(Attempt::NobodyThere(why))
                } else {
                    Err(Attempt::NotExecuted(format!("no connection to {}: {why}", self.common.node)))
                }
            }
        }
    }

    async fn attempt<T, F, Fut>(&self, left: Duration, call: F) -> Result<T, Attempt>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let client = match tokio::time::timeout(left, self.connect()).await {
            Ok(connected) => connected?,
            Err(_) => return Err(Attempt::NotExecuted(format!("no connection to {} in time", self.common.node))),
        };
        match tokio::time::timeout(left + ANSWER_GRACE, call(client)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) if self.is_no_node(&status).await => Err(Attempt::Refused(format!(
                "what listens at {} is no admin port of a Pontoon node: --node wants the address of `serve --admin`, not one of clients",
                self.common.node
            ))),
            Ok(Err(status)) => Err(judge(&status)),
            Err(_) => Err(Attempt::Unknown("the node has not answered in time".into())),
        }
    }

    /// Whether the status was made because something else listens there; then nothing can have been executed.
    async fn is_no_node(&self, status: &Status) -> bool {
        if status.source().is_none() {
            // A web server: our nodes know every path of this service, whatever their version.
            return status.code() == Code::Unimplemented && status.message().contains("HTTP status code");
        }
        tokio::time::timeout(CONNECT_TIMEOUT, greeting(&self.common.node))
            .await
            .is_ok_and(|g| g.is_ok_and(|g| g[3] != 4))
    }

    /// A call that changes nothing, repeated until it is answered or the time is over.
    ///
    /// # Errors
    /// What the node refused, or why there is no answer.
    pub async fn read<T, F, Fut>(&self, call: F) -> Result<T, CliError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.timeout();
        let mut pause = PAUSE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let why = match self.attempt(left, &call).await {
                Ok(reply) => return Ok(reply),
                Err(Attempt::Refused(why) | Attempt::Made(why)) => return Err(CliError::Failed(why)),
                Err(Attempt::NobodyThere(why)) => return Err(self.nobody_there(&why)),
                Err(Attempt::NotExecuted(why) | Attempt::Unknown(why)) => why,
            };
            if Instant::now() + pause >= deadline {
                return Err(CliError::Failed(format!("no answer within {}: {why}", duration::show(self.timeout()))));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A change, under a new id; repeated under the same id over a change of leader. `look` is the command that shows
    /// whether it happened.
    ///
    /// # Errors
    /// `Failed` only if it surely did not happen, `Made` if it surely did, `Unknown` if it may have.
    pub async fn change<F, Fut>(&self, look: &str, call: F) -> Result<ChangeReply, CliError>
    where
        F: Fn(Client, ChangeOptions) -> Fut,
        Fut: Future<Output = Result<Response<ChangeReply>, Status>>,
    {
        let id = uuid::Uuid::new_v4();
        let deadline = Instant::now() + self.timeout();
        let mut pause = PAUSE;
        let mut reached = false;
        let mut unknown: Option<String> = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let options = ChangeOptions {
                change_id: id.as_bytes().to_vec().into(),
                dry_run: self.common.dry_run,
                wait: self.common.wait,
                timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
            };
            let why = match self.attempt(left, |client| call(client, options)).await {
                Ok(reply) => return Ok(reply),
                Err(Attempt::Refused(why)) => {
                    return Err(match unknown {
                        // A dry run never does anything.
                        Some(before) if !self.common.dry_run => CliError::Unknown(format!(
                            "outcome unknown: a first attempt was not answered ({before}), and its repeat was refused: {why}\ncheck with: {look}"
                        )),
                        _ => CliError::Failed(why),
                    });
                }
                Err(Attempt::Made(why)) => return Err(CliError::Made(why)),
                // At the first attempt it is a wrong address or a node that is down: tell it at once.
                Err(Attempt::NobodyThere(why)) if !reached => return Err(self.nobody_there(&why)),
                Err(Attempt::NobodyThere(why)) => format!("no connection to {}: {why}", self.common.node),
                Err(Attempt::NotExecuted(why)) => why,
                Err(Attempt::Unknown(why)) => {
                    unknown = Some(why.clone());
                    why
                }
            };
            reached = true;
            if Instant::now() + pause >= deadline {
                let within = duration::show(self.timeout());
                return Err(match unknown {
                    Some(before) if !self.common.dry_run => {
                        CliError::Unknown(format!("outcome unknown after {within}: {before}\ncheck with: {look}"))
                    }
                    _ => CliError::Failed(format!("not executed, given up after {within}: {why}")),
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn nobody_there(&self, why: &str) -> CliError {
        CliError::Failed(format!(
            "no node at {}: {why}; start one (pontoon serve, or pontoon playground), or name another with --node HOST:PORT",
            self.common.node
        ))
    }
}

/// What a status says about whether the call was executed. The contract is in proto/admin.proto, at `ChangeReply`.
fn judge(status: &Status) -> Attempt {
    let why = if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
    match status.metadata().get(OUTCOME).map(|outcome| outcome.as_bytes()) {
        Some(b"made") => return Attempt::Made(why),
        Some(b"none") if status.code() == Code::Unavailable => return Attempt::NotExecuted(why),
        Some(b"none") => return Attempt::Refused(why),
        _ => {}
    }
    match status.code() {
        // With a cause it was made on our side, by a connection that broke: nobody knows what the node did.
        Code::Unavailable if status.source().is_none() => Attempt::NotExecuted(why),
        Code::Unavailable
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Internal
        | Code::Aborted => Attempt::Unknown(match status.source() {
            Some(cause) => format!("the connection broke: {}", innermost(cause)),
            None => why,
        }),
        Code::Unimplemented => {
            Attempt::Refused(format!("the node is of another version and does not know this call: {why}"))
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
        | Code::Unauthenticated => Attempt::Refused(why),
    }
}

/// The first bytes of what a listener says to one who opens HTTP/2. A node begins with a frame of type 4, SETTINGS.
async fn greeting(address: &str) -> std::io::Result<[u8; 4]> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut first = [0; 4];
    stream.read_exact(&mut first).await?;
    Ok(first)
}

/// An error and what caused it, outermost first.
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
