//! The replication user: the ACL user with which the replicas of a protected group (`plan::restart`) log in at their
//! primary. It is switched on in the memory of the process that the log knows as the primary, and off in every file that
//! Pontoon makes a server write, so that no replica can copy the data of a primary that was restarted before the leader
//! has decided which server has the group's data. Decides nothing.

use tokio::time::Instant;
use tracing::info;

use super::fence::{ControlTarget, Fence, FenceError};
use crate::{
    control::leadership::context::LeaderContext,
    model::{
        ids::{GroupId, HostPort, ProductId},
        secret::{Credentials, Secret},
    },
    plan::restart::is_protected,
    redis::{Client, RedisError, ReplicationStatus, Reply},
};

/// The name of the user.
pub const REPLICATION_USER: &str = "pontoon-replication";

/// The credentials of the replication user of a group: the password is that of the group, which replicas keep in their
/// files as `masterauth` in any case. At servers without a password, where everybody may do everything, any password is
/// accepted; Redis sends none that is empty.
fn replication_credentials(group: Option<&Credentials>) -> Credentials {
    let password = match group.map(|group| &group.password) {
        Some(password) if !password.reveal().is_empty() => password.clone(),
        Some(_) | None => Secret::new(REPLICATION_USER.into()),
    };
    Credentials { username: Some(REPLICATION_USER.into()), password }
}

/// The credentials with which the replicas of a group log in at its primary, `to`; `None`: none. In a protected group
/// this switches the replication user on there.
///
/// # Errors
/// Returns why they are not known, as text for the operator: the primary does not answer, or is not the process that the
/// log knows.
pub async fn login_at_primary(
    ctx: &LeaderContext,
    (product, group): (ProductId, GroupId),
    to: &HostPort,
    deadline: Instant,
) -> Result<Option<Credentials>, String> {
    let state = ctx.consensus.state().borrow().clone();
    let product = state.products.get(&product).ok_or("its product is gone")?;
    let found = product.groups.get(&group).ok_or_else(|| format!("group {group} is gone"))?;
    let own = found.credentials.clone();
    if !is_protected(product) {
        return Ok(own);
    }
    let at = ControlTarget { addr: to.clone(), credentials: own.clone() };
    match ctx.fence.admit_replicas(&at, &found.run_id, deadline).await {
        Ok(true) => Ok(Some(replication_credentials(own.as_ref()))),
        Ok(false) => Ok(own),
        Err(error) => Err(error.to_string()),
    }
}

impl Fence {
    /// Switches the replication user on at a primary, if it is this process. Returns `false` if the server has no ACL, or
    /// does not allow it, or does not report its process, so that a restart would not be noticed.
    ///
    /// # Errors
    /// See [`FenceError`]; [`FenceError::Refused`]: it is no primary, or another process.
    pub async fn admit_replicas(
        &self,
        at: &ControlTarget,
        run_id: &str,
        deadline: Instant,
    ) -> Result<bool, FenceError> {
        let credentials = at.credentials.as_ref();
        self.with(at, deadline, async |client| admit(client, credentials, run_id, deadline).await).await
    }
}

async fn admit(
    client: &mut Client,
    credentials: Option<&Credentials>,
    run_id: &str,
    deadline: Instant,
) -> Result<bool, FenceError> {
    let addr = client.addr().clone();
    let refused = |why: &str| FenceError::Refused { addr: addr.clone(), why: why.into() };
    let status = ReplicationStatus::ask(client, deadline).await?;
    if status.run_id.is_empty() || status.replid.is_empty() {
        return Ok(false);
    }
    if status.follows.is_some() {
        return Err(refused("it is not a primary"));
    }
    if status.run_id != run_id {
        return Err(refused("its present process is not the one that the log knows as the primary"));
    }
    let password = match credentials.map(|group| group.password.reveal()) {
        Some(password) if !password.is_empty() => Secret::new(format!(">{password}")),
        Some(_) | None => Secret::new("nopass".into()),
    };
    let user = REPLICATION_USER.as_bytes();
    let (password, rights) = (password.reveal().as_bytes(), [b"+psync".as_slice(), b"+replconf", b"+ping"]);
    let command = [&[b"ACL".as_slice(), b"SETUSER", user, b"reset", password], rights.as_slice(), &[b"on"]].concat();
    match client.ask(&command, deadline).await {
        Ok(_) => Ok(true),
        // The text may quote the password.
        Err(error) if error.answered() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes a server write its configuration file, and its file of users if it has one, with the replication user switched off
/// in both. Replicas that log in meanwhile try again after a second; links that exist stay.
///
/// # Errors
/// As [`Client::pipeline`], or the server's answer to CONFIG REWRITE, or that to ACL SAVE.
pub(super) async fn rewrite_config(client: &mut Client, deadline: Instant) -> Result<(), RedisError> {
    const SAVE: [&[u8]; 2] = [b"ACL", b"SAVE"];
    const REWRITE: [&[u8]; 2] = [b"CONFIG", b"REWRITE"];
    let user = REPLICATION_USER.as_bytes();
    let on = match client.ask(&[b"ACL", b"GETUSER", user], deadline).await {
        Ok(reply) => has_flag(&reply, "on"),
        Err(error) if error.answered() => false,
        Err(error) => return Err(error),
    };
    let has_users_file = client.config("aclfile", deadline).await?.is_some_and(|file| !file.is_empty());
    let set: [[&[u8]; 4]; 2] = [b"off".as_slice(), b"on"].map(|flag| [b"ACL".as_slice(), b"SETUSER", user, flag]);
    let mut commands: Vec<&[&[u8]]> = Vec::new();
    commands.extend(on.then_some(set[0].as_slice()));
    commands.extend(has_users_file.then_some(SAVE.as_slice()));
    commands.push(&REWRITE);
    commands.extend(on.then_some(set[1].as_slice()));
    // Sent together, so that the server executes all of it even if this node dies.
    let replies = client.pipeline(&commands, deadline).await?;
    let refused = commands.iter().zip(replies).find_map(|(command, reply)| match reply {
        Reply::Error(text) if [&SAVE[..], &REWRITE[..]].contains(command) => Some((*command, text)),
        _ => None,
    });
    refused.map_or(Ok(()), |(command, text)| Err(RedisError::of_request(client.addr(), command, &text)))
}

/// Makes a server save its users: to the file that it has for them, or else to its configuration file. Returns `false` if
/// it has neither, or does not let the control user do it: then it has the former ones after a restart.
///
/// # Errors
/// As [`Client::ask`], except for an answer.
pub async fn save(client: &mut Client, deadline: Instant) -> Result<bool, RedisError> {
    match rewrite_config(client, deadline).await {
        Ok(()) => Ok(true),
        Err(error) if error.answered() => {
            info!(addr = %client.addr(), %error, "a server cannot save its users");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether the answer to ACL GETUSER describes a user that has this flag.
pub(super) fn has_flag(reply: &Reply, flag: &str) -> bool {
    let flags = field(reply, "flags").and_then(Reply::items).unwrap_or_default();
    flags.iter().any(|has| has.text() == Some(flag))
}

/// A field of the answer to ACL GETUSER.
pub(super) fn field<'a>(reply: &'a Reply, name: &str) -> Option<&'a Reply> {
    let fields = reply.items()?;
    let at = fields.iter().position(|field| field.text() == Some(name))?;
    fields.get(at + 1)
}
