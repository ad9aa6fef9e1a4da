//! `pontoon group`: groups, and the servers in them.
//! Knows nothing of which servers a group can have; nodes check that.

mod view;

use std::{future::Future, path::PathBuf};

use clap::Subcommand;
use tonic::{Response, Status};

use super::{Remote, change, client::Client, duration, error::CliError, output, product::password, setting};
use crate::wire::pb::admin::{
    AddServerRequest, ChangeOptions, ChangeReply, CreateGroupRequest, DrainGroupRequest, ListGroupsReply,
    ListGroupsRequest, PromoteRequest, RemoveGroupRequest, RemoveServerRequest, SetGroupRequest, ShowGroupReply,
    ShowGroupRequest,
};

/// `pontoon group ...`
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List the groups of the product and the state of their servers
    Ls,
    /// Show everything about one group
    Show {
        /// The group
        #[arg(value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        id: u32,
    },
    /// Create a group of servers that are running
    Create {
        /// Its id in the product, at least 1
        #[arg(value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        id: u32,
        /// The primary
        #[arg(long, value_name = "HOST:PORT")]
        primary: String,
        /// A replica: follows the primary already, or has no keys and is made to follow it (may be repeated)
        #[arg(long, value_name = "HOST:PORT")]
        replica: Vec<String>,
        /// User name that nodes log in to the servers with
        #[arg(long, requires = "password_file")]
        username: Option<String>,
        /// File with the servers' password; - is standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// User that you have made at the servers for what clients ask for, if they do not let Pontoon make one
        #[arg(long, value_name = "USER", requires = "data_password_file")]
        data_username: Option<String>,
        /// File with the password of that user; - is standard input
        #[arg(long, value_name = "FILE", requires = "data_username")]
        data_password_file: Option<PathBuf>,
        /// Create the group also if it gets no such user, and scripts of its clients can reach other products
        #[arg(long)]
        accept_shared_risk: bool,
    },
    /// Add a replica: a server that follows the primary already, or one without keys, which is made to follow it
    AddServer {
        /// The group
        #[arg(value_name = "GID")]
        id: u32,
        /// The server
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// Add it also if scripts of the group's clients can reach other products there, as the data user that you have made
        #[arg(long)]
        accept_shared_risk: bool,
    },
    /// Remove a replica from the group; it keeps running
    RemoveServer {
        /// The group
        #[arg(value_name = "GID")]
        id: u32,
        /// The server
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// Remove it also if the group then has too few replicas for min-acks, or none to read from
        #[arg(long)]
        force: bool,
    },
    /// Make a replica the primary, without losing a write; with --wait, return when the promotion has ended
    Promote {
        /// The group
        #[arg(value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        id: u32,
        /// The replica
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// The primary is dead: give up the writes that it acknowledged and did not replicate
        #[arg(long)]
        force: bool,
    },
    /// Change a group: down-after=500ms..10m (until a failing server counts as down), maintenance=on|off,
    /// eject-after=500ms..10m|off (in a cache: until a group that is down, and has no replica to promote, is ejected),
    /// busy-failover-after, loading-failover-after, misconf-failover-after, script-kill-after (1s..1h|off: what is done about a
    /// primary that answers and cannot serve), data-user=new (another user and password for what clients ask for), or a
    /// password for its servers
    Set {
        /// The group
        #[arg(value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        id: u32,
        /// For example down-after=5s or maintenance=on
        #[arg(required_unless_present_any = ["data_username", "password_file"], value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// File with another password with which nodes log in at the servers; - is standard input. Pontoon adds it there,
        /// lets the nodes change to it, and removes the former one
        #[arg(long, value_name = "FILE", conflicts_with_all = ["settings", "data_username"])]
        password_file: Option<PathBuf>,
        /// The user of that password, if it is another one, which you have made at the servers
        #[arg(long, value_name = "USER", requires = "password_file")]
        username: Option<String>,
        /// Let nodes change to this user, which you have made at the servers, for what clients ask for
        #[arg(long, value_name = "USER", requires = "data_password_file", conflicts_with = "settings")]
        data_username: Option<String>,
        /// File with the password of that user; - is standard input
        #[arg(long, value_name = "FILE", requires = "data_username")]
        data_password_file: Option<PathBuf>,
        /// Change to that user also if scripts of the group's clients can reach other products as it
        #[arg(long, requires = "data_username")]
        accept_shared_risk: bool,
    },
    /// Move all slots of a group, with their keys, to the other groups, so that it can be removed
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

impl GroupCommand {
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Ls | Self::Show { .. })
    }
}

