//! Changes the credentials of a group's control user at a server: adds the new password, gives it to the server's own link to
//! its primary, and removes the former one when nodes no longer need it. Decides nothing.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::info;

use super::{
    fence::{ControlTarget, Fence, FenceError},
    replication_user::{REPLICATION_USER, field, has_flag, save},
};
use crate::{
    control::leadership::context::LeaderContext,
    faults::{self, Point},
    model::{
        ids::{Epoch, HostPort},
        secret::{Credentials, Secret},
        state::Group,
    },
    redis::{Client, RedisError, Reply},
};

/// The name of connections that only find out whether a server accepts credentials.
const CHECK: &str = "pt:check-login";
/// How long one server may take for its answers; one that takes longer is tried again.
const ACT_MAX: Duration = Duration::from_secs(2);

/// The credentials of a control user before and after a change.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Those before; `None`: servers accept everybody.
    pub former: Option<&'a Credentials>,
    /// The new ones.
    pub new: &'a Credentials,
}

impl Rotation<'_> {
    /// Whether both are of the same user. The password of another user is the operator's.
    #[must_use]
    pub fn same_user(&self) -> bool {
        self.former.map_or("default", Credentials::user) == self.new.user()
    }
}

/// Whether a server accepts these credentials; `None`: a connection without any.
///
/// # Errors
/// As [`Client::connect`], except for a refusal.
pub async fn accepts(
    addr: &HostPort,
    credentials: Option<&Credentials>,
    deadline: Instant,
) -> Result<bool, RedisError> {
    match Client::connect(addr, credentials, CHECK, deadline).await {
        Ok(_) => Ok(true),
        Err(RedisError::WrongPassword { .. } | RedisError::PasswordNeeded { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a server accept the new credentials, besides the former ones, and save that if it can.
///
/// # Errors
/// As [`Client::ask`]. [`RedisError::WrongPassword`]: the new credentials are of another user, and the server refuses them.
pub async fn add(client: &mut Client, rotation: Rotation<'_>, deadline: Instant) -> Result<(), RedisError> {
    let Rotation { former, new } = rotation;
    if accepts(client.addr(), Some(new), deadline).await? {
        return Ok(());
    }
    if former.is_none() || !rotation.same_user() {
        let text = format!("it does not accept the user '{}' with this password", new.user());
        return Err(RedisError::WrongPassword { addr: client.addr().clone(), text });
    }
    let password = format!(">{}", new.password.reveal());
    client.ask(&[b"ACL", b"SETUSER", new.user().as_bytes(), password.as_bytes()], deadline).await?;
    save(client, deadline).await.map(|_| ())
}

/// Lets a server that logs in to its primary with the former credentials do so with the new ones.
async fn follow_with(client: &mut Client, rotation: Rotation<'_>, deadline: Instant) -> Result<(), RedisError> {
    let Rotation { former, new } = rotation;
    let (user, password) = (client.config("masteruser", deadline).await?, client.config("masterauth", deadline).await?);
    // Servers without CONFIG are configured by their operator.
    let (Some(user), Some(password)) = (user, password) else { return Ok(()) };
    let expected = former.map_or("", |former| former.password.reveal());
    let known_user = user.is_empty() || former.is_some_and(|former| former.user() == user);
    if user == REPLICATION_USER || !known_user || password != expected {
        return Ok(());
    }
    let user = new.username.as_deref().unwrap_or_default();
    for (setting, value) in [("masteruser", user), ("masterauth", new.password.reveal())] {
        client.ask(&[b"CONFIG", b"SET", setting.as_bytes(), value.as_bytes()], deadline).await?;
    }
    Ok(())
}

/// Removes the former password at a server that accepts the new one, and saves that. Passwords that are neither of the two
/// stay. If the server does not let the control user do this, the operator has to.
///
/// # Errors
/// As [`Client::ask`]: the server may still accept the former password.
async fn remove(client: &mut Client, rotation: Rotation<'_>, deadline: Instant) -> Result<(), RedisError> {
    let Rotation { former, new } = rotation;
    // The log has no such change; it would take the only password away.
    let same_password = former.is_some_and(|former| former.password == new.password);
    if !rotation.same_user() || same_password {
        return Ok(());
    }
    let user = new.user();
    if accepts(client.addr(), former, deadline).await? {
        let required = client.config("requirepass", deadline).await?;
        let by_setting = user == "default" && required.is_some_and(|now| former.is_none() || !now.is_empty());
        if by_setting {
            set_requirepass(client, rotation, deadline).await?;
        } else {
            let at_server = client.ask(&[b"ACL", b"GETUSER", user.as_bytes()], deadline).await?;
            let change = match former {
                Some(former) if !has_flag(&at_server, "nopass") => format!("<{}", former.password.reveal()),
                // This also ends that any password is accepted.
                Some(_) | None => format!(">{}", new.password.reveal()),
            };
            client.ask(&[b"ACL", b"SETUSER", user.as_bytes(), change.as_bytes()], deadline).await?;
        }
    }
    // Also if it was removed before: the node that did so may have ended before the server saved it.
    save(client, deadline).await.map(|_| ())
}

/// Sets `requirepass`, which the server writes to its configuration file. That alone would remove all other passwords of the
/// user `default`, so those that are not the former one are given to it again in the same transaction.
async fn set_requirepass(client: &mut Client, rotation: Rotation<'_>, deadline: Instant) -> Result<(), RedisError> {
    let Rotation { former, new } = rotation;
    let user = client.ask(&[b"ACL", b"GETUSER", b"default"], deadline).await?;
    let hashes = [Some(new), former].map(|credentials| credentials.map(|c| password_hash(&c.password)));
    let mut others: Vec<String> = passwords(&user).into_iter().map(|hash| format!("#{hash}")).collect();
    others.retain(|other| hashes.iter().flatten().all(|hash| other[1..] != *hash));
    let set = [b"CONFIG".as_slice(), b"SET", b"requirepass", new.password.reveal().as_bytes()];
    let mut add = vec![b"ACL".as_slice(), b"SETUSER", b"default"];
    add.extend(others.iter().map(String::as_bytes));
    let commands: [&[&[u8]]; 4] = [&[b"MULTI"], &set, &add, &[b"EXEC"]];
    let replies = client.pipeline(&commands, deadline).await?;
    let results = replies.last().and_then(Reply::items).unwrap_or_default();
    let error = replies.iter().chain(results).find_map(|reply| match reply {
        Reply::Error(text) => Some(text),
        _ => None,
    });
    error.map_or(Ok(()), |text| Err(RedisError::of_request(client.addr(), &set, text)))
}

/// The SHA-256 of a password in hexadecimal digits, as ACL GETUSER shows it and ACL SETUSER takes it.
pub(super) fn password_hash(password: &Secret) -> String {
    Sha256::digest(password.reveal()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hashes of a user's passwords in the answer to ACL GETUSER.
fn passwords(user: &Reply) -> Vec<String> {
    let hashes = field(user, "passwords").and_then(Reply::items).unwrap_or_default();
    hashes.iter().filter_map(Reply::text).map(str::to_owned).collect()
}

/// Makes all servers of a group use its new credentials, and then removes the former ones at each.
///
/// # Errors
/// Returns what is missing, as text for the operator. What was done stays done, and is done again the next time.
pub async fn remove_former(ctx: &LeaderContext, group: &Group, replaced_at: Epoch) -> Result<(), String> {
    let (Some(former), Some(new)) = (&group.former, &group.credentials) else { return Err("it is removed".into()) };
    if former.at != replaced_at {
        return Err("it has been replaced again".into());
    }
    let rotation = Rotation { former: former.credentials.as_ref(), new };
    let targets = || group.servers.iter().map(|server| at_server(group, &server.addr));
    // First at all of them: a replica whose primary has no former password any more needs the new one. One that does not
    // answer keeps no other one, which was restarted with the former password, from getting the new one again.
    let mut missing = None;
    for at in targets() {
        let taken = ctx.fence.take_credentials(&at, rotation, Instant::now() + ACT_MAX).await;
        missing = missing.or(taken.err());
    }
    if let Some(error) = missing {
        return Err(error.to_string());
    }
    if let Some(node) = ctx.leases.behind(replaced_at) {
        return Err(format!("node {node} does not use the new one yet"));
    }
    faults::pause_at(Point::FormerCredentials).await;
    for at in targets() {
        let removed = ctx.fence.remove_former_password(&at, rotation, Instant::now() + ACT_MAX).await;
        removed.map_err(|error| match error {
            FenceError::Server(error @ (RedisError::NotAllowed { .. } | RedisError::Refused { .. })) => format!(
                "{error}; remove it there yourself (ACL SETUSER {} <FORMER, then ACL SAVE or CONFIG REWRITE)",
                new.user()
            ),
            error => error.to_string(),
        })?;
    }
    info!(group = %group.id, "no server of the group accepts the former credentials any more");
    Ok(())
}

fn at_server(group: &Group, addr: &HostPort) -> ControlTarget {
    ControlTarget { addr: addr.clone(), credentials: group.credentials.clone() }
}

impl Fence {
    /// Makes sure that a server accepts the new credentials, and logs in to its primary with them if it did so with the
    /// former ones.
    ///
    /// # Errors
    /// See [`FenceError`].
    pub async fn take_credentials(
        &self,
        at: &ControlTarget,
        rotation: Rotation<'_>,
        deadline: Instant,
    ) -> Result<(), FenceError> {
        let take = async |client: &mut Client| {
            add(client, rotation, deadline).await?;
            follow_with(client, rotation, deadline).await.map_err(FenceError::from)
        };
        match self.with(at, deadline, take).await {
            // It was restarted since the new password was added, and could not save it.
            Err(FenceError::Server(RedisError::WrongPassword { .. })) if rotation.former.is_some() => {
                let before = ControlTarget { addr: at.addr.clone(), credentials: rotation.former.cloned() };
                self.with(&before, deadline, take).await
            }
            done => done,
        }
    }

    /// Removes the former password at a server.
    ///
    /// # Errors
    /// See [`FenceError`]; the server may still accept it.
    pub async fn remove_former_password(
        &self,
        at: &ControlTarget,
        rotation: Rotation<'_>,
        deadline: Instant,
    ) -> Result<(), FenceError> {
        let remove = async |client: &mut Client| remove(client, rotation, deadline).await.map_err(FenceError::from);
        self.with(at, deadline, remove).await
    }
}
