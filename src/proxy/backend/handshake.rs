//! Connects and logs in: AUTH, HELLO 3, SELECT, INFO server and CLIENT SETNAME, in one write.
//! Knows nothing of the requests that follow.

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

/// Longest reply to the handshake, in bytes. The longest is the map of HELLO, which lists the modules.
const REPLIES_MAX: usize = 64 * 1024;

const INFO: &str = "INFO server";

/// The server to connect to, and the credentials and settings of the connection.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Login<'a> {
    pub(in crate::proxy) addr: &'a HostPort,
    pub(in crate::proxy) credentials: Option<&'a Credentials>,
    pub(in crate::proxy) db: u32,
    pub(in crate::proxy) version: Version,
    /// Name of the connection, for operators of the server.
    pub(in crate::proxy) name: &'a str,
}

/// Opens a connection that is ready for requests. Returns it with the run id of the server process, which is empty if
/// the server does not report it.
///
/// # Errors
/// Returns why the server cannot be reached or which step it refused, as a text that completes the sentence "server
/// ADDR ...". The text includes the server's error unless that may quote the password.
pub(in crate::proxy) async fn connect(to: Login<'_>) -> io::Result<(TcpStream, String)> {
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
    // Another process may use the address later; only the run id tells them apart.
    write::request(&mut requests, &[b"INFO", b"server"]);
    steps.push(INFO);
    // The name tells operators of the server which node opened the connection; old servers may refuse it.
    write::request(&mut requests, &[b"CLIENT", b"SETNAME", to.name.as_bytes()]);
    steps.push("CLIENT SETNAME");
    stream.write_all(&requests).await?;

    let mut run_id = String::new();
    let mut buffer = Vec::new();
    let mut scanner = ReplyScanner::default();
    for step in steps {
        let len = loop {
            match scanner
                .scan(&buffer)
                .map_err(|e| io::Error::other(format!("sent an invalid reply to {step}: {e}")))?
            {
                Some(len) => break len,
                None if buffer.len() > REPLIES_MAX => {
                    return Err(io::Error::other(format!(
                        "sent a reply to {step} that is longer than {REPLIES_MAX} bytes"
                    )));
                }
                None => {}
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::Error::other(format!("closed the connection at {step}")));
            }
        };
        if step == INFO {
            // A server that refuses INFO can still serve.
            run_id = run_id_of(&buffer[..len]);
        } else if buffer[0] == b'-' && !(step == "CLIENT SETNAME" && is_about_the_name(&buffer[..len])) {
            let text = String::from_utf8_lossy(&buffer[1..len]).trim_end().to_owned();
            // The error of AUTH may contain the password, and this text is sent to clients and logged.
            let text = if step == "AUTH" { repeatable(&text) } else { &text };
            return Err(io::Error::other(format!("refused {step}: {text}")));
        }
        buffer.drain(..len);
    }
    if buffer.is_empty() {
        Ok((stream, run_id))
    } else {
        Err(io::Error::other("sent more replies than there were requests"))
    }
}

/// The run id in a reply to INFO; empty if there is none.
fn run_id_of(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    let run_id = text.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
    run_id.chars().take(RUN_ID_LEN_MAX).collect()
}

/// Whether an error concerns only CLIENT SETNAME: a server that does not know or does not allow the command can still
/// serve. Any other error concerns the connection (missing password, too many clients, protected mode), and the server
/// would not execute requests on it.
fn is_about_the_name(error: &[u8]) -> bool {
    error.starts_with(b"-ERR unknown") || error.starts_with(b"-NOPERM")
}
