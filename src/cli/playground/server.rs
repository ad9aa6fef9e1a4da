//! Checks whether a redis-server answers, and whether it is in sync.
//! Knows only as much RESP as these two requests need.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::CliError;

/// A server on this machine that has not answered within this time is not ready.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Larger than any answer to INFO replication.
const ANSWER_LEN_MAX: u64 = 64 * 1024;

/// The program: the given one, else redis-server or valkey-server on the path.
///
/// # Errors
/// [`CliError::Failed`] if there is none, with the command that installs it.
pub fn find_program(named: Option<&Path>) -> Result<PathBuf, CliError> {
    let is_program =
        |path: &Path| std::process::Command::new(path).arg("--version").output().is_ok_and(|o| o.status.success());
    if let Some(path) = named {
        return if is_program(path) {
            Ok(path.to_owned())
        } else {
            Err(CliError::Failed(format!("--redis-server: {} cannot be run", path.display())))
        };
    }
    ["redis-server", "valkey-server"].into_iter().map(PathBuf::from).find(|p| is_program(p)).ok_or_else(|| {
        CliError::Failed("there is no redis-server on the path; install it (apt-get install redis-server) or name one with --redis-server PATH".into())
    })
}

/// Whether the server on `port` answers PING, and has loaded its data.
pub async fn answers(port: u16) -> bool {
    ask(port, "PING\r\nQUIT\r\n").await.is_some_and(|reply| reply.starts_with("+PONG"))
}

/// Whether the server on `port` is a replica that has its primary's data.
pub async fn in_sync(port: u16) -> bool {
    ask(port, "INFO replication\r\nQUIT\r\n").await.is_some_and(|info| {
        info.lines().any(|l| l == "master_link_status:up") && info.lines().any(|l| l == "master_sync_in_progress:0")
    })
}

async fn ask(port: u16, question: &str) -> Option<String> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(question.as_bytes()).await?;
        let mut reply = String::new();
        stream.take(ANSWER_LEN_MAX).read_to_string(&mut reply).await?;
        std::io::Result::Ok(reply)
    };
    timeout(ANSWER_MAX, talk).await.ok()?.ok()
}
