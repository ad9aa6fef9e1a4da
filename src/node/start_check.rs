//! `pontoon serve --check-config`: whether a node could start now, up to the point where it listens. Changes nothing.
//! Knows nothing of the tasks of a node.

use std::net::{IpAddr, TcpListener};

use crate::{config::Config, consensus, logging};

/// Does what a start does, and only looks: settings, files, data directory, and the addresses that are bound.
///
/// # Errors
/// Returns the first thing that keeps the node from starting and what to do, as text for the operator.
pub fn check(config: &Config) -> Result<(), String> {
    config.check()?;
    config.secret()?;
    let data_dir = config.node.data_dir()?;
    consensus::check_directory(data_dir).map_err(|e| e.to_string())?;
    if let Some(file) = &config.log.file {
        logging::check_file(file)?;
    }
    let exists = data_dir.exists();
    if !(exists && consensus::belongs_to_a_cluster(data_dir).map_err(|e| e.to_string())?) {
        config.node.check_pristine()?;
    }
    is_local("bind", config.node.bind)?;
    config.node.source.map_or(Ok(()), |source| is_local("source", source))?;
    // What a node that runs has bound cannot be bound once more, so the directory says first that it runs.
    let lock = if exists { Some(consensus::lock_unchanged(data_dir)) } else { None };
    lock.transpose().map_err(|e| {
        format!(
            "{e}. (If that process is this node: the rest of the configuration is good, except that its admin address \
            was not tried)"
        )
    })?;
    let listen = config.node.admin_listen()?;
    let bound = TcpListener::bind(listen.as_str());
    bound.map(drop).map_err(|e| {
        format!("the admin port {listen} cannot be bound: {e}; give an address of this machine whose port no other program uses")
    })
}

/// Whether this machine has an address.
fn is_local(key: &str, address: IpAddr) -> Result<(), String> {
    // Port 0: any that is free.
    TcpListener::bind((address, 0))
        .map(drop)
        .map_err(|e| format!("{key}: {address} cannot be bound: {e}; give an address of this machine"))
}
