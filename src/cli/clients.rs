//! `pontoon client`: the Redis clients of all nodes.

use std::{net::IpAddr, time::Duration};

use clap::{Args, Subcommand};

use super::{Remote, duration, error::CliError, output};
use crate::wire::pb::admin::{Client, ClientFilter, ClientsReply, KillClientsRequest, ListClientsRequest};

/// `pontoon client ...`
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List the clients of all nodes and products, or of those that are given
    Ls(Which),
    /// Close clients of all nodes: those for which everything that is given holds
    Kill(Which),
}

/// Which clients are meant.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// Their ids, as CLIENT ID shows them
    ids: Vec<u64>,
    /// Only those of this node
    #[arg(long, value_name = "ID")]
    at: Option<u64>,
    /// Only the one that comes from this address
    #[arg(long, value_name = "IP:PORT")]
    addr: Option<String>,
    /// Only those that come from this IP address
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// Only those that have logged in as this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only those that have set this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only those that are connected for this time or longer, for example 30s or 2h
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    older: Option<Duration>,
}

impl ClientCommand {
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Ls(_))
    }
}

impl Which {
    fn filter(&self, remote: &Remote) -> ClientFilter {
        ClientFilter {
            ids: self.ids.clone(),
            product: remote.common.product.clone().unwrap_or_default(),
            node: self.at.unwrap_or_default(),
            addr: self.addr.clone().unwrap_or_default(),
            ip: self.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            user: self.user.clone().unwrap_or_default(),
            name: self.name.clone().unwrap_or_default(),
            age_min_ms: self.older.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

pub(super) async fn run(command: ClientCommand, remote: &Remote) -> Result<(), CliError> {
    let (reply, done) = match command {
        ClientCommand::Ls(which) => {
            let request = ListClientsRequest { filter: Some(which.filter(remote)) };
            let call = |mut c: super::client::Client| {
                let request = request.clone();
                async move { c.list_clients(request).await }
            };
            (remote.read(call).await?, None)
        }
        ClientCommand::Kill(which) => {
            let dry_run = remote.common.dry_run;
            let declared = remote.declared().to_owned();
            let request = KillClientsRequest { filter: Some(which.filter(remote)), dry_run, declared };
            let call = |mut c: super::client::Client| {
                let request = request.clone();
                async move { c.kill_clients(request).await }
            };
            (remote.read(call).await?, Some(if dry_run { "would: close" } else { "closed" }))
        }
    };
    if remote.json() {
        return output::print_json(&reply);
    }
    for node in &reply.silent {
        output::warn(&format!("the clients of node {} are missing: {}", node.id, node.why));
    }
    if reply.more {
        output::warn("there are more clients than are listed; say which, for example with --product or --at");
    }
    if let Some(done) = done {
        output::print_text(&format!("{done} {} clients\n", reply.clients.len()));
    }
    if done.is_none() || !reply.clients.is_empty() {
        output::print_text(&to_table(&reply));
    }
    Ok(())
}

fn to_table(reply: &ClientsReply) -> String {
    let row = |client: &Client| {
        vec![
            client.node.to_string(),
            client.id.to_string(),
            client.product.clone(),
            client.addr.clone(),
            client.name.clone(),
            format!("{} s", client.age_ms / 1000),
            format!("{} s", client.idle_ms / 1000),
            client.flags.clone(),
            client.db.to_string(),
            client.command.clone(),
            client.user.clone(),
            [client.library.as_str(), client.library_version.as_str()].join(" ").trim().to_owned(),
        ]
    };
    let headings =
        ["node", "id", "product", "address", "name", "age", "idle", "flags", "db", "command", "user", "library"];
    output::table(&headings, &reply.clients.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_client() {
        let client = Client {
            node: 2,
            id: 7,
            product: "shop".into(),
            addr: "10.0.0.1:5000".into(),
            age_ms: 61_500,
            idle_ms: 900,
            library: "redis-py".into(),
            library_version: "7.0".into(),
            ..Client::default()
        };
        let table = to_table(&ClientsReply { clients: vec![client], ..ClientsReply::default() });
        let line = table.lines().nth(1).unwrap_or_default();
        for part in ["2     7", "shop", "10.0.0.1:5000", "61 s", "0 s", "redis-py 7.0"] {
            assert!(line.contains(part), "{part} is not in\n{table}");
        }
    }
}
