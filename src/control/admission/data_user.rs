//! The data user of a group at a server that is to be added: makes it, or checks the one that the operator has made.
//! Knows nothing of the log.

use super::server::ServerAdmission;
use crate::{
    control::servers::{
        data_user::{make, new_data_user, switch_off},
        replication_user::save,
    },
    model::{
        data_user::{DATA_USERS, DataUser},
        ids::HostPort,
    },
    redis::{Client, RedisError},
};

/// A key for trying commands. No application has it, since its name is random.
const KEY: &[u8] = b"pt:admission:7d1c9e5b42f84c0fa6b3d2e871905ac4";

/// Commands that scripts may run, with arguments that do nothing, and that Pontoon's own data users may not run: they show
/// or change more than the keys of one client.
const EXCESS: [(&str, &[&[u8]]); 4] = [
    ("SWAPDB", &[b"SWAPDB", b"none", b"none"]),
    ("INFO", &[b"INFO", b"server"]),
    ("SLOWLOG", &[b"SLOWLOG", b"LEN"]),
    ("RANDOMKEY", &[b"RANDOMKEY"]),
];

/// What scripts of clients may do through a data user that the operator has made, as texts for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptRights {
    /// They reach other servers.
    pub reach: Option<String>,
    /// They may run commands that the proxy does not offer.
    pub excess: Option<String>,
}

impl ScriptRights {
    /// All texts.
    pub fn texts(self) -> impl Iterator<Item = String> {
        self.reach.into_iter().chain(self.excess)
    }
}

impl ServerAdmission<'_> {
    /// Makes a new data user in place of `former` at these servers. With `dry_run`, only asks whether they allow it.
    ///
    /// # Errors
    /// Returns why a server does not let the control user make it, as text for the operator.
    pub async fn new_data_user(
        &self,
        servers: &[&HostPort],
        former: Option<&DataUser>,
        dry_run: bool,
    ) -> Result<DataUser, String> {
        let user = new_data_user(former);
        for addr in servers {
            self.make_data_user(addr, &user, dry_run).await?;
        }
        Ok(user)
    }

    /// Makes the data user of the group at a server, or checks the one that the operator has made. Returns what scripts may do
    /// with it. With `dry_run`, only asks whether the server allows it.
    ///
    /// # Errors
    /// Returns why nodes could not use the server with this user, as text for the operator.
    pub async fn make_data_user(
        &self,
        addr: &HostPort,
        user: &DataUser,
        dry_run: bool,
    ) -> Result<ScriptRights, String> {
        let mut client = self.connect(addr).await.map_err(|error| error.to_string())?;
        if !user.managed {
            return self.check_data_user(client, user).await;
        }
        let made = match dry_run {
            true => client.ask(&[b"ACL", b"GETUSER", DATA_USERS[0].as_bytes()], self.by()).await.map(|_| ()),
            false => make(&mut client, self.credentials, user, self.by()).await.map(|_| ()),
        };
        made.map_err(|error| match error.answered() {
            true => format!(
                "Pontoon cannot make a data user there, as which it carries out what clients ask for: {error}; let \
                 its user do it (ACL SETUSER ... +acl, then ACL SAVE or CONFIG REWRITE)"
            ),
            false => error.to_string(),
        })?;
        if !dry_run {
            save(&mut client, self.by()).await.map_err(|error| error.to_string())?;
        }
        Ok(ScriptRights::default())
    }

    /// What scripts may do at a server with the data user of its group.
    ///
    /// # Errors
    /// Returns why that is not known, as text for the operator.
    pub async fn script_rights(&self, addr: &HostPort, user: &DataUser) -> Result<ScriptRights, String> {
        let client = self.connect(addr).await.map_err(|error| error.to_string())?;
        self.check_data_user(client, user).await
    }

    /// Lets nobody log in any more as a data user that Pontoon has made, except as this one.
    ///
    /// # Errors
    /// Returns why it may still be possible, as text for the operator.
    pub async fn switch_off_other_data_users(&self, addr: &HostPort, user: &DataUser) -> Result<(), String> {
        let now = user.credentials.username.as_deref();
        let switch_off = async {
            let mut client = self.connect(addr).await?;
            for name in DATA_USERS.into_iter().filter(|name| now != Some(*name)) {
                switch_off(&mut client, name, self.by()).await?;
            }
            Ok(())
        };
        switch_off.await.map_err(|error: RedisError| error.to_string())
    }

    /// Whether a user that the operator has made can read, and what else it may do.
    async fn check_data_user(&self, mut client: Client, user: &DataUser) -> Result<ScriptRights, String> {
        let addr = client.addr().clone();
        let name = user.credentials.username.clone().unwrap_or_default();
        let auth = [b"AUTH".as_slice(), name.as_bytes(), user.credentials.password.reveal().as_bytes()];
        match client.ask(&auth, self.by()).await {
            Ok(_) => {}
            Err(RedisError::WrongPassword { text, .. }) => {
                return Err(format!(
                    "{addr} refuses the data user '{name}': {text}; make it there (ACL SETUSER), or check --data-username \
                     and --data-password-file"
                ));
            }
            Err(error) => return Err(error.to_string()),
        }
        match client.ask(&[b"GET", KEY], self.by()).await {
            Err(error @ RedisError::NotAllowed { .. }) => return Err(error.to_string()),
            Err(error) if !error.answered() => return Err(error.to_string()),
            Ok(_) | Err(_) => {}
        }
        // A server that lets the user run it complains about the timeout, which is no number.
        let mut may_run = async |command: &[&[u8]]| match client.ask(command, self.by()).await {
            Err(RedisError::NotAllowed { .. }) => Ok(false),
            Err(error) if !error.answered() => Err(error.to_string()),
            Ok(_) | Err(_) => Ok(true),
        };
        let reach = may_run(&[b"MIGRATE", b"127.0.0.1", b"1", KEY, b"0", b"never"]).await?.then(|| {
            format!(
                "{addr} lets the data user '{name}' run MIGRATE, so scripts of clients can write to any server that it \
                 reaches; forbid it (ACL SETUSER {name} -@dangerous -migrate, then ACL SAVE or CONFIG REWRITE)"
            )
        });
        let mut excess = Vec::new();
        for (command, probe) in EXCESS {
            if may_run(probe).await? {
                excess.push(command);
            }
        }
        let excess = (!excess.is_empty()).then(|| {
            format!(
                "{addr} lets the data user '{name}' run {}, and probably FLUSHALL and the like: a script of one client can see \
                 or destroy what the group has; forbid them (ACL SETUSER {name} -@dangerous, then ACL SAVE or CONFIG REWRITE)",
                excess.join(", ")
            )
        });
        Ok(ScriptRights { reach, excess })
    }
}
