//! `pontoon cluster`: settings that are replicated and change while running.
//! Knows nothing of what they do.

use clap::Subcommand;
use serde_json::json;

use super::{Remote, client::Client, duration, error::CliError, output, setting};
use crate::wire::pb::admin::{SetClusterRequest, ShowClusterReply, ShowClusterRequest};

/// `pontoon cluster ...`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the settings
    Show,
    /// Change settings: voters=1..7, hold-max=10ms..10s, failover-share-max=1..100 (percent), maintenance=on|off
    Set {
        /// As voters=5, hold-max=250ms or failover-share-max=50
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

pub(super) async fn run(command: ClusterCommand, remote: &Remote) -> Result<(), CliError> {
    let settings = match command {
        ClusterCommand::Show => return show(remote).await,
        ClusterCommand::Set { settings } => settings,
    };
    let wanted = parse(&settings).map_err(CliError::Usage)?;
    let call = |mut c: Client, options| {
        let request = SetClusterRequest { options: Some(options), ..wanted.clone() };
        async move { c.set_cluster(request).await }
    };
    let reply = remote.change("the same command with --dry-run", call).await?;
    output::changed(remote, &reply)
}

async fn show(remote: &Remote) -> Result<(), CliError> {
    let settings = remote.read(|mut c| async move { c.show_cluster(ShowClusterRequest {}).await }).await?;
    if remote.json() {
        output::print_json(&json!({
            "voters": settings.voters,
            "hold_max_ms": settings.hold_ms_max,
            "failover_share_max": settings.failover_share_max,
            "maintenance": settings.maintenance,
        }));
    } else {
        output::print_text(&to_table(settings));
    }
    Ok(())
}

/// In the words of `cluster set`.
fn to_table(settings: ShowClusterReply) -> String {
    let row = |name: &str, value: String, meaning: &str| vec![name.to_owned(), value, meaning.to_owned()];
    let rows = [
        row("voters", settings.voters.to_string(), "nodes made voters by the cluster itself"),
        row("hold-max", format!("{}ms", settings.hold_ms_max), "longest hold of slots that change hands"),
        row(
            "failover-share-max",
            format!("{}%", settings.failover_share_max),
            "of all primaries; when more are down at once, none is failed over by itself",
        ),
        row("maintenance", setting::show_switch(settings.maintenance).into(), "no failover and no wiring by itself"),
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
                // As it is shown, too.
                let percent = value.strip_suffix('%').unwrap_or(value);
                wanted.failover_share_max = Some(setting::number(key, percent, "a percentage from 1 to 100")?);
            }
            "maintenance" => wanted.maintenance = Some(setting::on_off(key, value)?),
            "hold-max" => {
                let ms = duration::parse(value).map_err(|e| format!("hold-max: {e}"))?.as_millis();
                wanted.hold_ms_max = Some(u32::try_from(ms).unwrap_or(u32::MAX));
            }
            _ => {
                return Err(format!(
                    "'{key}' is no setting of the cluster; there are voters, hold-max, failover-share-max and maintenance"
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
        let shown = ShowClusterReply { voters: 3, hold_ms_max: 250, maintenance: true, failover_share_max: 40 };
        let table = to_table(shown);
        let shown: Vec<String> =
            table.lines().skip(1).map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join("=")).collect();
        let wanted = parse(&shown).unwrap();
        assert_eq!((wanted.voters, wanted.hold_ms_max), (Some(3), Some(250)));
        assert_eq!((wanted.maintenance, wanted.failover_share_max), (Some(true), Some(40)));
    }

    #[test]
    fn settings() {
        let wanted = parse(&["voters=7".into(), "hold-max=250ms".into()]).unwrap();
        assert_eq!((wanted.voters, wanted.hold_ms_max), (Some(7), Some(250)));
        for bad in
            ["voters", "voters=x", "hold-max=5", "hold=1s", "failover-share-max=half", "maintenance=yes", "maintenance"]
        {
            let result = parse(&[bad.into()]);
            // A bare number is seconds; the node refuses what is too long.
            assert_eq!(result.is_ok(), bad == "hold-max=5", "{bad}");
        }
    }
}
