//! `pontoon migrate`: moves slots with their keys.
//! Knows nothing of how that is done.

mod fetch;
mod view;
pub(super) mod watch;

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use fetch::{fetch, one};

use super::{Remote, change, client::Client, duration, error::CliError, output, setting, slot::parse_spans};
use crate::wire::pb::admin::{
    CancelMigrationRequest, MigrationLimits, PauseMigrationRequest, ResumeMigrationRequest, SetMigrationRequest,
    StartMigrationRequest, Verification,
};

/// `pontoon migrate ...`
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Move slots to a group; with --wait, return when it is done
    Start {
        /// For example 0-255, 7 or 0-3,9; they may belong to several groups
        #[arg(value_name = "SLOTS")]
        slots: String,
        /// The target group
        #[arg(long, value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        to: u32,
        /// Compare source and target before the switch: nothing, a sample of the keys, or every key
        #[arg(long, value_enum, default_value = "none")]
        verify: VerifyArg,
        /// Delete unexpected keys: keys of these slots at the target, which never owned the slots
        #[arg(long)]
        wipe: bool,
        /// Copy at most this number of keys a second
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        keys_per_second: u64,
        /// Copy at most this number of bytes a second
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        bytes_per_second: u64,
        /// Longest time for which the cut-over holds requests, for example 250ms [default: the cluster's]
        #[arg(long, value_name = "TIME", value_parser = duration::parse)]
        hold_max: Option<Duration>,
        /// Move them also if the target has too few replicas for min-acks, or none to read from
        #[arg(long)]
        force: bool,
    },
    /// List the product's migrations: those that run or wait, and the last 100 that have ended
    Ls {
        /// List every range of slots; very many are shortened otherwise
        #[arg(long)]
        all: bool,
    },
    /// Show everything about one migration
    Show {
        /// Its id, see `migrate ls`
        id: u64,
        /// List every range of slots; very many are shortened otherwise
        #[arg(long)]
        all: bool,
    },
    /// Watch one migration, or all of the product, until they end
    Watch {
        /// Its id, see `migrate ls`
        id: Option<u64>,
    },
    /// Cancel a migration; the copied keys are deleted at the target
    Cancel {
        /// Its id, see `migrate ls`
        id: u64,
    },
    /// Pause a migration; when it is resumed, it starts from the beginning
    Pause {
        /// Its id, see `migrate ls`
        id: u64,
    },
    /// Resume a paused migration
    Resume {
        /// Its id, see `migrate ls`
        id: u64,
    },
    /// Change the limits of a migration, also while it runs: keys-per-second=N, bytes-per-second=N (0: no limit),
    /// hold-max=250ms (0: the cluster's)
    Set {
        /// Its id, see `migrate ls`
        id: u64,
        /// What to change
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

/// How much is compared.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum VerifyArg {
    /// Nothing.
    None,
    /// Some keys.
    Sample,
    /// All keys.
    Full,
}

impl MigrateCommand {
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Ls { .. } | Self::Show { .. } | Self::Watch { .. })
    }
}

