//! Makes the data user of a group at a server (`model::data_user`), so that it exists there before clients' requests do.
//! ACLs are not replicated, and any tool can change them, so this is repeated whenever a server refuses the user.
//! Decides nothing.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tracing::info;

use super::{
    control_user::password_hash,
    fence::{ControlTarget, Fence, FenceError},
    offered::offered_commands,
    replication_user::{field, has_flag, save},
};
use crate::{
    commands::{OfferedCommands, allow_list},
    model::{
        data_user::{DATA_USERS, DataUser},
        secret::{Credentials, Secret},
    },
    redis::{Client, RedisError, Reply},
};

/// A managed data user in place of `former`, with a random password of 244 bits.
#[must_use]
pub fn new_data_user(former: Option<&DataUser>) -> DataUser {
    let random = || uuid::Uuid::new_v4().simple().to_string();
    DataUser::managed(Secret::new(random() + &random()), former)
}

impl Fence {
    /// As [`make`], over the control connection.
    ///
    /// # Errors
    /// See [`FenceError`].
    pub async fn make_data_user(
        &self,
        at: &ControlTarget,
        user: &DataUser,
        deadline: Instant,
    ) -> Result<bool, FenceError> {
        let credentials = at.credentials.as_ref();
        self.with(at, deadline, async |client| Ok(make(client, credentials, user, deadline).await?)).await
    }
}

/// Makes a managed data user, or changes it to what it has to be; `client` is logged in with `control`. From then on, the
/// server checks payloads that clients give to RESTORE, but not those of the control user, who copies keys. Returns
/// whether something had to change. Does nothing about a user that the operator has made.
///
/// # Errors
/// As [`Client::ask`]. [`RedisError::NotAllowed`] or [`RedisError::Refused`]: the server does not let the control user
/// do it.
pub async fn make(
    client: &mut Client,
    control: Option<&Credentials>,
    user: &DataUser,
    deadline: Instant,
) -> Result<bool, RedisError> {
    let (true, Some(name)) = (user.managed, &user.credentials.username) else { return Ok(false) };
    let get = [b"ACL".as_slice(), b"GETUSER", name.as_bytes()];
    let before = client.ask(&get, deadline).await?;
    let offered = offered_commands(client, deadline).await?;
    let rules = rules(user, &offered, true);
    match set_user(client, name, &rules, deadline).await {
        // Redis 6.0 has neither channels nor checks of payloads in its rules.
        Err(RedisError::Refused { .. }) => {
            set_user(client, name, &self::rules(user, &offered, false), deadline).await?;
        }
        other => other?,
    }
    let after = client.ask(&get, deadline).await?;
    let checked = check_payloads(client, control, deadline).await?;
    Ok(described(&before) != described(&after) || checked)
}

/// The words of the answer to ACL GETUSER. The order of commands may change from one answer of a Redis 6 to the next.
fn described(reply: &Reply) -> BTreeSet<&str> {
    match reply.items() {
        Some(items) => items.iter().flat_map(described).collect(),
        None => reply.text().unwrap_or_default().split(' ').collect(),
    }
}

/// Lets nobody log in as this user any more, if the server has it. Connections that exist stay, since requests may be in
/// flight there.
///
/// # Errors
/// As [`Client::ask`].
pub async fn switch_off(client: &mut Client, name: &str, deadline: Instant) -> Result<(), RedisError> {
    if client.ask(&[b"ACL", b"GETUSER", name.as_bytes()], deadline).await? == Reply::Null {
        return Ok(());
    }
    client.ask(&[b"ACL", b"SETUSER", name.as_bytes(), b"off", b"resetpass"], deadline).await?;
    // If that fails, the user is on again after a restart, with a password that is in no log any more.
    save(client, deadline).await.map(|_| ())
}

/// A data user that Pontoon has made for a group that now has another one, and that can still log in: its name, and the hashes
/// of its passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerUser {
    name: &'static str,
    hashes: Vec<String>,
}

