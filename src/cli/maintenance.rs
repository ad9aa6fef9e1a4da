//! `pontoon maintenance`: stops automatic changes while an operator works on servers.

use clap::{Args, ValueEnum};

use super::{Remote, client::Client, error::CliError, output};
use crate::wire::pb::admin::{SetClusterRequest, SetGroupRequest};

/// `pontoon maintenance ...`
#[derive(Args, Debug)]
pub struct MaintenanceArgs {
    /// on: no automatic failover and no replication reconciliation
    #[arg(value_enum)]
    switch: SwitchArg,
    /// Only this group of the product [default: all groups of all products]
    #[arg(value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
    group: Option<u32>,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SwitchArg {
    /// Servers are not changed automatically.
    On,
    /// Servers are changed automatically.
    Off,
}

pub(super) async fn run(args: MaintenanceArgs, remote: &Remote) -> Result<(), CliError> {
    let maintenance = Some(args.switch == SwitchArg::On);
    let reply = if let Some(id) = args.group {
        let call = |mut c: Client, options| {
            let product = remote.common.product.clone();
            let request =
                SetGroupRequest { product, id, maintenance, options: Some(options), ..SetGroupRequest::default() };
            async move { c.set_group(request).await }
        };
        remote.change(&format!("pontoon group show {id} --product {}", remote.common.product), call).await?
    } else {
        let call = |mut c: Client, options| {
            let request = SetClusterRequest { maintenance, options: Some(options), ..SetClusterRequest::default() };
            async move { c.set_cluster(request).await }
        };
        remote.change("pontoon cluster show", call).await?
    };
    output::print_change(remote, &reply)
}
