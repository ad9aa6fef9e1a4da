//! What a leader does at servers to make one follow another, or nobody: over its control connections only, looking before and
//! after. Knows nothing of who should follow whom.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::fence::{ControlTarget, Fence, FenceError};
use crate::{
    faults::{self, Point},
    model::{
        ids::HostPort,
        secret::{Credentials, Secret},
    },
    redis::{Client, RedisError, ReplicationStatus, Reply},
};

impl Fence {
    /// Where a server stands, asked over the control connection: whoever opened one before can change nothing there any more.
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

    /// Makes a replica a primary (`REPLICAOF NO ONE`), if `check` finds nothing wrong with where it stands just before. One
    /// that is a primary already, and passes, is left alone. Where it stands afterwards.
    ///
    /// It is probed at before `deadline`; once it was told, its answer may take `response_timeout`, whatever the deadline says: who goes
    /// away then does not know what it is.
    ///
    /// # Errors
    /// See [`FenceError`]; nothing was done if `check` was not called or refused. Otherwise it is not known: whoever asks it
    /// over the next control connection learns it, since nothing that this one sent is executed after that.
    pub async fn promote(
        &self,
        at: &ControlTarget,
        check: &(dyn Fn(&ReplicationStatus) -> Result<(), String> + Send + Sync),
        deadline: Instant,
        response_timeout: Duration,
    ) -> Result<ReplicationStatus, FenceError> {
        self.with(at, deadline, async |client| promote(client, check, deadline, response_timeout).await).await
    }

    /// Makes a server a replica of `primary`, with the group's credentials, if `check` finds nothing wrong just before it is
    /// told. False: it was one already.
    ///
    /// # Errors
    /// See [`FenceError`]; with [`FenceError::Refused`] it follows whom it followed.
    pub async fn follow(
        &self,
        at: &ControlTarget,
        primary: &HostPort,
        check: &(dyn Fn() -> Result<(), String> + Send + Sync),
        deadline: Instant,
    ) -> Result<bool, FenceError> {
        self.with(at, deadline, async |client| follow(client, at, primary, check, deadline).await).await
    }

    /// Gives a replica of `primary` the group's credentials again, if it is one and `check` finds nothing wrong. Whether it had
    /// others.
    ///
    /// # Errors
    /// See [`FenceError`].
    pub async fn login(
        &self,
        at: &ControlTarget,
        primary: &HostPort,
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
            credentials(client, at.credentials.as_ref(), deadline).await
        };
        self.with(at, deadline, login).await
    }

    /// Has the server write into its own configuration file what it is now (`CONFIG REWRITE`), so that it is that again after a
    /// restart. With it go all settings that it was given since it was started, `masterauth` too: the password is then in
    /// that file, readable to whoever may read it, as with Sentinel. False: it has no such file, may not write it, or does
    /// not let us.
    ///
    /// The server does nothing else meanwhile, and its disk may be slow: never while clients wait in a hold.
    ///
    /// # Errors
    /// See [`FenceError`]; then it is not known whether it was written.
    pub async fn save_config(&self, at: &ControlTarget, deadline: Instant) -> Result<bool, FenceError> {
        let rewrite = async |client: &mut Client| match client.ask(&[b"CONFIG", b"REWRITE"], deadline).await {
            Ok(_) => Ok(true),
            Err(error @ (RedisError::NotAllowed { .. } | RedisError::Refused { .. })) => {
                info!(addr = %at.addr, %error, "a server cannot keep in its configuration file what it is now");
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
    faults::pause_at(Point::PromotionSent).await;
    let deadline = Instant::now() + response_timeout;
    match client.ask(&[b"REPLICAOF", b"NO", b"ONE"], deadline).await {
        Ok(_) => {}
        // An error is an answer: it did nothing.
        Err(error) if error.answered() => return Err(FenceError::Refused { addr, why: error.to_string() }),
        Err(error) => return Err(error.into()),
    }
    let after = ReplicationStatus::ask(client, deadline).await?;
    if after.follows.is_some() || after.run_id != before.run_id {
        return Err(FenceError::Unexpected { addr, why: "is no primary after REPLICAOF NO ONE".into() });
    }
    info!(%addr, offset = before.offset, "a replica is a primary now");
    Ok(after)
}

async fn follow(
    client: &mut Client,
    at: &ControlTarget,
    primary: &HostPort,
    check: &(dyn Fn() -> Result<(), String> + Send + Sync),
    deadline: Instant,
) -> Result<bool, FenceError> {
    let (host, port) = host_and_port(primary);
    let fits = || check().map_err(|why| FenceError::Refused { addr: at.addr.clone(), why });
    let before = ReplicationStatus::ask(client, deadline).await?;
    fits()?;
    // Also where nothing else differs: the group's password may be new, and a link that breaks needs it.
    credentials(client, at.credentials.as_ref(), deadline).await?;
    if before.is_replica_of(host, port) {
        return Ok(false);
    }
    // Again: what was asked in between takes its time.
    fits()?;
    client.ask(&[b"REPLICAOF", host.as_bytes(), port.to_string().as_bytes()], deadline).await?;
    let after = ReplicationStatus::ask(client, deadline).await?;
    if !after.is_replica_of(host, port) {
        let why = format!("does not follow {primary} after REPLICAOF");
        return Err(FenceError::Unexpected { addr: at.addr.clone(), why });
    }
    info!(addr = %at.addr, %primary, "a server follows its group's primary now");
    Ok(true)
}

/// What it logs in to its primary with; whether it had something else. Servers without CONFIG (managed ones) are set up for
/// that by whoever runs them.
async fn credentials(
    client: &mut Client,
    credentials: Option<&Credentials>,
    deadline: Instant,
) -> Result<bool, FenceError> {
    let Some(Credentials { username, password }) = credentials else { return Ok(false) };
    let user = username.as_deref().unwrap_or_default();
    let password: &Secret = password;
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

/// As REPLICAOF takes them: an IPv6 host without its brackets.
#[must_use]
pub fn host_and_port(addr: &HostPort) -> (&str, u16) {
    let host = addr.host();
    (host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host), addr.port())
}