/// The data user that a group with `user` may have had before, if the server still lets it log in.
///
/// # Errors
/// As [`Client::ask`].
pub async fn former_user(
    client: &mut Client,
    user: &DataUser,
    deadline: Instant,
) -> Result<Option<FormerUser>, RedisError> {
    let now = user.credentials.username.as_deref();
    for name in DATA_USERS.into_iter().filter(|name| now != Some(*name)) {
        let reply = client.ask(&[b"ACL", b"GETUSER", name.as_bytes()], deadline).await?;
        let hashes = field(&reply, "passwords").and_then(Reply::items).unwrap_or_default();
        let hashes: Vec<String> = hashes.iter().filter_map(|hash| hash.text().map(str::to_owned)).collect();
        if has_flag(&reply, "on") && !hashes.is_empty() {
            return Ok(Some(FormerUser { name, hashes }));
        }
    }
    Ok(None)
}

/// As [`switch_off`], unless the user has been made anew with another password. Returns whether it was switched off.
///
/// # Errors
/// As [`Client::ask`], except for an answer.
pub async fn switch_off_former(
    client: &mut Client,
    former: &FormerUser,
    deadline: Instant,
) -> Result<bool, RedisError> {
    // One that has not the password any more makes the server refuse all of it.
    let passwords: Vec<String> = former.hashes.iter().map(|hash| format!("!{hash}")).collect();
    let mut command = vec![b"ACL".as_slice(), b"SETUSER", former.name.as_bytes()];
    command.extend(passwords.iter().map(String::as_bytes));
    command.push(b"off");
    match client.ask(&command, deadline).await {
        Ok(_) => save(client, deadline).await.map(|_| true),
        Err(error) if error.answered() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The arguments of ACL SETUSER. The server gets a hash of the password: what it shows to its operators, and writes to its
/// files, does not let anybody in.
fn rules(user: &DataUser, offered: &OfferedCommands, complete: bool) -> Vec<String> {
    let hash = password_hash(&user.credentials.password);
    let mut rules = vec!["reset".to_owned(), "on".into(), format!("#{hash}"), "~*".into()];
    if complete {
        rules.extend(["resetchannels".to_owned(), "&*".into(), "sanitize-payload".into()]);
    }
    rules.push("-@all".into());
    rules.extend(allow_list(offered).into_iter().map(|name| format!("+{name}")));
    rules
}

async fn set_user(client: &mut Client, name: &str, rules: &[String], deadline: Instant) -> Result<(), RedisError> {
    let mut command = vec![b"ACL".as_slice(), b"SETUSER", name.as_bytes()];
    command.extend(rules.iter().map(String::as_bytes));
    client.ask(&command, deadline).await.map(|_| ())
}

/// Lets the server check payloads that clients give to RESTORE. A payload made by hand could else crash it. Returns whether
/// something had to change. Not every server lets its users do it.
async fn check_payloads(
    client: &mut Client,
    control: Option<&Credentials>,
    deadline: Instant,
) -> Result<bool, RedisError> {
    const SETTING: &str = "sanitize-dump-payload";
    const TRUSTED: &str = "skip-sanitize-payload";
    let control = control.and_then(|control| control.username.as_deref()).unwrap_or("default").as_bytes();
    let trust = [b"ACL".as_slice(), b"SETUSER", control, TRUSTED.as_bytes()];
    let check = [b"CONFIG".as_slice(), b"SET", SETTING.as_bytes(), b"clients"];
    let trusted = match client.ask(&[b"ACL", b"GETUSER", control], deadline).await {
        Ok(reply) => has_flag(&reply, TRUSTED),
        Err(error) if error.answered() => false,
        Err(error) => return Err(error),
    };
    let commands: &[&[&[u8]]] = match client.config(SETTING, deadline).await?.as_deref() {
        Some("no") => &[&trust, &check],
        Some("clients") if !trusted => &[&trust],
        // Without the setting, the server is Redis 6.0, which cannot check them. `yes` is stricter.
        Some(_) | None => &[],
    };
    let mut changed = false;
    for command in commands {
        match client.ask(command, deadline).await {
            Ok(_) => changed = true,
            Err(error) if error.answered() => {
                info!(addr = %client.addr(), %error, "the server does not check what clients give to RESTORE");
                return Ok(changed);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}
