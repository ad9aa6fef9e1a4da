//! `pontoon server`: settings of single servers.

use clap::Subcommand;

use super::{Remote, client::Client, error::CliError, output, setting};
use crate::wire::pb::admin::SetServerRequest;

/// `pontoon server ...`
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Change a server: priority=N (among replicas with the same offset the largest is promoted; 0: never automatically),
    /// zone=NAME
    Set {
        /// The server, as its group has it
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// For example priority=200 or zone=rack-7 (zone= for none)
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

pub(super) async fn run(command: ServerCommand, remote: &Remote) -> Result<(), CliError> {
    let ServerCommand::Set { address, settings } = command;
    let wanted = parse(address, &settings).map_err(CliError::Usage)?;
    let call = |mut c: Client, options| {
        let request = SetServerRequest { options: Some(options), ..wanted.clone() };
        async move { c.set_server(request).await }
    };
    let reply = remote.change("pontoon group ls", call).await?;
    output::print_change(remote, &reply)
}

fn parse(address: String, settings: &[String]) -> Result<SetServerRequest, String> {
    let mut wanted = SetServerRequest { address, ..SetServerRequest::default() };
    for setting in settings {
        let (key, value) = setting::split(setting)?;
        match key {
            "priority" => wanted.priority = Some(setting::number(key, value, "a number from 0")?),
            "zone" => wanted.zone = Some(value.to_owned()),
            _ => return Err(format!("'{key}' is not a setting of a server; the settings are priority and zone")),
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings() {
        let wanted = parse("a:1".into(), &["priority=0".into(), "zone=".into()]).unwrap();
        assert_eq!((wanted.priority, wanted.zone.as_deref(), wanted.address.as_str()), (Some(0), Some(""), "a:1"));
        for (bad, part) in
            [("priority=high", "a number from 0"), ("weight=1", "priority and zone"), ("zone", "KEY=VALUE")]
        {
            let refused = parse("a:1".into(), &[bad.into()]).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
