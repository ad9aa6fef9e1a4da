//! The nodes that `--node` names, and which of them answers.
//! Knows nothing of calls.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

use super::CliError;
use crate::{model::ids::HostPort, resolver};

/// A node on another continent answers within this time; a host that is off does not answer at all.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How often a node that works on a call is asked whether it still lives: a call with --wait takes minutes.
const ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// The first frame that a node sends: type SETTINGS (RFC 9113, 6.5), in the fourth byte.
const SETTINGS: u8 = 4;

/// The nodes of `--node`, at least one, and which of them is asked now.
#[derive(Debug)]
pub struct Nodes {
    all: Vec<HostPort>,
    now: AtomicUsize,
}

/// Why no node was reached; nothing was sent.
pub struct Unreached {
    /// One reason for each node, for people.
    pub why: String,
    /// No node will answer in a moment either: there is no such name, or nothing listens at the address.
    pub certain: bool,
}

/// Why one node was not reached.
enum Silence {
    /// No answer, for this reason. One may come later.
    Late(&'static str),
    /// The system says why.
    Refused(io::Error),
    /// Something else listens there.
    NoNode,
}

impl Nodes {
    /// Addresses with commas between.
    ///
    /// # Errors
    /// [`CliError::Usage`] with the first part that is no address.
    pub fn parse(text: &str) -> Result<Self, CliError> {
        let parse = |part: &str| HostPort::parse(part.trim()).map_err(|e| CliError::Usage(format!("--node: {e}")));
        Ok(Self { all: text.split(',').map(parse).collect::<Result<_, _>>()?, now: AtomicUsize::new(0) })
    }

    /// The node that is asked now.
    pub fn current(&self) -> &HostPort {
        // A list that was split has a first part.
        &self.all[self.now.load(Ordering::Relaxed) % self.all.len()]
    }

    /// Lets the next node be asked, since the present one has no answer.
    pub fn skip(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    /// Opens a channel to the first node, from the present one on, that answers before the deadline.
    ///
    /// # Errors
    /// No node answers. Nothing was sent.
    pub async fn connect(&self, deadline: Instant) -> Result<Channel, Unreached> {
        let mut reasons = Vec::new();
        let mut certain = true;
        for others in (0..self.all.len()).rev() {
            let node = self.current();
            let left = deadline.saturating_duration_since(Instant::now());
            // Each node that follows needs its share of the time.
            let silence = match answers(node, left / (others as u32 + 1)).await {
                Ok(address) => match channel(node, address).await {
                    Ok(channel) => return Ok(channel),
                    Err(error) => Silence::Refused(error),
                },
                Err(silence) => silence,
            };
            certain &= !matches!(silence, Silence::Late(_));
            reasons.push(match silence {
                Silence::Late(why) => format!("no connection to {node}: {why}"),
                Silence::Refused(error) => format!("no node at {node}: {error}"),
                Silence::NoNode => format!(
                    "what listens at {node} is no admin port of a Pontoon node: --node expects the address of `serve \
                     --admin`, not a port of clients"
                ),
            });
            self.skip();
        }
        Err(Unreached { why: reasons.join("; "), certain })
    }
}

/// Whether a node answers at the address: a process that was stopped accepts connections too, and so do other programs.
/// Returns the address to which its name was resolved.
async fn answers(node: &HostPort, left: Duration) -> Result<SocketAddr, Silence> {
    // How long a look-up takes is for the resolver of this machine to say.
    let late = |_| Silence::Late("its name is not resolved in time");
    let found = timeout(left, resolver::resolve(node)).await.map_err(late)?.map_err(Silence::Refused)?;
    let late = |_| Silence::Late("no answer in time");
    timeout(left.min(ANSWER_MAX), greet(&found)).await.map_err(late)?
}

async fn greet(found: &[SocketAddr]) -> Result<SocketAddr, Silence> {
    let mut stream = TcpStream::connect(found).await.map_err(|e| match e.kind() {
        io::ErrorKind::TimedOut => Silence::Late("no answer in time"),
        _ => Silence::Refused(e),
    })?;
    let address = stream.peer_addr().map_err(Silence::Refused)?;
    let mut first = [0; 4];
    let greeting = async {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        stream.read_exact(&mut first).await
    };
    // A node that stops, or has too many connections, closes this one.
    greeting.await.map_err(|_| Silence::Late("it closed the connection"))?;
    if first[3] == SETTINGS { Ok(address) } else { Err(Silence::NoNode) }
}

async fn channel(node: &HostPort, address: SocketAddr) -> io::Result<Channel> {
    let endpoint = |text: String| Endpoint::from_shared(text).map_err(io::Error::other);
    let origin = endpoint(format!("http://{node}"))?.uri().clone();
    let endpoint = endpoint(format!("http://{address}"))?
        .origin(origin)
        .connect_timeout(ANSWER_MAX)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(ALIVE_INTERVAL)
        .keep_alive_timeout(ANSWER_MAX)
        .user_agent(concat!("pontoon-cli/", env!("CARGO_PKG_VERSION")))
        .map_err(io::Error::other)?;
    endpoint.connect().await.map_err(io::Error::other)
}
