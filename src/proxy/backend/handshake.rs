//! Connects and logs in: AUTH, HELLO 3, SELECT, INFO server, CLIENT SETNAME and CLIENT ID as the control user in one write;
//! then AUTH as the data user, which may do less.
//! Knows nothing of the requests that follow.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

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
        login::{Login, LoginOutcome, LoginStep, Naming},
        reply::ReplyScanner,
        write::Version,
    },
};

/// A connection without requests whose server's machine has failed is detected after about this time: before a firewall
/// forgets it, and before it is closed as idle.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Bytes that the kernel may hold without having sent them. Bytes that move over a slow link are then seen as progress
/// several times a second from 300 KB/s on; with the kernel's default of some MB a request would stand still for seconds. It
/// also keeps requests where a hold can cut them off.
const UNSENT_MAX: u32 = 128 * 1024;

/// Longest reply to the handshake, in bytes. The longest is the map of HELLO, which lists the modules.
const REPLIES_MAX: usize = 64 * 1024;

/// The server to connect to, and the credentials and settings of the connection.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct LoginTarget<'a> {
    pub(in crate::proxy) addr: &'a HostPort,
    pub(in crate::proxy) control: Option<&'a Credentials>,
    /// `None`: the connection stays the control user.
    pub(in crate::proxy) data: Option<&'a Credentials>,
    pub(in crate::proxy) db: u32,
    pub(in crate::proxy) version: Version,
    /// Name of the connection, for operators of the server.
    pub(in crate::proxy) name: &'a str,
    /// Whether the connection's id is asked for; then its name is required, too: others must find it.
    pub(in crate::proxy) client_id: bool,
}

/// A connection that is ready for requests.
#[derive(Debug)]
pub(in crate::proxy) struct Connected {
    pub(in crate::proxy) stream: TcpStream,
    /// Run id of the server process; empty if the server does not report it.
    pub(in crate::proxy) run_id: String,
    /// Its id at the server, if it was asked for.
    pub(in crate::proxy) client_id: u64,
}

/// User name and password, as [`Login`] takes them.
fn parts(credentials: &Credentials) -> (Option<&str>, &str) {
    (credentials.username.as_deref(), credentials.password.reveal())
}

/// Opens a connection that is ready for requests.
///
/// # Errors
/// Returns why the server cannot be reached or which step it refused, as a text that completes the sentence "server
/// ADDR ...". The text includes the server's error unless that may quote the password. `PermissionDenied`: the server
/// refuses the data user.
pub(in crate::proxy) async fn connect(to: LoginTarget<'_>) -> io::Result<Connected> {
    let mut stream = resolver::connect(to.addr).await?;
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    let socket = socket2::SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    // Where the kernel does not know it, progress is seen later.
    let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX);
    let login = Login {
        version: to.version,
        db: to.db,
        run_id: true,
        naming: if to.client_id { Naming::Required } else { Naming::IfSupported },
        client_id: to.client_id,
        become_user: to.data.map(parts),
        ..Login::new(to.control.map(parts), to.name)
    };
    let (at_once, alone): (Vec<_>, Vec<_>) =
        login.steps().into_iter().partition(|step| !step.is_unanswered_behind_others());
    let mut requests = Vec::new();
    at_once.iter().for_each(|step| login.push(*step, &mut requests));
    stream.write_all(&requests).await?;

    let (mut run_id, mut client_id) = (String::new(), 0);
    let mut buffer = Vec::new();
    let mut scanner = ReplyScanner::default();
    for step in at_once.into_iter().chain(alone) {
        if step.is_unanswered_behind_others() {
            requests.clear();
            login.push(step, &mut requests);
            stream.write_all(&requests).await?;
        }
        let name = step.name();
        let len = loop {
            match scanner
                .scan(&buffer)
                .map_err(|e| io::Error::other(format!("sent an invalid reply to {name}: {e}")))?
            {
                Some(len) => break len,
                None if buffer.len() > REPLIES_MAX => {
                    return Err(io::Error::other(format!(
                        "sent a reply to {name} that is longer than {REPLIES_MAX} bytes"
                    )));
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
                let kind = if step == LoginStep::Become { ErrorKind::PermissionDenied } else { ErrorKind::Other };
                return Err(io::Error::new(kind, format!("refused {name}: {text}")));
            }
            LoginOutcome::ClientId(id) => client_id = id,
            LoginOutcome::Accepted | LoginOutcome::Malformed => {}
        }
        buffer.drain(..len);
    }
    if buffer.is_empty() {
        Ok(Connected { stream, run_id, client_id })
    } else {
        Err(io::Error::other("sent more replies than there were requests"))
    }
}