pub(super) async fn run(command: GroupCommand, remote: &Remote) -> Result<(), CliError> {
    let product = remote.product();
    let check = format!("pontoon group ls --product {product}");
    let made = match command {
        GroupCommand::Ls => return ls(remote).await,
        GroupCommand::Show { id } => return show(remote, id).await,
        GroupCommand::Promote { id, address, force } => promote(remote, id, &address, force).await,
        GroupCommand::Set {
            id,
            settings,
            password_file,
            username,
            data_username,
            data_password_file,
            accept_shared_risk,
        } => {
            let wanted = SetGroupRequest {
                product: product.to_owned(),
                username: username.unwrap_or_default(),
                password: password(password_file)?.unwrap_or_default(),
                data_username: data_username.unwrap_or_default(),
                data_password: password(data_password_file)?.unwrap_or_default(),
                accept_shared_risk,
                ..parse(id, &settings).map_err(CliError::Usage)?
            };
            let call = |mut c: Client, options| {
                let request = SetGroupRequest { options: Some(options), ..wanted.clone() };
                async move { c.set_group(request).await }
            };
            change::run(remote, &check, call).await
        }
        GroupCommand::Create {
            id,
            primary,
            replica,
            username,
            password_file,
            data_username,
            data_password_file,
            accept_shared_risk,
        } => {
            let wanted = CreateGroupRequest {
                product: product.to_owned(),
                id,
                primary,
                replicas: replica,
                username: username.unwrap_or_default(),
                password: password(password_file)?.unwrap_or_default(),
                options: None,
                data_username: data_username.unwrap_or_default(),
                data_password: password(data_password_file)?.unwrap_or_default(),
                accept_shared_risk,
            };
            change::run(remote, &check, |c, options| create_with(c, &wanted, options)).await
        }
        GroupCommand::AddServer { id, address, accept_shared_risk } => {
            let call = |mut c: Client, options| {
                let (product, address, options) = (product.to_owned(), address.clone(), Some(options));
                let request = AddServerRequest { product, group: id, address, options, accept_shared_risk };
                async move { c.add_server(request).await }
            };
            change::run(remote, &check, call).await
        }
        GroupCommand::RemoveServer { id, address, force } => {
            let call = |mut c: Client, options| {
                let (product, address, options) = (product.to_owned(), address.clone(), Some(options));
                let request = RemoveServerRequest { product, group: id, address, options, force };
                async move { c.remove_server(request).await }
            };
            change::run(remote, &check, call).await
        }
        GroupCommand::Drain { id } => {
            let call = |mut c: Client, options| {
                let product = product.to_owned();
                async move { c.drain_group(DrainGroupRequest { product, id, options: Some(options) }).await }
            };
            change::run(remote, "pontoon migrate ls", call).await
        }
        GroupCommand::Remove { id } => {
            let call = |mut c: Client, options| {
                let product = product.to_owned();
                async move { c.remove_group(RemoveGroupRequest { product, id, options: Some(options) }).await }
            };
            change::run(remote, &check, call).await
        }
    };
    made.map(drop)
}

/// Creates a group for the playground, and says nothing.
pub(super) async fn create(remote: &Remote, wanted: &CreateGroupRequest) -> Result<ChangeReply, CliError> {
    let check = format!("pontoon group ls --product {}", wanted.product);
    remote.change(&check, |c, options| create_with(c, wanted, options)).await
}

fn create_with(
    mut client: Client,
    wanted: &CreateGroupRequest,
    options: ChangeOptions,
) -> impl Future<Output = Result<Response<ChangeReply>, Status>> + use<> {
    let request = CreateGroupRequest { options: Some(options), ..wanted.clone() };
    async move { client.create_group(request).await }
}

async fn promote(remote: &Remote, group: u32, address: &str, force: bool) -> Result<ChangeReply, CliError> {
    let product = remote.product();
    let call = |mut c: Client, options| {
        let (product, address) = (product.to_owned(), address.to_owned());
        let request = PromoteRequest { product, group, address, force, options: Some(options) };
        async move { c.promote(request).await }
    };
    change::run(remote, &format!("pontoon group show {group} --product {product}"), call).await
}

