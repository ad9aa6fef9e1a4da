//! The command line: a client of the admin API, and the way to start a node or a playground.
//! Knows nothing of Raft, and makes no decision that a node makes.

mod client;
mod cluster;
mod duration;
mod error;
mod events;
mod exec_child;
mod group;
mod maintenance;
mod migrate;
mod node;
mod output;
mod playground;
mod product;
mod protect;
mod rebalance;
mod recover;
mod serve;
mod server;
mod setting;
mod slot;
mod status;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::{client::Remote, error::CliError};

/// The product that the first leader of a cluster creates.
const DEFAULT_PRODUCT: &str = "default";

/// The command line of `pontoon`.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version, about = "A Redis proxy cluster that coordinates itself", propagate_version = true)]
#[command(arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 success; 1 refused or failed, not executed; 2 wrong usage; 3 outcome unknown; 4 the change was made, but what the command waited for failed or is not done yet; 5 (serve) a part of the node ended unexpectedly. `status --check` has its own: 0 ok, 1 warning, 2 critical, 3 unknown."
)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command that talks to a cluster.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Flags of commands that talk to a cluster")]
pub struct Common {
    /// Admin address of any node; it forwards to the leader
    #[arg(long, global = true, env = "PONTOON_NODE", value_name = "HOST:PORT", default_value = "127.0.0.1:19101")]
    node: String,
    /// The product that groups and slots belong to
    #[arg(long, global = true, value_name = "NAME", default_value = DEFAULT_PRODUCT)]
    product: String,
    /// Tables for people, or JSON for programs
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
    /// Only report what would change
    #[arg(long, global = true)]
    dry_run: bool,
    /// Return when every live node serves by the change
    #[arg(long, global = true)]
    wait: bool,
    /// Give up after this time, for example 500ms, 10s or 5m [default: 10s; 5m with --wait]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// File with the cluster secret, mode 0600
    #[arg(long, global = true, env = "PONTOON_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns.
    Table,
    /// One JSON value, sorted keys.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(Box<serve::ServeArgs>),
    /// Make this stopped node a cluster of one node, after the quorum was lost permanently
    Recover(recover::RecoverArgs),
    /// Run a cluster and its redis-servers on this machine, to try it out
    Playground(playground::PlaygroundArgs),
    /// Show how the cluster is: a headline, leader, nodes, what the leader waits for, and warnings with what clears them
    Status(status::StatusArgs),
    /// List or remove nodes, or choose their role
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// List, create, change or remove products (tenants)
    #[command(subcommand)]
    Product(product::ProductCommand),
    /// List, create, change or remove groups (a primary and its replicas)
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Change the settings of a server: which replicas are promoted first
    #[command(subcommand)]
    Server(server::ServerCommand),
    /// Stop automatic changes of servers (failover, replication reconciliation), or allow them again
    Maintenance(maintenance::MaintenanceArgs),
    /// List or assign slots, or show the slot of a key
    #[command(subcommand)]
    Slot(slot::SlotCommand),
    /// Move slots with their keys, while clients use them
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Rebalance the groups of the product: show which slots would move, and move them with --apply
    Rebalance(rebalance::RebalanceArgs),
    /// Show what happened, with the evidence
    Events(events::EventsArgs),
    /// Show or change settings of the whole cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Start a program that is killed when its parent ends; used by the playground
    #[command(hide = true, name = exec_child::NAME)]
    ExecChild(exec_child::ExecChildArgs),
}

/// Runs the command line of this process. Called by `main`, on its first thread.
#[must_use]
pub fn run() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let check = matches!(&command, Command::Status(args) if args.check).then_some(common.output);
    let result = match command {
        Command::Serve(args) => serve::run(&args, &common),
        Command::Recover(args) => recover::run(&args),
        Command::Playground(args) => playground::run(args),
        Command::ExecChild(args) => exec_child::run(&args),
        command => error::runtime().and_then(|rt| rt.block_on(remote(command, common))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match check {
                Some(output) => return status::checked(error, output).code(),
                None => eprintln!("pontoon: {error}"),
            }
            error.code()
        }
    }
}

async fn remote(command: Command, common: Common) -> Result<(), CliError> {
    let remote = Remote::new(common)?;
    match command {
        Command::Status(args) => status::run(&args, &remote).await,
        Command::Node(command) => node::run(command, &remote).await,
        Command::Product(command) => product::run(command, &remote).await,
        Command::Group(command) => group::run(command, &remote).await,
        Command::Server(command) => server::run(command, &remote).await,
        Command::Maintenance(args) => maintenance::run(args, &remote).await,
        Command::Slot(command) => slot::run(command, &remote).await,
        Command::Migrate(command) => migrate::run(command, &remote).await,
        Command::Rebalance(args) => rebalance::run(args, &remote).await,
        Command::Events(args) => events::run(args, &remote).await,
        Command::Cluster(command) => cluster::run(command, &remote).await,
        Command::Serve(_) | Command::Recover(_) | Command::Playground(_) | Command::ExecChild(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
