//! `pontoon serve`: loads the configuration and runs a node.

use std::path::PathBuf;

use clap::Args;

use super::{
    Common,
    error::{CliError, failed},
    output, protect,
};
use crate::{
    config::{Config, log::LogFormat},
    logging,
    node::{self, start_check, tasks::UnexpectedEnd},
};

/// `pontoon serve ...`. Every flag is also a setting of the file and of the environment; `--set` sets those without a flag.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// TOML file; the environment (PONTOON_...) and flags override it
    #[arg(long, value_name = "FILE", env = "PONTOON_CONFIG")]
    config: Option<PathBuf>,
    /// Id of this node, unique in the cluster, from 1
    #[arg(long)]
    id: Option<String>,
    /// Where other nodes and operators reach this node
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// Where this node listens for them, if that differs from --admin (a published port, a relay)
    #[arg(long, value_name = "HOST:PORT")]
    admin_listen: Option<String>,
    /// Further host names by which monitoring asks this node, beside its addresses and localhost
    #[arg(long, value_name = "NAME,...")]
    admin_hosts: Option<String>,
    /// Nodes that form the cluster together, this one included; the same list on each
    #[arg(long, value_name = "ID=HOST:PORT,...")]
    peers: Option<String>,
    /// Admin address of any node of a running cluster to join
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "peers")]
    join: Option<String>,
    /// IP address on which the ports for clients are bound
    #[arg(long, value_name = "IP")]
    bind: Option<String>,
    /// Host that clients are given
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Added to every product's port, so that several nodes fit on one host
    #[arg(long, value_name = "N")]
    port_offset: Option<String>,
    /// Directory of this node's log; never copy one
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Data threads; 0: one per core but one
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Serve beyond loopback without a cluster secret, and products without a password
    #[arg(long)]
    insecure: bool,
    /// Log lines as text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug or trace; or directives
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other setting, as proxy.clients_max=1000 (may be repeated; --print-config shows all)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Check whether this node could start now, change nothing, and exit: 0 it could, 2 it could not
    #[arg(long)]
    check_config: bool,
    /// Print every setting with its value, default and meaning, and exit
    #[arg(long)]
    print_config: bool,
}

impl ServeArgs {
    /// The given flags as settings. Flags with a name override `--set`.
    fn settings(&self, common: &Common) -> Result<Vec<(String, String)>, String> {
        let mut settings = Vec::new();
        for text in &self.set {
            let (key, value) = text.split_once('=').ok_or_else(|| format!("--set: '{text}' is not KEY=VALUE"))?;
            settings.push((key.to_owned(), value.to_owned()));
        }
        let secret_file = match &common.secret_file {
            Some(path) => Some(path.to_str().ok_or("--secret-file: the path is not UTF-8")?.to_owned()),
            None => None,
        };
        let named = [
            ("id", &self.id),
            ("admin", &self.admin),
            ("admin_listen", &self.admin_listen),
            ("admin_hosts", &self.admin_hosts),
            ("peers", &self.peers),
            ("join", &self.join),
            ("bind", &self.bind),
            ("advertise", &self.advertise),
            ("port_offset", &self.port_offset),
            ("data_dir", &self.data_dir),
            ("secret_file", &secret_file),
            ("proxy.workers", &self.workers),
            ("log.format", &self.log_format),
            ("log.level", &self.log_level),
        ];
        settings.extend(named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))));
        if self.insecure {
            settings.push(("insecure".into(), "true".into()));
        }
        Ok(settings)
    }
}

pub(super) fn run(args: &ServeArgs, common: &Common) -> Result<(), CliError> {
    let settings = args.settings(common).map_err(CliError::Usage)?;
    let file = args.config.clone();
    let load = move || {
        let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Config::load(file.as_deref(), env, &settings)
    };
    let (config, notes) = load().map_err(CliError::Usage)?;
    for note in notes {
        output::note(&note);
    }
    if args.print_config {
        output::print_text(&config.print());
        return Ok(());
    }
    if args.check_config {
        start_check::check(&config).map_err(CliError::Usage)?;
        output::print_text("the configuration is valid\n");
        return Ok(());
    }
    config.check().map_err(CliError::Usage)?;
    protect::process();
    let log = &config.log;
    let levels = log.levels().map_err(CliError::Usage)?;
    logging::start(levels, log.format == LogFormat::Json, log.file.as_deref()).map_err(failed)?;
    // The runtime of the control plane. Two threads, so that heartbeats do not wait for a thread that is busy with the
    // log.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|e| failed(format!("the runtime could not be started: {e}")))?;
    let read = move || load().map(|(config, _)| config);
    runtime.block_on(node::run(config, read)).map_err(|error| match error.downcast_ref::<UnexpectedEnd>() {
        Some(end) => CliError::Internal(end.to_string()),
        None => failed(format!("{error:#}")),
    })
}