fn parse(id: u32, settings: &[String]) -> Result<SetGroupRequest, String> {
    let mut wanted = SetGroupRequest { id, ..SetGroupRequest::default() };
    for setting in settings {
        let (key, value) = setting::split(setting)?;
        match key {
            "down-after" => {
                let ms = duration::parse(value).map_err(|e| format!("down-after: {e}"))?.as_millis();
                wanted.down_after_ms = Some(u32::try_from(ms).unwrap_or(u32::MAX));
            }
            "data-user" if value == "new" && settings.len() == 1 => wanted.new_data_user = true,
            "data-user" => return Err("data-user: new is expected, and no other setting with it".into()),
            "maintenance" => wanted.maintenance = Some(setting::on_off(key, value)?),
            "eject-after" => wanted.eject_after_ms = Some(duration_or_off(key, value)?),
            "busy-failover-after" | "loading-failover-after" | "misconf-failover-after" | "script-kill-after" => {
                let ms = Some(duration_or_off(key, value)?);
                let impaired = wanted.impaired.get_or_insert_default();
                match key {
                    "busy-failover-after" => impaired.busy_failover_after_ms = ms,
                    "loading-failover-after" => impaired.loading_failover_after_ms = ms,
                    "misconf-failover-after" => impaired.misconf_failover_after_ms = ms,
                    _ => impaired.script_kill_after_ms = ms,
                }
            }
            _ => {
                let all = "down-after, busy-failover-after, loading-failover-after, misconf-failover-after, \
                           script-kill-after, maintenance, data-user and, in a cache, eject-after";
                return Err(format!("'{key}' is not a setting of a group; the settings are {all}"));
            }
        }
    }
    Ok(wanted)
}

/// A time in milliseconds, or 0 for `off`. (The time 0 is refused: it looks like at once.)
fn duration_or_off(key: &str, value: &str) -> Result<u32, String> {
    if value != "0" && setting::is_none(value) {
        return Ok(0);
    }
    let ms = duration::parse(value).map_err(|e| format!("{key}: {e}"))?.as_millis();
    Ok(u32::try_from(ms).unwrap_or(u32::MAX))
}

/// The groups of the product that the command is about.
pub(super) async fn list(remote: &Remote) -> Result<ListGroupsReply, CliError> {
    list_of(remote, remote.product()).await
}

/// The groups of a product.
pub(super) async fn list_of(remote: &Remote, product: &str) -> Result<ListGroupsReply, CliError> {
    let call = |mut c: Client| {
        let product = product.to_owned();
        async move { c.list_groups(ListGroupsRequest { product }).await }
    };
    remote.read(call).await
}

async fn ls(remote: &Remote) -> Result<(), CliError> {
    let ListGroupsReply { groups, not_observed_because } = list(remote).await?;
    if remote.json() {
        return output::print_json(&groups);
    }
    output::print_text(&view::to_text_list(&groups));
    warn(not_observed_because);
    Ok(())
}

async fn show(remote: &Remote, id: u32) -> Result<(), CliError> {
    let call = |mut c: Client| {
        let product = remote.product().to_owned();
        async move { c.show_group(ShowGroupRequest { product, id }).await }
    };
    let reply: ShowGroupReply = remote.read(call).await?;
    if remote.json() {
        return output::print_json(&reply);
    }
    output::print_text(&view::to_text(&reply, remote.product()));
    warn(reply.not_observed_because);
    Ok(())
}

pub(super) fn warn(not_observed_because: Option<String>) {
    if let Some(why) = not_observed_because {
        output::warn(&format!("what nodes observe of the servers is missing: {why}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings() {
        let wanted = parse(3, &["down-after=500ms".into(), "maintenance=on".into()]).unwrap();
        assert_eq!((wanted.id, wanted.down_after_ms, wanted.maintenance), (3, Some(500), Some(true)));
        assert_eq!(parse(3, &["eject-after=off".into()]).unwrap().eject_after_ms, Some(0));
        assert_eq!(parse(3, &["eject-after=20s".into()]).unwrap().eject_after_ms, Some(20_000));
        assert!(parse(3, &["eject-after=0".into()]).is_err(), "0 looks like at once and would mean never");
        assert_eq!(parse(3, &["down-after=5".into()]).unwrap().down_after_ms, Some(5000));
        let texts = ["busy-failover-after=2m", "loading-failover-after=off", "script-kill-after=5s"].map(str::to_owned);
        let impaired = parse(3, &texts).unwrap().impaired.unwrap();
        assert_eq!((impaired.busy_failover_after_ms, impaired.loading_failover_after_ms), (Some(120_000), Some(0)));
        assert_eq!((impaired.misconf_failover_after_ms, impaired.script_kill_after_ms), (None, Some(5_000)));
        for (bad, part) in [
            ("down-after=soon", "down-after: "),
            ("maintenance=perhaps", "maintenance: on or off"),
            ("colour=red", "script-kill-after, maintenance, data-user and, in a cache, eject-after"),
            ("data-user=old", "new is expected"),
            ("script-kill-after=0", "not a duration"),
            ("down-after", "KEY=VALUE"),
        ] {
            let refused = parse(3, &[bad.into()]).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
