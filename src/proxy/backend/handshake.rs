//! Connects and logs in: AUTH, HELLO 3, SELECT, INFO server, CLIENT SETNAME, in one write.
//! Knows nothing of the requests that will follow.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    model::{
        ids::HostPort,
        limits::RUN_ID_LEN_MAX,
        secret::{Credentials, repeatable},
    },
    resolver,
    resp::{
        reply::ReplyScanner,
        write::{self, Version},
    },
};

/// Bytes of all replies to the handshake. HELLO's map is the longest; modules are listed in it.
const REPLIES_MAX: usize = 64 * 1024;

const INFO: &str = "INFO server";

/// Whom to connect to, and as whom.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct LogIn<'a> {
    pub(in crate::proxy) addr: &'a HostPort,
    pub(in crate::proxy) credentials: Option<&'a Credentials>,
    pub(in crate::proxy) db: u32,
    pub(in crate::proxy) version: Version,
    /// Of the connection, for operators of the server.
    pub(in crate::proxy) name: &'a str,
}

/// A connection that is ready for requests, and the run id of the process behind it; empty: it does not tell.
///
/// # Errors
/// Not reachable, or the server refused one of the steps; the text of the server is in the error, unless it may quote the password.
pub(in crate::proxy) async fn connect(to: LogIn<'_>) -> io::Result<(TcpStream, String)> {
    let mut stream = resolver::connect(to.addr).await?;
    stream.set_nodelay(true)?;
    let mut requests = Vec::new();
    let mut steps: Vec<&str> = Vec::new();
    if let Some(credentials) = to.credentials {
        let password = credentials.password.reveal().as_bytes();
        match &credentials.username {
            Some(user) => write::request(&mut requests, &[b"AUTH", user.as_bytes(), password]),
            None => write::request(&mut requests, &[b"AUTH", password]),
        }
        steps.push("AUTH");
    }
    if to.version == Version::Resp3 {
        write::request(&mut requests, &[b"HELLO", b"3"]);
        steps.push("HELLO 3");
    }
    if to.db != 0 {
        write::request(&mut requests, &[b"SELECT", to.db.to_string().as_bytes()]);
        steps.push("SELECT");
    }
    // An address may have another process behind it tomorrow: what one was told, the next does not know.
    write::request(&mut requests, &[b"INFO", b"server"]);
    steps.push(INFO);
    // The name tells an operator of the server whose connection it is; old servers may refuse it.
    write::request(&mut requests, &[b"CLIENT", b"SETNAME", to.name.as_bytes()]);
    steps.push("CLIENT SETNAME");
    stream.write_all(&requests).await?;

    let mut run_id = String::new();
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
        if step == INFO {
            // Who refuses it serves all the same.
            run_id = run_id_of(&buffer[..len]);
        } else if buffer[0] == b'-' && !(step == "CLIENT SETNAME" && is_about_the_name(&buffer[..len])) {
            let text = String::from_utf8_lossy(&buffer[1..len]).trim_end().to_owned();
            // It holds the password, perhaps: clients and the log are told of this.
            let text = if step == "AUTH" { repeatable(&text) } else { &text };
            return Err(io::Error::other(format!("refused {step}: {text}")));
        }
        buffer.drain(..len);
    }
    if buffer.is_empty() { Ok((stream, run_id)) } else { Err(io::Error::other("answers what nobody asked")) }
}

/// The run id in an answer to INFO; empty: there is none.
fn run_id_of(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    let run_id = text.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
    run_id.chars().take(RUN_ID_LEN_MAX).collect()
}

/// A server may not know the command or not allow it, and serve all the same. Anything else it says here is about the
/// connection: a password is missing, too many clients, protected mode. What is sent over it would not be executed.
fn is_about_the_name(error: &[u8]) -> bool {
    error.starts_with(b"-ERR unknown") || error.starts_with(b"-NOPERM")
}
