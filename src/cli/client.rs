//! Calls of the admin API from the command line: deadlines, and repeats under one change id.
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

/// How long a command tries without `--timeout`. The nodes have the same limit.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same with `--wait`, which waits for silent nodes.
const TIMEOUT_WAIT: Duration = Duration::from_secs(300);
/// A node on another continent accepts a connection within this time; a host that is off does not answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The node answers at the deadline with the reason; the answer needs a moment to arrive.
const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// First pause before a repeat; doubled each time up to `PAUSE_MAX`: an election takes about a second.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a repeat.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Largest answer read: 16384 slots, each its own range, take about half a megabyte.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// A cluster, reached through one of its nodes.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The common flags.
    pub common: Common,
    endpoint: Endpoint,
    secret: ClusterSecret,
}

/// Why a call has no answer that can be used.
enum Attempt {
    /// Not executed; a repeat may succeed.
    NotExecuted(String),
    /// Outcome unknown.
    Unknown(String),
    /// Refused; a repeat would be refused too.
    Refused(String),
    /// The change was made; what the call waited for failed.
    Made(String),
    /// No process listens at the address.
    ConnectionRefused(String),
}

impl Remote {
    /// Reads the secret; connects only when called.
    ///
    /// # Errors
    /// [`CliError::Usage`] if `--node` is not an address, [`CliError::Failed`] if the secret file cannot be used.
    pub fn new(common: Common) -> Result<Self, CliError> {
        let node = HostPort::parse(&common.node).map_err(|e| CliError::Usage(format!("--node: {e}")))?;
        let secret = match &common.secret_file {
            Some(path) => secret_file::cluster_secret(path).map_err(failed)?,
            None => ClusterSecret::none(),
        };
        let endpoint = Endpoint::from_shared(format!("http://{node}"))
            .map_err(|e| CliError::Usage(format!("--node: '{node}' is not an address: {e}")))?
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
                    Err(Attempt::ConnectionRefused(why))
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
                "what listens at {} is no admin port of a Pontoon node: --node expects the address of `serve --admin`, not a port of clients",
                self.common.node
            ))),
            Ok(Err(status)) => Err(judge(&status)),
            Err(_) => Err(Attempt::Unknown("the node has not answered in time".into())),
        }
    }

    /// Whether the status has its cause in another program that listens there; then nothing can have been executed.
    async fn is_no_node(&self, status: &Status) -> bool {
        if status.source().is_none() {
            // A web server. Nodes of every version know all paths of this service.
            return status.code() == Code::Unimplemented && status.message().contains("HTTP status code");
        }
        tokio::time::timeout(CONNECT_TIMEOUT, greeting(&self.common.node))
            .await
            .is_ok_and(|g| g.is_ok_and(|g| g[3] != 4))
    }

    /// A call that changes nothing, repeated until there is an answer or the deadline has passed.
    ///
    /// # Errors
    /// [`CliError::Failed`] with the node's refusal, or why there is no answer.
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
                Err(Attempt::ConnectionRefused(why)) => return Err(self.no_node(&why)),
                Err(Attempt::NotExecuted(why) | Attempt::Unknown(why)) => why,
            };
            if Instant::now() + pause >= deadline {
                return Err(CliError::Failed(format!("no answer within {}: {why}", duration::show(self.timeout()))));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A change, under a new id; repeated under the same id if the leader changes. `check` is the command that shows whether the
    /// change was made.
    ///
    /// # Errors
    /// [`CliError::Failed`] only if the change was not executed, [`CliError::Made`] if it was made, [`CliError::Unknown`] if it may
    /// have been executed.
    pub async fn change<F, Fut>(&self, check: &str, call: F) -> Result<ChangeReply, CliError>
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
                        // A dry run changes nothing.
                        Some(before) if !self.common.dry_run => CliError::Unknown(format!(
                            "outcome unknown: a first attempt was not answered ({before}), and its repeat was refused: {why}\ncheck with: {check}"
                        )),
                        _ => CliError::Failed(why),
                    });
                }
                Err(Attempt::Made(why)) => return Err(CliError::Made(why)),
                // At the first attempt the address is wrong or the node is down: report it without a repeat.
                Err(Attempt::ConnectionRefused(why)) if !reached => return Err(self.no_node(&why)),
                Err(Attempt::ConnectionRefused(why)) => format!("no connection to {}: {why}", self.common.node),
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
                        CliError::Unknown(format!("outcome unknown after {within}: {before}\ncheck with: {check}"))
                    }
                    _ => CliError::Failed(format!("not executed, gave up after {within}: {why}")),
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn no_node(&self, why: &str) -> CliError {
        CliError::Failed(format!(
            "no node at {}: {why}; start one (pontoon serve, or pontoon playground), or name another with --node HOST:PORT",
            self.common.node
        ))
    }
}

/// Whether the call was executed, according to its status. proto/admin.proto has the rules, at `ChangeReply`.
fn judge(status: &Status) -> Attempt {
    let why = if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
    match status.metadata().get(OUTCOME).map(|outcome| outcome.as_bytes()) {
        Some(b"made") => return Attempt::Made(why),
        Some(b"none") if status.code() == Code::Unavailable => return Attempt::NotExecuted(why),
        Some(b"none") => return Attempt::Refused(why),
        _ => {}
    }
    match status.code() {
        // A status with a cause was made on this side, by a connection that broke: what the node did is unknown.
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
            Attempt::Refused(format!("the node has another version and does not know this call: {why}"))
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

/// The first bytes that a listener sends to a client that opens HTTP/2. A node begins with a frame of type 4, SETTINGS.
async fn greeting(address: &str) -> std::io::Result<[u8; 4]> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut first = [0; 4];
    stream.read_exact(&mut first).await?;
    Ok(first)
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
