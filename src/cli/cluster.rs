//! `pontoon cluster`: settings that are replicated and can be changed while nodes run.

use clap::Subcommand;

use super::{Remote, change, client::Client, duration, error::CliError, output, setting};
use crate::wire::pb::admin::{SetClusterRequest, ShowClusterReply, ShowClusterRequest};

/// `pontoon cluster ...`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the settings
    Show,
    /// Change settings: voters=1..7, hold-max=10ms..10s, failover-share-max=1..100 (percent), maintenance=on|off
    Set {
        /// For example voters=5, hold-max=250ms or failover-share-max=50
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// Also if fewer than a majority of the voters would be alive: then nothing can be changed
        #[arg(long)]
        force: bool,
    },
}

impl ClusterCommand {
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Show)
    }
}

pub(super) async fn run(command: ClusterCommand, remote: &Remote) -> Result<(), CliError> {
    let (settings, force) = match command {
        ClusterCommand::Show => return show(remote).await,
        ClusterCommand::Set { settings, force } => (settings, force),
    };
    let wanted = SetClusterRequest { force, ..parse(&settings).map_err(CliError::Usage)? };
    let call = |mut c: Client, options| {
        let request = SetClusterRequest { options: Some(options), ..wanted.clone() };
        async move { c.set_cluster(request).await }
    };
    change::run(remote, "pontoon cluster show", call).await.map(drop)
}

async fn show(remote: &Remote) -> Result<(), CliError> {
    let settings = remote.read(|mut c| async move { c.show_cluster(ShowClusterRequest {}).await }).await?;
    if remote.json() {
        return output::print_json(&settings);
    }
    output::print_text(&to_table(settings));
    Ok(())
}

/// With the names and values that `cluster set` accepts.
fn to_table(settings: ShowClusterReply) -> String {
    let row = |name: &str, value: String, meaning: &str| vec![name.to_owned(), value, meaning.to_owned()];
    let rows = [
        row("voters", settings.voters.to_string(), "number of nodes that are made voters automatically"),
        row("hold-max", format!("{}ms", settings.hold_max_ms), "longest hold"),
        row(
            "failover-share-max",
            format!("{}%", settings.failover_share_max_percent),
            "of all primaries; when more are down at the same time, automatic failovers stop",
        ),
        row(
            "maintenance",
            setting::show_switch(settings.maintenance).into(),
            "on: no automatic failover and no replication reconciliation",
        ),
    ];
    output::table(&["setting", "value", "meaning"], &rows)
}

fn parse(settings: &[String]) -> Result<SetClusterRequest, String> {
    let mut wanted = SetClusterRequest::default();
    for setting in settings {
        let (key, value) = setting::split(setting)?;
        match key {
            "voters" => wanted.voters = Some(setting::number(key, value, "a number from 1 to 7")?),
            "failover-share-max" => {
                // With the sign that `cluster show` prints, too.
                let percent = value.strip_suffix('%').unwrap_or(value);
                wanted.failover_share_max_percent = Some(setting::number(key, percent, "a percentage from 1 to 100")?);
            }
            "maintenance" => wanted.maintenance = Some(setting::on_off(key, value)?),
            "hold-max" => {
                let ms = duration::parse(value).map_err(|e| format!("hold-max: {e}"))?.as_millis();
                wanted.hold_max_ms = Some(u32::try_from(ms).unwrap_or(u32::MAX));
            }
            _ => {
                return Err(format!(
                    "'{key}' is not a setting of the cluster; the settings are voters, hold-max, failover-share-max and \
                     maintenance"
                ));
            }
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_shown_can_be_set() {
        let shown = ShowClusterReply { voters: 3, hold_max_ms: 250, maintenance: true, failover_share_max_percent: 40 };
        let table = to_table(shown);
        let shown: Vec<String> =
            table.lines().skip(1).map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join("=")).collect();
        let wanted = parse(&shown).unwrap();
        assert_eq!((wanted.voters, wanted.hold_max_ms), (Some(3), Some(250)));
        assert_eq!((wanted.maintenance, wanted.failover_share_max_percent), (Some(true), Some(40)));
    }

    #[test]
    fn settings() {
        let wanted = parse(&["voters=7".into(), "hold-max=250ms".into()]).unwrap();
        assert_eq!((wanted.voters, wanted.hold_max_ms), (Some(7), Some(250)));
        for bad in
            ["voters", "voters=x", "hold-max=5", "hold=1s", "failover-share-max=half", "maintenance=yes", "maintenance"]
        {
            let result = parse(&[bad.into()]);
            // A bare number is seconds; the node refuses what is too long.
            assert_eq!(result.is_ok(), bad == "hold-max=5", "{bad}");
        }
    }
}
