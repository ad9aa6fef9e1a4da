//! Connects and logs in: AUTH, HELLO 3, SELECT, at a replica INFO, CLIENT SETNAME, in one write.
//! Knows nothing of the requests that will follow.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Backend;
use crate::{
    model::ids::NodeId,
    resp::{
        reply::ReplyScanner,
        write::{self, Version},
    },
};

/// Bytes of all replies to the handshake. HELLO's map is the longest; modules are listed in it.
const REPLIES_MAX: usize = 64 * 1024;

/// A connection that is ready for requests.
///
/// # Errors
/// Not reachable, or the server refused one of the steps; the text of the server is in the error, never a password.
pub(super) async fn connect(backend: &Backend, node: NodeId) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(backend.addr.as_str()).await?;
    stream.set_nodelay(true)?;
    let mut requests = Vec::new();
    let mut steps: Vec<&str> = Vec::new();
    if let Some(credentials) = &backend.credentials {
        let password = credentials.password.reveal().as_bytes();
        match &credentials.username {
            Some(user) => write::request(&mut requests, &[b"AUTH", user.as_bytes(), password]),
            None => write::request(&mut requests, &[b"AUTH", password]),
        }
        steps.push("AUTH");
    }
    if backend.version == Version::Resp3 {
        write::request(&mut requests, &[b"HELLO", b"3"]);
        steps.push("HELLO 3");
    }
    if backend.db != 0 {
        write::request(&mut requests, &[b"SELECT", backend.db.to_string().as_bytes()]);
        steps.push("SELECT");
    }
    if backend.replica {
        write::request(&mut requests, &[b"INFO", b"server"]);
        steps.push(WHO);
    }
    // The name tells an operator of the server whose connection it is; old servers may refuse it.
    write::request(&mut requests, &[b"CLIENT", b"SETNAME", format!("pontoon:{node}").as_bytes()]);
    steps.push("CLIENT SETNAME");
    stream.write_all(&requests).await?;

    let mut buffer = Vec::new();
    let mut scanner = ReplyScanner::default();
    for step in steps {
        let len = loop {
            match scanner.scan(&buffer).map_err(|e| io::Error::other(format!("answered {step} with rubbish: {e}")))? {
                Some(len) => break len,
                None if buffer.len() > REPLIES_MAX => {
                    return Err(io::Error::other(format!("answers {step} endlessly")));
                }
                None => {}
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::Error::other(format!("closed the connection at {step}")));
            }
        };
        if buffer[0] == b'-' && !(step == "CLIENT SETNAME" && is_about_the_name(&buffer[..len])) {
            let text = String::from_utf8_lossy(&buffer[1..len]).trim_end().to_owned();
            return Err(io::Error::other(format!("refused {step}: {text}")));
        }
        if step == WHO && !is_process(&buffer[..len], &backend.process.borrow()) {
            return Err(io::Error::other("was started anew and has not been looked at since"));
        }
        buffer.drain(..len);
    }
    if buffer.is_empty() { Ok(stream) } else { Err(io::Error::other("answers what nobody asked")) }
}

/// Which process it is.
const WHO: &str = "INFO server";

/// Whether INFO is of the process with this `run_id`.
fn is_process(info: &[u8], run_id: &str) -> bool {
    let lines = info.split(|c| *c == b'\n').filter_map(|line| line.strip_prefix(b"run_id:"));
    !run_id.is_empty() && lines.map(<[u8]>::trim_ascii_end).any(|id| id == run_id.as_bytes())
}

/// A server may not know the command or not allow it, and serve all the same. Anything else it says here is about the
/// connection: a password is missing, too many clients, protected mode. What is sent over it would not be executed.
fn is_about_the_name(error: &[u8]) -> bool {
    error.starts_with(b"-ERR unknown") || error.starts_with(b"-NOPERM")
}
