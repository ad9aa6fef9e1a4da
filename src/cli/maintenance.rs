//! `pontoon maintenance`: stops automatic changes while an operator works on servers, and shows where they are stopped.

use clap::Subcommand;
use serde::Serialize;

use super::{Remote, change, client::Client, error::CliError, group, output, product};
use crate::wire::pb::admin::{SetClusterRequest, SetGroupRequest, ShowClusterRequest};

/// `pontoon maintenance ...`
#[derive(Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// No automatic failover and no replication reconciliation
    On {
        /// Only this group of the product [default: all groups of all products]
        #[arg(value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        group: Option<u32>,
    },
    /// Servers are changed automatically again
    Off {
        /// Only this group of the product [default: all groups of all products]
        #[arg(value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        group: Option<u32>,
    },
    /// Show where maintenance is on: in the whole cluster, or in which groups (of --product, or of all products)
    Status,
}

impl MaintenanceCommand {
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Status)
    }
}

/// Where maintenance is on.
#[derive(Debug, Serialize)]
pub(super) struct Maintenance {
    /// In all groups of all products.
    pub(super) cluster: bool,
    /// Groups with a setting of their own.
    pub(super) groups: Vec<GroupName>,
}

/// A group and its product.
#[derive(Debug, Serialize)]
pub(super) struct GroupName {
    pub(super) product: String,
    pub(super) group: u32,
}

pub(super) async fn run(command: MaintenanceCommand, remote: &Remote) -> Result<(), CliError> {
    let (on, group) = match command {
        MaintenanceCommand::On { group } => (true, group),
        MaintenanceCommand::Off { group } => (false, group),
        MaintenanceCommand::Status => return status(remote).await,
    };
    let maintenance = Some(on);
    let check = "pontoon maintenance status";
    let made = if let Some(id) = group {
        let call = |mut c: Client, options| {
            let product = remote.product().to_owned();
            let request =
                SetGroupRequest { product, id, maintenance, options: Some(options), ..SetGroupRequest::default() };
            async move { c.set_group(request).await }
        };
        change::run(remote, check, call).await
    } else {
        let call = |mut c: Client, options| {
            let request = SetClusterRequest { maintenance, options: Some(options), ..SetClusterRequest::default() };
            async move { c.set_cluster(request).await }
        };
        change::run(remote, check, call).await
    };
    made.map(drop)
}

async fn status(remote: &Remote) -> Result<(), CliError> {
    let cluster = remote.read(|mut c| async move { c.show_cluster(ShowClusterRequest {}).await }).await?.maintenance;
    let mut groups = Vec::new();
    for product in product::asked(remote).await? {
        let all = group::list_of(remote, &product).await?.groups;
        let concerned = all.into_iter().filter(|g| g.maintenance);
        groups.extend(concerned.map(|g| GroupName { product: product.clone(), group: g.id }));
    }
    let found = Maintenance { cluster, groups };
    if remote.json() {
        return output::print_json(&found);
    }
    output::print_text(&to_text(&found));
    Ok(())
}

fn to_text(found: &Maintenance) -> String {
    let all = if found.cluster { "on in all groups of all products" } else { "off in the whole cluster" };
    let mut out = format!("maintenance is {all}\n");
    for GroupName { product, group } in &found.groups {
        out += &format!("maintenance is on in group {group} of product '{product}'\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_and_its_groups_are_named() {
        let groups = vec![GroupName { product: "shop".into(), group: 3 }];
        let text = to_text(&Maintenance { cluster: false, groups });
        assert_eq!(text, "maintenance is off in the whole cluster\nmaintenance is on in group 3 of product 'shop'\n");
        assert!(to_text(&Maintenance { cluster: true, groups: Vec::new() }).contains("on in all groups"));
    }
}
