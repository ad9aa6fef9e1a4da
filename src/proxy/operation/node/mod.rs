//! Commands that a node answers with what all of its workers know: about the clients of the asker's product, and about
//! what they have asked. Knows nothing of servers.

mod clients;
mod options;
mod pause;
mod slow_log;

use std::rc::Rc;

pub(in crate::proxy) use clients::{describe, kill};
use tokio::sync::mpsc;

use super::Operation;
use crate::{
    commands::{Args, NodeCommand},
    model::ids::ProductId,
    proxy::monitor,
    resp::write,
};

/// Runs a command.
pub(in crate::proxy) async fn run(operation: Operation, command: NodeCommand) {
    match command {
        NodeCommand::ClientList => clients::list(operation).await,
        NodeCommand::ClientKill => clients::kill_some(operation).await,
        NodeCommand::ClientUnblock => clients::unblock(operation).await,
        NodeCommand::ClientPause => pause::pause(operation).await,
        NodeCommand::ClientUnpause => pause::unpause(operation).await,
        NodeCommand::Monitor => monitor(operation).await,
        NodeCommand::SlowlogGet => slow_log::get(operation).await,
        NodeCommand::SlowlogLen => slow_log::len(operation).await,
        NodeCommand::SlowlogReset => slow_log::reset(operation).await,
    }
}

/// Lets the client see the requests of its product from now on.
async fn monitor(operation: Operation) {
    let (worker, session) = (operation.worker.clone(), operation.session.clone());
    if session.is_monitor.get() {
        return operation.finish(b"+OK\r\n");
    }
    if operation.is_within() {
        // (Redis, `monitorCommand`.)
        return operation.refuse("ERR MONITOR isn't allowed for DENY BLOCKING client");
    }
    let max = monitor::MONITORS_MAX;
    if session.product.monitors.count() >= max {
        let text = format!("ERR this product has {max} clients that MONITOR at this node already, not executed");
        return operation.refuse(&text);
    }
    let (product, (lines, shown)) = (product(&operation), mpsc::channel(monitor::LINES_MAX));
    let added = worker.workers.ask_all(move |worker| worker.add_monitor(product, lines.clone())).await;
    if let Err(unanswered) = added {
        return operation.refuse(&format!("ERR {unanswered}"));
    }
    session.is_monitor.set(true);
    operation.finish(b"+OK\r\n");
    tokio::task::spawn_local(monitor::run(worker, session, shown));
}

fn product(operation: &Operation) -> ProductId {
    operation.session.product.routes.borrow().id
}

/// The error for a call with too many arguments. (Redis, `addReplySubcommandSyntaxError`.)
fn wrong_arguments(operation: &Operation) -> String {
    let call = operation.call();
    let name = |at: usize| String::from_utf8_lossy(&call.get(at)[..call.get(at).len().min(128)]).into_owned();
    format!(
        "ERR unknown subcommand or wrong number of arguments for '{}'. Try {} HELP.",
        name(1),
        name(0).to_ascii_uppercase()
    )
}

/// Answers OK, or that a worker gave no answer.
fn finish_ok(operation: Operation, done: Result<(), impl std::fmt::Display>) {
    match done {
        Ok(()) => operation.finish(b"+OK\r\n"),
        Err(error) => operation.refuse(&format!("ERR {error}")),
    }
}

/// Answers with a number.
fn finish_number(operation: Operation, number: usize) {
    let mut reply = Vec::new();
    write::int(&mut reply, i64::try_from(number).unwrap_or(i64::MAX));
    operation.finish(&reply);
}

/// The workers of the node.
fn workers(operation: &Operation) -> crate::proxy::inquiry::Workers {
    Rc::clone(&operation.worker).workers.clone()
}
