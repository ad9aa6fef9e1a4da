//! Determines which commands of a failover a server does not let its user run, by trying them in forms that do nothing.
//! Knows nothing of failovers.

use tokio::time::Instant;

use super::{Client, RedisError, Reply};

/// A command of a failover and a form of it that a server refuses or answers without doing anything, after it has
/// checked the permission. (With too few arguments the permission is not checked, and ACL DRYRUN may not be allowed.)
const TRIED: [(&str, &[&[u8]]); 4] = [
    // The client type limits the length of the reply.
    ("CLIENT LIST", &[b"CLIENT", b"LIST", b"TYPE", b"master"]),
    // No connection has this id, the largest. (To Redis 6, 0 means all connections.)
    ("CLIENT KILL", &[b"CLIENT", b"KILL", b"ID", b"9223372036854775807"]),
    // Not a port.
    (REPLICAOF, &[b"REPLICAOF", b"pontoon.invalid", b"none"]),
    (CONFIG_SET, &[b"CONFIG", b"SET", b"pontoon-tries-this", b"1"]),
];

/// Makes a server follow another one, or a primary.
pub const REPLICAOF: &str = "REPLICAOF";
/// Sets the password that a replica uses at its primary.
pub const CONFIG_SET: &str = "CONFIG SET";

/// The commands of a failover that this connection's user may not run, or that the server does not have.
///
/// # Errors
/// As [`Client::pipeline`].
pub async fn missing(client: &mut Client, deadline: Instant) -> Result<Vec<&'static str>, RedisError> {
    let commands = TRIED.map(|(_, command)| command);
    let replies = client.pipeline(&commands, deadline).await?;
    let refused = |reply: &Reply| match reply {
        Reply::Error(text) => text.starts_with("NOPERM") || unknown(text),
        _ => false,
    };
    Ok(TRIED.iter().zip(&replies).filter(|(_, reply)| refused(reply)).map(|((name, _), _)| *name).collect())
}

/// Whether the server does not know the command: it was renamed, or a managed server does not have it.
fn unknown(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.starts_with("err unknown command") || text.starts_with("err unknown subcommand")
}
