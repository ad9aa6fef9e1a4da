//! The command line: a client of the admin API, and the way to start a node or a playground.
//! Knows nothing of Raft, and makes no decision that a node makes.

mod change;
mod client;
mod clients;
mod cluster;
mod declared;
mod duration;
mod error;
mod events;
mod exec_child;
mod group;
mod maintenance;
mod manual;
mod migrate;
mod node;
mod output;
mod playground;
mod product;
mod product_show;
mod protect;
mod quorum;
mod rebalance;
mod recover;
mod serve;
mod server;
mod setting;
mod slot;
mod status;
mod version;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use self::{client::Remote, error::CliError};

/// The product that the first leader of a cluster creates.
const DEFAULT_PRODUCT: &str = "default";

/// The command line of `pontoon`.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version, about = "A Redis proxy cluster that coordinates itself", propagate_version = true)]
#[command(arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 success; 1 refused or failed, not executed; 2 wrong usage; 3 outcome unknown; 4 the change was made, but what the command waited for failed or is not done yet; 5 (serve) a part of the node ended unexpectedly; 141 the reader of the output has gone. `status --check` has its own: 0 ok, 1 warning, 2 critical, 3 unknown."
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
    /// Admin address of any node, which forwards to the leader; of several, the next is asked when one does not answer
    #[arg(long, global = true, env = "PONTOON_NODE", value_name = "HOST:PORT,...", default_value = "127.0.0.1:19101")]
    node: String,
    /// The product that groups and slots belong to [default: default; all products in lists of servers and events]
    #[arg(long, global = true, value_name = "NAME")]
    product: Option<String>,
    /// Tables for people, or JSON for programs
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
    /// Only report what would change; refused by commands that change nothing
    #[arg(long, global = true)]
    dry_run: bool,
    /// Return when every live node serves by the change; refused by commands that change nothing
    #[arg(long, global = true)]
    wait: bool,
    /// Give up after this time, for example 500ms, 10s or 5m [default: 10s; 5m with --wait]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// File with the cluster secret, mode 0600: its first line; a node also accepts the second one, and reads the file
    /// again on SIGHUP
    #[arg(long, global = true, env = "PONTOON_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The names of the command, as "group set".
    #[arg(skip)]
    typed: String,
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
    /// List, show or remove nodes, or choose their role
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// List, show, create, change or remove products (tenants)
    #[command(subcommand)]
    Product(product::ProductCommand),
    /// List, create, change or remove groups (a primary and its replicas)
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// List the servers, or change settings of one: which replicas are promoted first
    #[command(subcommand)]
    Server(server::ServerCommand),
    /// Stop automatic changes of servers (failover, replication reconciliation), or allow them again
    #[command(subcommand)]
    Maintenance(maintenance::MaintenanceCommand),
    /// List, assign or release slots, or show the slot of a key
    #[command(subcommand)]
    Slot(slot::SlotCommand),
    /// Move slots with their keys, while clients use them
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// List or close the Redis clients of all nodes
    #[command(subcommand)]
    Client(clients::ClientCommand),
    /// Rebalance the groups of the product: show which slots would move, and move them with --apply
    Rebalance(rebalance::RebalanceArgs),
    /// Show what happened, with the evidence
    Events(events::EventsArgs),
    /// Show or change settings of the whole cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Show the version of this program, and those of the nodes if one can be reached
    Version,
    /// Print the script that completes commands in a shell
    Completions(manual::CompletionsArgs),
    /// Write the manual pages
    Man(manual::ManArgs),
    /// Start a program that is killed when its parent ends; used by the playground
    #[command(hide = true, name = exec_child::NAME)]
    ExecChild(exec_child::ExecChildArgs),
}

