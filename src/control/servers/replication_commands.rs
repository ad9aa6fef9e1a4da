//! The commands that make a server follow another one, or make it a primary: sent over the leader's control connections
//! only, with the server's state checked before and after. Knows nothing of which server should follow which.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::{
    fence::{ControlTarget, Fence, FenceError},
    replication_user::{REPLICATION_USER, rewrite_config},
};
use crate::{
    faults::{self, Point},
    model::{ids::HostPort, secret::Credentials},
    redis::{Client, RedisError, ReplicationStatus, Reply},
};

impl Fence {
    /// A server's replication status, asked over the control connection. So no earlier control connection can change
    /// the server from then on.
    ///
    /// # Errors
    /// See [`FenceError`].
    pub async fn replication_status(
        &self,
        at: &ControlTarget,
        deadline: Instant,
    ) -> Result<ReplicationStatus, FenceError> {
        self.with(at, deadline, async |client| Ok(ReplicationStatus::ask(client, deadline).await?)).await
    }

    /// Makes a replica a primary (`REPLICAOF NO ONE`), if `check` accepts its status just before. A server that is a
    /// primary already and passes `check` is left alone. Returns its status afterwards.
    ///
    /// The status is asked before `deadline`. Once the command was sent, its answer may take `response_timeout`
    /// whatever the deadline is: a caller that gives up earlier does not know whether the server is a primary.
    ///
    /// # Errors
    /// See [`FenceError`]. Nothing was done if `check` was not called or failed. Otherwise the outcome is unknown; the
    /// server's status over the next control connection shows it, since nothing that this connection sent is executed
    /// after that.
    pub async fn promote(
        &self,
        at: &ControlTarget,
        check: &(dyn Fn(&ReplicationStatus) -> Result<(), String> + Send + Sync),
        deadline: Instant,
        response_timeout: Duration,
    ) -> Result<ReplicationStatus, FenceError> {
        self.with(at, deadline, async |client| promote(client, check, deadline, response_timeout).await).await
    }

    /// Makes a server a replica of `primary`, where it logs in with these credentials, if `check` succeeds just before
    /// the command is sent. Returns `false` if it was one already.
    ///
    /// # Errors
    /// See [`FenceError`]. After [`FenceError::Refused`] its replication is unchanged.
    pub async fn follow(
        &self,
        at: &ControlTarget,
        (primary, login): (&HostPort, Option<&Credentials>),
        check: &(dyn Fn() -> Result<(), String> + Send + Sync),
        deadline: Instant,
    ) -> Result<bool, FenceError> {
        self.with(at, deadline, async |client| follow(client, at, (primary, login), check, deadline).await).await
    }

    /// Sets the credentials with which a replica logs in at `primary`, if it is one and `check` succeeds. Returns whether
    /// it had others. `of_pontoon`: only if it has those of the replication user.
    ///
    /// # Errors
    /// See [`FenceError`].
    pub async fn login(
        &self,
        at: &ControlTarget,
        (primary, login): (&HostPort, Option<&Credentials>),
        of_pontoon: bool,
        check: &(dyn Fn() -> Result<(), String> + Send + Sync),
        deadline: Instant,
    ) -> Result<bool, FenceError> {
        let login = async |client: &mut Client| {
            let (host, port) = host_and_port(primary);
            if !ReplicationStatus::ask(client, deadline).await?.is_replica_of(host, port) {
                let why = format!("it does not follow {primary}");
                return Err(FenceError::Refused { addr: at.addr.clone(), why });
            }
            check().map_err(|why| FenceError::Refused { addr: at.addr.clone(), why })?;
            if of_pontoon && !has_replication_user(client, deadline).await? {
                return Ok(false);
            }
            credentials(client, login, deadline).await
        };
        self.with(at, deadline, login).await
    }

