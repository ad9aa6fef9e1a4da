//! `pontoon group`: primaries and their replicas.
//! Knows nothing of how servers are asked; nodes do that.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Remote, client::Client, error::CliError, output, product::password};
use crate::wire::pb::admin::{
    AddServerRequest, CreateGroupRequest, DrainGroupRequest, Group, ListGroupsRequest, RemoveGroupRequest,
    RemoveServerRequest,
};

/// `pontoon group ...`
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List the groups of the product
    Ls,
    /// Make a group of servers that run already
    Create {
        /// Its id in the product, from 1
        #[arg(value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        id: u32,
        /// The primary
        #[arg(long, value_name = "HOST:PORT")]
        primary: String,
        /// A replica; it must follow the primary already (may be repeated)
        #[arg(long, value_name = "HOST:PORT")]
        replica: Vec<String>,
        /// User name that the servers are logged in to with
        #[arg(long, requires = "password_file")]
        username: Option<String>,
        /// File with the servers' password; - is standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Add a replica; it must follow the primary already
    AddServer {
        /// The group
        #[arg(value_name = "GID")]
        id: u32,
        /// The server
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Take a replica out; it keeps running
    RemoveServer {
        /// The group
        #[arg(value_name = "GID")]
        id: u32,
        /// The server
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Move all its slots, with their keys, to the other groups, so that it can be removed
    Drain {
        /// The group
        #[arg(value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        id: u32,
    },
    /// Remove a group that owns no slots; its servers keep running
    Remove {
        /// The group
        #[arg(value_name = "GID")]
        id: u32,
    },
}

pub(super) async fn run(command: GroupCommand, remote: &Remote) -> Result<(), CliError> {
    let product = &remote.common.product;
    let look = format!("pontoon group ls --product {product}");
    let reply = match command {
        GroupCommand::Ls => return show(remote).await,
        GroupCommand::Create { id, primary, replica, username, password_file } => {
            let wanted = CreateGroupRequest {
                product: product.clone(),
                id,
                primary,
                replicas: replica,
                username: username.unwrap_or_default(),
                password: password(password_file)?.unwrap_or_default(),
                options: None,
            };
            create(remote, &wanted).await?
        }
        GroupCommand::AddServer { id, address } => {
            let call = |mut c: Client, options| {
                let (product, address) = (product.clone(), address.clone());
                async move { c.add_server(AddServerRequest { product, group: id, address, options: Some(options) }).await }
            };
            remote.change(&look, call).await?
        }
        GroupCommand::RemoveServer { id, address } => {
            let call = |mut c: Client, options| {
                let (product, address) = (product.clone(), address.clone());
                async move {
                    c.remove_server(RemoveServerRequest { product, group: id, address, options: Some(options) }).await
                }
            };
            remote.change(&look, call).await?
        }
        GroupCommand::Drain { id } => {
            let call = |mut c: Client, options| {
                let product = product.clone();
                async move { c.drain_group(DrainGroupRequest { product, id, options: Some(options) }).await }
            };
            remote.change("pontoon migrate ls", call).await?
        }
        GroupCommand::Remove { id } => {
            let call = |mut c: Client, options| {
                let product = product.clone();
                async move { c.remove_group(RemoveGroupRequest { product, id, options: Some(options) }).await }
            };
            remote.change(&look, call).await?
        }
    };
    output::changed(remote, &reply)
}

/// Makes a group; also the playground's way.
pub(super) async fn create(
    remote: &Remote,
    wanted: &CreateGroupRequest,
) -> Result<crate::wire::pb::admin::ChangeReply, CliError> {
    let call = |mut c: Client, options| {
        let request = CreateGroupRequest { options: Some(options), ..wanted.clone() };
        async move { c.create_group(request).await }
    };
    remote.change(&format!("pontoon group ls --product {}", wanted.product), call).await
}

/// The groups of the product.
pub(super) async fn list(remote: &Remote) -> Result<Vec<Group>, CliError> {
    let call = |mut c: Client| {
        let product = remote.common.product.clone();
        async move { c.list_groups(ListGroupsRequest { product }).await }
    };
    Ok(remote.read(call).await?.groups)
}

async fn show(remote: &Remote) -> Result<(), CliError> {
    let groups = list(remote).await?;
    if remote.json() {
        output::print_json(&Value::Array(groups.iter().map(to_json).collect()));
        return Ok(());
    }
    let mut rows = Vec::new();
    for g in &groups {
        for (i, s) in g.servers.iter().enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            let login = if g.password && !g.username.is_empty() {
                format!("user {}", g.username)
            } else {
                output::yes(g.password)
            };
            rows.push(vec![
                first(g.id.to_string()),
                s.role.clone(),
                s.address.clone(),
                first(g.slots.to_string()),
                first(login),
            ]);
        }
    }
    output::print_text(&output::table(&["group", "role", "server", "slots", "password"], &rows));
    Ok(())
}

fn to_json(g: &Group) -> Value {
    let servers: Vec<_> = g
        .servers
        .iter()
        .map(
            |s| json!({"address": s.address, "role": s.role, "run_id": s.run_id, "keys_when_added": s.keys_when_added}),
        )
        .collect();
    json!({
        "id": g.id,
        "servers": servers,
        "slots": g.slots,
        "password": g.password,
        "username": (!g.username.is_empty()).then_some(&g.username),
        "epoch": g.epoch,
    })
}