pub(super) async fn run(command: MigrateCommand, remote: &Remote) -> Result<(), CliError> {
    let check = "pontoon migrate ls";
    let made = match command {
        MigrateCommand::Ls { all } => return list(remote, all).await,
        MigrateCommand::Show { id, all } => return show(remote, id, all).await,
        MigrateCommand::Watch { id } => return watch::run(remote, id).await,
        MigrateCommand::Start { slots, to, verify, wipe, keys_per_second, bytes_per_second, hold_max, force } => {
            let hold_max_ms = hold_max.map_or(0, millis);
            let wanted = StartMigrationRequest {
                product: remote.product().to_owned(),
                slots: parse_spans(&slots).map_err(CliError::Usage)?,
                to,
                verification: match verify {
                    VerifyArg::None => Verification::None.into(),
                    VerifyArg::Sample => Verification::Sample.into(),
                    VerifyArg::Full => Verification::Full.into(),
                },
                wipe,
                limits: Some(MigrationLimits { keys_per_second, bytes_per_second, hold_max_ms }),
                options: None,
                force,
            };
            let call = |mut c: Client, options| {
                let request = StartMigrationRequest { options: Some(options), ..wanted.clone() };
                async move { c.start_migration(request).await }
            };
            change::run(remote, check, call).await
        }
        MigrateCommand::Cancel { id } => {
            let call = |mut c: Client, options| async move {
                c.cancel_migration(CancelMigrationRequest { id, options: Some(options) }).await
            };
            change::run(remote, check, call).await
        }
        MigrateCommand::Pause { id } => {
            let call = |mut c: Client, options| async move {
                c.pause_migration(PauseMigrationRequest { id, options: Some(options) }).await
            };
            change::run(remote, check, call).await
        }
        MigrateCommand::Resume { id } => {
            let call = |mut c: Client, options| async move {
                c.resume_migration(ResumeMigrationRequest { id, options: Some(options) }).await
            };
            change::run(remote, check, call).await
        }
        MigrateCommand::Set { id, settings } => {
            let wanted = parse(id, &settings).map_err(CliError::Usage)?;
            let call = |mut c: Client, options| {
                let request = SetMigrationRequest { options: Some(options), ..wanted };
                async move { c.set_migration(request).await }
            };
            change::run(remote, check, call).await
        }
    };
    made.map(drop)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn parse(id: u64, settings: &[String]) -> Result<SetMigrationRequest, String> {
    let mut wanted = SetMigrationRequest { id, ..SetMigrationRequest::default() };
    let number = |key: &str, value: &str| {
        value.parse::<u64>().map_err(|_| format!("{key}: a number is expected (0: no limit), not '{value}'"))
    };
    for setting in settings {
        let (key, value) = setting::split(setting)?;
        match key {
            "keys-per-second" => wanted.keys_per_second = Some(number(key, value)?),
            "bytes-per-second" => wanted.bytes_per_second = Some(number(key, value)?),
            "hold-max" if value == "0" => wanted.hold_max_ms = Some(0),
            "hold-max" => {
                wanted.hold_max_ms = Some(millis(duration::parse(value).map_err(|e| format!("hold-max: {e}"))?));
            }
            _ => {
                return Err(format!(
                    "'{key}' is not a setting of a migration; the settings are keys-per-second, bytes-per-second and hold-max"
                ));
            }
        }
    }
    Ok(wanted)
}

async fn list(remote: &Remote, all: bool) -> Result<(), CliError> {
    let reply = fetch(remote, Vec::new()).await?;
    if remote.json() {
        return output::print_json(&reply.migrations);
    }
    output::print_text(&view::to_table(&reply.migrations, all));
    warn(reply.not_observed_because);
    Ok(())
}

async fn show(remote: &Remote, id: u64, all: bool) -> Result<(), CliError> {
    let (migration, not_observed_because) = one(remote, id).await?;
    if remote.json() {
        return output::print_json(&migration);
    }
    output::print_text(&view::to_text(&migration, all));
    warn(not_observed_because);
    Ok(())
}

fn warn(not_observed_because: Option<String>) {
    if let Some(why) = not_observed_because {
        output::warn(&format!("the newest numbers are missing: {why}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings() {
        let all = ["keys-per-second=1000".to_owned(), "bytes-per-second=0".into(), "hold-max=300ms".into()];
        let wanted = parse(17, &all).unwrap();
        assert_eq!((wanted.id, wanted.keys_per_second, wanted.bytes_per_second), (17, Some(1000), Some(0)));
        assert_eq!(wanted.hold_max_ms, Some(300));
        assert_eq!(parse(17, &["hold-max=0".into()]).unwrap().hold_max_ms, Some(0));
        for (bad, part) in [
            ("keys-per-second=fast", "a number is expected"),
            ("hold-max=soon", "hold-max"),
            ("speed=1", "not a setting of a migration"),
            ("speed", "KEY=VALUE"),
        ] {
            let refused = parse(17, &[bad.into()]).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
