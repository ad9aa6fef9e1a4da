//! `pontoon server`: all servers, and settings of single ones.

use clap::Subcommand;
use serde::Serialize;

use super::{Remote, change, client::Client, error::CliError, group, output, product, setting};
use crate::wire::pb::admin::{Server, SetServerRequest};

/// `pontoon server ...`
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// List the servers of --product, or of all products
    Ls,
    /// Change a server: priority=N (among replicas with the same offset the largest is promoted; 0: never
    /// automatically), zone=NAME
    Set {
        /// The server, as its group has it
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// For example priority=200 or zone=rack-7 (zone= for none)
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

impl ServerCommand {
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Ls)
    }
}

/// A server, its group and its product.
#[derive(Debug, Serialize)]
pub(super) struct ListedServer {
    pub(super) product: String,
    pub(super) group: u32,
    #[serde(flatten)]
    pub(super) server: Server,
}

pub(super) async fn run(command: ServerCommand, remote: &Remote) -> Result<(), CliError> {
    let ServerCommand::Set { address, settings } = command else { return list(remote).await };
    let wanted = parse(address, &settings).map_err(CliError::Usage)?;
    let call = |mut c: Client, options| {
        let request = SetServerRequest { options: Some(options), ..wanted.clone() };
        async move { c.set_server(request).await }
    };
    change::run(remote, "pontoon server ls", call).await.map(drop)
}

async fn list(remote: &Remote) -> Result<(), CliError> {
    let mut servers = Vec::new();
    let mut missing = None;
    for product in product::asked(remote).await? {
        let reply = group::list_of(remote, &product).await?;
        missing = reply.not_observed_because.or(missing);
        for group in reply.groups {
            let listed = |server| ListedServer { product: product.clone(), group: group.id, server };
            servers.extend(group.servers.into_iter().map(listed));
        }
    }
    if remote.json() {
        return output::print_json(&servers);
    }
    output::print_text(&to_table(&servers));
    group::warn(missing);
    Ok(())
}

fn to_table(servers: &[ListedServer]) -> String {
    let row = |ListedServer { product, group, server }: &ListedServer| {
        let seen = server.observed.clone().unwrap_or_default();
        let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        vec![
            server.address.clone(),
            product.clone(),
            group.to_string(),
            output::name(server.role()),
            if server.diverged { "diverged".to_owned() } else { output::name(seen.state()) },
            number(seen.keys),
            seen.used_memory_bytes.map_or_else(|| "-".to_owned(), output::size),
            number(seen.ops_per_second),
            server.priority.to_string(),
            server.zone.clone().unwrap_or_default(),
        ]
    };
    let headings = ["server", "product", "group", "role", "state", "keys", "memory", "ops/s", "priority", "zone"];
    output::table(&headings, &servers.iter().map(row).collect::<Vec<_>>())
}

fn parse(address: String, settings: &[String]) -> Result<SetServerRequest, String> {
    let mut wanted = SetServerRequest { address, ..SetServerRequest::default() };
    for setting in settings {
        let (key, value) = setting::split(setting)?;
        match key {
            "priority" => wanted.priority = Some(setting::number(key, value, "a number from 0")?),
            // As events show it.
            "zone" if value == "none" => wanted.zone = Some(String::new()),
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
    fn a_server_is_listed_with_its_group() {
        let server = Server { address: "a:1".into(), priority: 100, ..Server::default() };
        let table = to_table(&[ListedServer { product: "shop".into(), group: 3, server }]);
        let line: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(line, ["a:1", "shop", "3", "-", "-", "-", "100"]);
    }

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
