//! New credentials for a group: its servers accept them before the log names them.
//! Knows nothing of the log.

use super::server::ServerAdmission;
use crate::{
    control::servers::{
        control_user::{Rotation, accepts, add},
        replication_user::save,
    },
    model::{ids::HostPort, secret::Credentials},
    redis::RedisError,
};

impl ServerAdmission<'_> {
    /// Makes a server accept these credentials, besides those of the group. Those of another user the operator has made
    /// there. With `dry_run`, only finds out whether the server allows it.
    ///
    /// # Errors
    /// Returns why the server does not accept them, as text for the operator. It accepts those of the group as before.
    pub async fn add_credentials(&self, addr: &HostPort, new: &Credentials, dry_run: bool) -> Result<(), String> {
        let rotation = Rotation { former: self.credentials, new };
        if accepts(addr, Some(new), self.by()).await.map_err(|error| error.to_string())? {
            return Ok(());
        }
        let user = new.user();
        if !rotation.same_user() {
            return Err(format!(
                "{addr} refuses the user '{user}' with this password; make it there first (ACL SETUSER {user} on >PASSWORD ~* &* \
                 +@all, then ACL SAVE or CONFIG REWRITE)"
            ));
        }
        if self.credentials.is_none() {
            return Err(format!(
                "{addr} does not accept this password, and the nodes use none there; does it have another password already?"
            ));
        }
        let mut client = self.connect(addr).await.map_err(|error| match error {
            RedisError::WrongPassword { .. } | RedisError::PasswordNeeded { .. } => format!(
                "{addr} accepts neither this password nor the present one of the group; check --password-file and --username"
            ),
            error => error.to_string(),
        })?;
        let added = match dry_run {
            true => client.ask(&[b"ACL", b"GETUSER", user.as_bytes()], self.by()).await.map(|_| ()),
            false => add(&mut client, rotation, self.by()).await,
        };
        match added {
            Ok(()) => Ok(()),
            Err(error) if error.answered() => Err(format!(
                "Pontoon cannot add the password there: {error}; add it yourself at every server of the group (ACL SETUSER \
                 {user} >PASSWORD, then ACL SAVE or CONFIG REWRITE), and repeat this"
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the operator should know of a server that cannot save the password: it has the former one after a restart.
    pub async fn cannot_save(&self, addr: &HostPort) -> Option<String> {
        let saved = async {
            let mut client = self.connect(addr).await?;
            save(&mut client, self.by()).await
        };
        match saved.await {
            Ok(true) => None,
            Ok(false) => Some(format!(
                "{addr} cannot save its users or its masterauth; change its password in its configuration, too, before it is restarted"
            )),
            Err(error) => Some(format!("it is not known whether {addr} has saved the password: {error}")),
        }
    }
}
