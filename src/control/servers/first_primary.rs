//! The primary at which a change of libraries of functions is tried before it is recorded. Knows nothing of the log.

use tokio::time::Instant;

use super::libraries::{Turn, list, make_equal, open};
use crate::{
    model::{ids::HostPort, script::ScriptCatalogue, secret::Credentials},
    plan::libraries::Libraries,
    redis::{Client, RedisError, Reply},
};

/// The primary that a change of libraries is tried at, brought to the catalogue before.
pub struct FirstPrimary {
    client: Client,
    /// Nobody else changes its libraries meanwhile.
    _turn: Turn,
    /// Its libraries.
    pub before: Libraries,
}

impl FirstPrimary {
    /// Connects, and brings the libraries to the catalogue. `login`: address, credentials, and name of the connection.
    ///
    /// # Errors
    /// Returns why the server cannot be used.
    pub async fn open(
        login: (&HostPort, Option<&Credentials>, String),
        catalogue: &ScriptCatalogue,
        by: Instant,
    ) -> Result<Self, String> {
        let turn = Turn::at(login.0).await;
        let opened = async {
            let mut client = open(login.0, login.1, &login.2, by).await?;
            make_equal(&mut client, catalogue, by).await?;
            let before = list(&mut client, by).await?;
            Ok::<_, RedisError>(Self { client, _turn: turn, before })
        };
        opened.await.map_err(|error| error.to_string())
    }

    /// Its libraries now.
    ///
    /// # Errors
    /// Returns why it does not say.
    pub async fn list(&mut self, deadline: Instant) -> Result<Libraries, String> {
        list(&mut self.client, deadline).await.map_err(|error| error.to_string())
    }

    /// Sends a command. The text of an error in the result is the server's.
    ///
    /// # Errors
    /// Returns why there is no reply.
    pub async fn ask(&mut self, command: &[&[u8]], deadline: Instant) -> Result<Result<Reply, String>, String> {
        let replies = self.client.pipeline(&[command], deadline).await;
        match replies.map_err(|error| error.to_string())?.pop() {
            Some(Reply::Error(text)) => Ok(Err(text)),
            reply => Ok(Ok(reply.unwrap_or(Reply::Null))),
        }
    }

    /// Takes back what the log has refused: deletes what is new, and loads what was there before.
    pub async fn restore(&mut self, deadline: Instant) {
        let Ok(now) = list(&mut self.client, deadline).await else { return };
        for name in now.keys().filter(|name| !self.before.contains_key(*name)) {
            let _ = self.client.ask(&[b"FUNCTION", b"DELETE", name.as_bytes()], deadline).await;
        }
        for (_, code) in self.before.iter().filter(|(name, code)| now.get(*name) != Some(code)) {
            let _ = self.client.ask(&[b"FUNCTION", b"LOAD", b"REPLACE", code], deadline).await;
        }
    }
}
