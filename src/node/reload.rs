//! SIGHUP: the node opens its log file again, reads its settings again, takes over those that may change while it runs, and
//! reads its secret file again. Settings and secrets with a mistake are refused, and the node goes on with the former ones.
//! Knows nothing of where settings come from.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::{reading, secret_file::SecretFile};
use crate::{
    config::{Config, RELOADED},
    logging,
};

/// The signals that change a running node or do nothing, but would end the process if nobody took them.
pub struct Reload<R> {
    hangup: Signal,
    unused: [(&'static str, Signal); 2],
    /// The settings of this start, with those that were taken over since.
    now: Config,
    /// Reads the settings again, from the same places.
    read: Arc<R>,
}

impl<R: Fn() -> Result<Config, String> + Send + Sync + 'static> Reload<R> {
    /// Takes the signals. Those that come before [`Reload::run`] wait for it.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn new(config: &Config, read: R) -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            unused: [
                ("SIGUSR1", signal(SignalKind::user_defined1())?),
                ("SIGUSR2", signal(SignalKind::user_defined2())?),
            ],
            now: config.clone(),
            read: Arc::new(read),
        })
    }

    /// Obeys signals. It never returns. `secret_file`: `None` if the node has no cluster secret.
    pub async fn run(mut self, secret_file: Option<SecretFile>) -> std::convert::Infallible {
        loop {
            let [(first, usr1), (second, usr2)] = &mut self.unused;
            let unused = tokio::select! {
                _ = self.hangup.recv() => {
                    self.reload().await;
                    // A mistake in the settings does not keep the secret from being replaced.
                    if let Some(file) = &secret_file {
                        file.read_again().await;
                    }
                    continue;
                }
                _ = usr1.recv() => first,
                _ = usr2.recv() => second,
            };
            warn!(signal = *unused, "this signal does nothing; on SIGHUP the node reads its settings again");
        }
    }

    async fn reload(&mut self) {
        // The file is first: whoever renamed it waits for that, even if the settings have a mistake.
        if let Err(error) = logging::reopen(self.now.log.file.as_deref()) {
            error!(%error, "SIGHUP: the log goes on where it was");
        }
        if let Err(error) = self.take_over().await {
            error!(%error, "SIGHUP: the settings are refused; the node goes on with the former ones");
        }
    }

    async fn take_over(&mut self) -> Result<(), String> {
        let read = self.read.clone();
        let read = reading::on_a_thread("the settings", move || read()).await?;
        read.check()?;
        if read.log.file != self.now.log.file {
            logging::reopen(read.log.file.as_deref())?;
        }
        let log = logging::configure(read.log.levels()?)?;
        self.now.log.file.clone_from(&read.log.file);
        self.now.log.level.clone_from(&read.log.level);
        let waiting = self.now.different(&read);
        info!(levels = log.levels, chosen = log.chosen, "SIGHUP: the settings were read again");
        if !waiting.is_empty() {
            warn!(
                settings = waiting.join(", "),
                "these settings have changed and take effect when the node is restarted; only {} may change before",
                RELOADED.join(" and ")
            );
        }
        Ok(())
    }
}