impl Command {
    /// Whether the command honours `--dry-run`, and `--wait`. What it does not honour is refused: an operator who asks
    /// only to be told must not be surprised.
    const fn honours(&self) -> (bool, bool) {
        let reads = match self {
            Self::Recover(_) => return (true, false),
            Self::Rebalance(args) => return (true, args.applies()),
            Self::Node(node::NodeCommand::Set { .. }) => return (true, false),
            Self::Client(command) => return (!command.reads(), false),
            Self::Node(command) => command.reads(),
            Self::Product(command) => command.reads(),
            Self::Group(command) => command.reads(),
            Self::Server(command) => command.reads(),
            Self::Maintenance(command) => command.reads(),
            Self::Slot(command) => command.reads(),
            Self::Migrate(command) => command.reads(),
            Self::Cluster(command) => command.reads(),
            Self::Serve(_)
            | Self::Playground(_)
            | Self::Status(_)
            | Self::Events(_)
            | Self::Version
            | Self::Completions(_)
            | Self::Man(_)
            | Self::ExecChild(_) => true,
        };
        (!reads, !reads)
    }
}

impl Cli {
    /// Parses the words of a command line, the program first.
    fn parse_words(words: &[OsString]) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(words)?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut Self::command()))?;
        cli.common.typed = declared::command(&matches);
        let (dry_run, wait) = cli.command.honours();
        let refused = match (cli.common.dry_run && !dry_run, cli.common.wait && !wait) {
            (true, _) => "--dry-run: this command has nothing that could be tried; leave it out",
            (false, true) => "--wait: this command makes no change that could be waited for; leave it out",
            (false, false) => return Ok(cli),
        };
        Err(Self::command().error(clap::error::ErrorKind::ArgumentConflict, refused))
    }
}

/// Runs the command line of this process. Called by `main`, on its first thread.
#[must_use]
pub fn run() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let Cli { common, command } = match Cli::parse_words(&words) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && asks_for_json(&words) => {
            let text = error.to_string();
            let why = text.trim_start_matches("error: ").trim_end();
            return ended(Err(CliError::Usage(why.to_owned())), Output::Json);
        }
        Err(error) => error.exit(),
    };
    let format = common.output;
    let checks = matches!(&command, Command::Status(args) if args.check);
    let result = match command {
        Command::Serve(args) => serve::run(&args, &common),
        Command::Recover(args) => recover::run(&args, &common),
        Command::Playground(args) => playground::run(args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::ExecChild(args) => exec_child::run(&args),
        command => error::runtime().and_then(|rt| rt.block_on(remote(command, common))),
    };
    match result {
        Err(error) if checks => status::checked(error, format).code(),
        result => ended(result, format),
    }
}

fn ended(result: Result<(), CliError>, format: Output) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error, format);
            error.code()
        }
    }
}

/// Whether a command line that cannot be parsed asks for JSON.
fn asks_for_json(words: &[OsString]) -> bool {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let apart = words.windows(2).any(|pair| matches!(&*pair[0], "--output" | "-o") && pair[1] == "json");
    apart || words.iter().any(|word| matches!(&**word, "--output=json" | "-ojson" | "-o=json"))
}

async fn remote(command: Command, common: Common) -> Result<(), CliError> {
    if matches!(command, Command::Version) {
        return version::run(common).await;
    }
    let remote = Remote::new(common)?;
    match command {
        Command::Status(args) => status::run(&args, &remote).await,
        Command::Node(command) => node::run(command, &remote).await,
        Command::Product(command) => product::run(command, &remote).await,
        Command::Group(command) => group::run(command, &remote).await,
        Command::Server(command) => server::run(command, &remote).await,
        Command::Maintenance(command) => maintenance::run(command, &remote).await,
        Command::Slot(command) => slot::run(command, &remote).await,
        Command::Migrate(command) => migrate::run(command, &remote).await,
        Command::Client(command) => clients::run(command, &remote).await,
        Command::Rebalance(args) => rebalance::run(args, remote).await,
        Command::Events(args) => events::run(args, &remote).await,
        Command::Cluster(command) => cluster::run(command, &remote).await,
        Command::Serve(_)
        | Command::Recover(_)
        | Command::Playground(_)
        | Command::Version
        | Command::Completions(_)
        | Command::Man(_)
        | Command::ExecChild(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
