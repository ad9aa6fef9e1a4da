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
        login::{Login, LoginOutcome, Naming},
        reply::ReplyScanner,
        write::Version,
    },
};

/// Bytes of all replies to the handshake. HELLO's map is the longest; modules are listed in it.
const REPLIES_MAX: usize = 64 * 1024;

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
    let login = Login {
        version: to.version,
        db: to.db,
        run_id: true,
        naming: Naming::IfSupported,
        ..Login::new(to.credentials.map(|c| (c.username.as_deref(), c.password.reveal())), to.name)
    };
    let mut requests = Vec::new();
    login.steps().into_iter().for_each(|step| login.push(step, &mut requests));
    stream.write_all(&requests).await?;

    let mut run_id = String::new();
    let mut buffer = Vec::new();
    let mut scanner = ReplyScanner::default();
    for step in login.steps() {
        let name = step.name();
        let len = loop {
            match scanner.scan(&buffer).map_err(|e| io::Error::other(format!("answered {name} with rubbish: {e}")))? {
                Some(len) => break len,
                None if buffer.len() > REPLIES_MAX => {
                    return Err(io::Error::other(format!("answers {name} endlessly")));
                }
                None => {}
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::Error::other(format!("closed the connection at {name}")));
            }
        };
        match login.outcome(step, &buffer[..len]) {
            LoginOutcome::RunId(id) => run_id = id.chars().take(RUN_ID_LEN_MAX).collect(),
            LoginOutcome::Refused(text) => {
                // The server may quote the password, and this text reaches clients and the log.
                let text = if step.holds_password() { repeatable(&text) } else { &text };
                return Err(io::Error::other(format!("refused {name}: {text}")));
            }
            LoginOutcome::Accepted | LoginOutcome::ClientId(_) | LoginOutcome::Malformed => {}
        }
        buffer.drain(..len);
    }
    if buffer.is_empty() { Ok((stream, run_id)) } else { Err(io::Error::other("answers what nobody asked")) }
}
