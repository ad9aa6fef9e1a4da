//! A running node: what `pontoon serve` starts, in the order in which it is needed, and stops in the reverse order.
//! Decides nothing: model and plan do.
//!
//! ```text
//! open    data directory locked -> identity -> log opened -> admin port bound
//! start   routes -> workers -> calls answered -> cluster formed or joined -> heartbeats -> control loops
//! wait    for a signal, a removal, a stopped log, or a task that ends unexpectedly
//! stop    clients drained -> stop reported to the leader -> leadership transferred -> calls ended -> log closed
//! ```

pub mod bootstrap;
pub mod data_users;
pub mod heartbeat;
pub mod leader_service;
pub mod lease;
pub mod machine_memory;
mod member_wire;
pub mod movers;
pub mod open;
pub mod probe;
pub mod proxy_config;
pub mod reading;
pub mod reads;
pub mod reload;
pub mod routes;
pub mod running;
pub mod scripts;
pub mod secret_file;
pub mod server_asks;
pub mod server_commands;
pub mod service;
pub mod start_check;
pub mod stop;
pub mod tasks;
pub mod unmanaged;

use anyhow::Context;

use self::{open::OpenNode, reload::Reload};
use crate::config::Config;

/// Runs a node until it has a reason to stop. It logs what it binds, and one line for each phase of its end. `read` reads
/// the settings again, on SIGHUP.
///
/// # Errors
/// Returns what kept the node from starting or made it stop, and what to do, as text for the operator. An error that is
/// a [`tasks::UnexpectedEnd`] is a bug in this program.
pub async fn run(
    config: Config,
    read: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    // Before anything else: until then these signals end the process.
    let reload = Reload::new(&config, read).context("signals cannot be caught")?;
    let mut node = OpenNode::open(&config).await?.start(&config)?;
    let secret_file = node.secret_file.take();
    let why = tokio::select! {
        why = node.wait() => why,
        never = reload.run(secret_file) => match never {},
    };
    node.stop(&why).await;
    why.into_result()
}