    /// Makes the server write its present settings to its own configuration file (`CONFIG REWRITE`), so that it has the
    /// same role after a restart. This includes all settings that were changed since it was started, `masterauth` among
    /// them: the password is then in that file, as with Sentinel. The replication user is switched off in the file. Returns
    /// `false` if the server has no such file,
    /// cannot write it, or does not allow the command.
    ///
    /// The server does nothing else in the meantime, and its disk may be slow: do not call this while clients wait in a
    /// hold.
    ///
    /// # Errors
    /// See [`FenceError`]; then it is not known whether the file was written.
    pub async fn save_config(&self, at: &ControlTarget, deadline: Instant) -> Result<bool, FenceError> {
        let rewrite = async |client: &mut Client| match rewrite_config(client, deadline).await {
            Ok(()) => Ok(true),
            Err(error @ (RedisError::NotAllowed { .. } | RedisError::Refused { .. })) => {
                info!(addr = %at.addr, %error, "a server cannot save its configuration");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        };
        self.with(at, deadline, rewrite).await
    }
}

async fn promote(
    client: &mut Client,
    check: &(dyn Fn(&ReplicationStatus) -> Result<(), String> + Send + Sync),
    deadline: Instant,
    response_timeout: Duration,
) -> Result<ReplicationStatus, FenceError> {
    let addr = client.addr().clone();
    let before = ReplicationStatus::ask(client, deadline).await?;
    check(&before).map_err(|why| FenceError::Refused { addr: addr.clone(), why })?;
    if before.follows.is_none() {
        return Ok(before);
    }
    faults::pause_at(Point::BeforePromote).await;
    let deadline = Instant::now() + response_timeout;
    match client.ask(&[b"REPLICAOF", b"NO", b"ONE"], deadline).await {
        Ok(_) => {}
        // An error reply proves that the command had no effect.
        Err(error) if error.answered() => return Err(FenceError::Refused { addr, why: error.to_string() }),
        Err(error) => return Err(error.into()),
    }
    let after = ReplicationStatus::ask(client, deadline).await?;
    if after.follows.is_some() || after.run_id != before.run_id {
        return Err(FenceError::Unexpected { addr, why: "is not a primary after REPLICAOF NO ONE".into() });
    }
    info!(%addr, offset = before.offset, "a replica was promoted");
    Ok(after)
}

async fn follow(
    client: &mut Client,
    at: &ControlTarget,
    (primary, login): (&HostPort, Option<&Credentials>),
    check: &(dyn Fn() -> Result<(), String> + Send + Sync),
    deadline: Instant,
) -> Result<bool, FenceError> {
    let (host, port) = host_and_port(primary);
    let fits = || check().map_err(|why| FenceError::Refused { addr: at.addr.clone(), why });
    let before = ReplicationStatus::ask(client, deadline).await?;
    fits()?;
    // Even if nothing else differs: the group's password may be new, and a link that breaks needs it.
    credentials(client, login, deadline).await?;
    if before.is_replica_of(host, port) {
        return Ok(false);
    }
    // Checked again: the commands in between take time.
    fits()?;
    client.ask(&[b"REPLICAOF", host.as_bytes(), port.to_string().as_bytes()], deadline).await?;
    let after = ReplicationStatus::ask(client, deadline).await?;
    if !after.is_replica_of(host, port) {
        let why = format!("does not follow {primary} after REPLICAOF");
        return Err(FenceError::Unexpected { addr: at.addr.clone(), why });
    }
    info!(addr = %at.addr, %primary, "a server was made to follow its group's primary");
    Ok(true)
}

/// Sets the credentials with which a server logs in to its primary; returns whether it had others. Servers without
/// CONFIG (managed ones) are configured by their operator.
async fn credentials(
    client: &mut Client,
    credentials: Option<&Credentials>,
    deadline: Instant,
) -> Result<bool, FenceError> {
    // Without credentials, those of the replication user are of no use any more.
    if credentials.is_none() && !has_replication_user(client, deadline).await? {
        return Ok(false);
    }
    let Credentials { username, password } = credentials.cloned().unwrap_or_default();
    let user = username.as_deref().unwrap_or_default();
    let mut changed = false;
    for (name, value) in [("masteruser", user), ("masterauth", password.reveal())] {
        let mut differs = false;
        match client.ask(&[b"CONFIG", b"GET", name.as_bytes()], deadline).await {
            Ok(Reply::Array(pair)) => {
                let had = |reply: &Reply| matches!(reply, Reply::Bulk(had) if had[..] == *value.as_bytes());
                if pair.get(1).is_some_and(had) {
                    continue;
                }
                differs = true;
            }
            Ok(_) | Err(RedisError::NotAllowed { .. } | RedisError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match client.ask(&[b"CONFIG", b"SET", name.as_bytes(), value.as_bytes()], deadline).await {
            Ok(_) => changed |= differs,
            Err(RedisError::NotAllowed { .. } | RedisError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(changed)
}

/// Whether a server logs in to its primary with the replication user.
async fn has_replication_user(client: &mut Client, deadline: Instant) -> Result<bool, FenceError> {
    match client.ask(&[b"CONFIG", b"GET", b"masteruser"], deadline).await {
        Ok(Reply::Array(pair)) => Ok(pair.get(1).and_then(Reply::text) == Some(REPLICATION_USER)),
        Ok(_) | Err(RedisError::NotAllowed { .. } | RedisError::Refused { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Host and port as arguments of REPLICAOF: an IPv6 host without its brackets.
#[must_use]
pub fn host_and_port(addr: &HostPort) -> (&str, u16) {
    let host = addr.host();
    (host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host), addr.port())
}
