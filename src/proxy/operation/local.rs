//! Commands that a node answers itself with the help of servers. Knows nothing of what the node adds.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    Operation, StepSlots, all_groups::Broadcast, debug::debug, histogram::histogram, info::info, one_server::on,
    texts::texts,
};
use crate::{
    commands::{Args, Local},
    proxy::{
        learnt::server_commands,
        local::{self, Settings},
    },
    resp::write::{self, Version},
};

/// How long servers may take for their settings, which clients ask for when they connect.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Runs a command that `local::asks_servers` names.
pub(in crate::proxy) async fn run(operation: Operation, local: Local) {
    match local {
        Local::Info => info(operation).await,
        Local::ConfigResetstat => reset_statistics(operation).await,
        Local::Debug => debug(operation).await,
        Local::LatencyHistogram => histogram(operation).await,
        Local::PontoonOn => on(operation).await,
        Local::ConfigGet => get_config(operation).await,
        Local::ConfigSet => set_config(operation).await,
        Local::CommandAll | Local::CommandInfo => describe_commands(operation).await,
        _ => about_commands(operation, local).await,
    }
}

/// Runs CONFIG GET of settings of the servers.
async fn get_config(operation: Operation) {
    let settings = settings_of_servers(&operation).await;
    let routes = operation.routes();
    let mut reply = Vec::new();
    local::config_get(&operation.worker, &operation.session, &routes, &operation.call(), &settings, &mut reply);
    operation.finish(&reply);
}

/// The settings of the servers that a CONFIG GET or CONFIG SET names.
async fn settings_of_servers(operation: &Operation) -> Settings {
    let names = local::config_of_servers(&operation.call());
    let mut args: Vec<&[u8]> = vec![b"CONFIG", b"GET"];
    args.extend(names.iter().map(|name| name.as_bytes()));
    let mut request = Vec::new();
    write::request(&mut request, &args);
    let mut settings = Settings::new();
    let replies = match names.is_empty() {
        true => Vec::new(),
        false => operation.ask_primaries_until(&request, Instant::now() + ANSWER_MAX).await,
    };
    for (_, reply) in replies {
        let texts = reply.as_deref().and_then(texts).unwrap_or_default();
        let pairs = texts.chunks_exact(2).filter(|pair| names.contains(&pair[0].as_str()));
        local::merge_config(&mut settings, pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect());
    }
    settings
}

/// Runs CONFIG RESETSTAT: at the node, and where the operator lets clients change the servers, at all primaries.
async fn reset_statistics(operation: Operation) {
    let routes = operation.routes();
    if routes.rules.debug_commands {
        let mut request = Vec::new();
        write::request(&mut request, &[b"CONFIG", b"RESETSTAT"]);
        let broadcast = Broadcast { request: &request, db: 0, slots: StepSlots::None, is_write: true };
        if let Err(text) = broadcast.send(&operation, &mut None).await {
            return operation.refuse(&text);
        }
    }
    operation.worker.shared.usage.reset(routes.id);
    operation.finish(b"+OK\r\n");
}

/// Runs CONFIG SET: at all primaries, if clients may change their settings, and then at all workers.
async fn set_config(operation: Operation) {
    match config_was_set(&operation).await {
        Ok(()) => operation.finish(b"+OK\r\n"),
        Err(text) => operation.refuse(&text),
    }
}

async fn config_was_set(operation: &Operation) -> Result<(), String> {
    let settings = settings_of_servers(operation).await;
    let (worker, routes) = (&operation.worker, operation.routes());
    let changes = local::config_changes(worker, &operation.session, &routes, &operation.call(), &settings)?;
    if !changes.at_servers.is_empty() {
        let mut words: Vec<&[u8]> = vec![b"CONFIG", b"SET"];
        words.extend(changes.at_servers.iter().map(Vec::as_slice));
        let mut request = Vec::new();
        write::request(&mut request, &words);
        let broadcast = Broadcast { request: &request, db: 0, slots: StepSlots::None, is_write: true };
        broadcast.send(operation, &mut None).await?;
    }
    if !changes.own.is_empty() {
        let (product, own) = (routes.id, changes.own);
        let asked = worker.workers.ask_all(move |worker| worker.set_own(product, &own)).await;
        asked.map_err(|unanswered| format!("ERR {unanswered}: it may not have changed the setting"))?;
    }
    Ok(())
}

/// Runs COMMAND or COMMAND INFO: a server describes its commands. If none answers soon, the node does, in fewer words, since client
/// libraries ask when they connect.
async fn describe_commands(operation: Operation) {
    let call = operation.call();
    let (product, version) = (&operation.session.product, operation.session.client.borrow().version);
    let servers = server_commands(&operation.worker, product);
    let mut words: Vec<&[u8]> = vec![b"COMMAND"];
    let is_all = call.args.len() <= 2;
    if is_all {
        let known = servers.as_ref().and_then(|servers| product.described.borrow().get(servers, version));
        if let Some(known) = known {
            return operation.finish(&known);
        }
    } else {
        words.push(b"INFO");
        words.extend((2..call.args.len()).map(|i| call.get(i)));
    }
    let mut request = Vec::new();
    write::request(&mut request, &words);
    let described = timeout(ANSWER_MAX, operation.ask_a_primary(&request, version)).await;
    let mut reply = Vec::new();
    let is_written = matches!(&described, Ok(Ok(described))
        if local::command_info_by_server(servers.as_deref(), &call, described, &mut reply, version));
    match (is_written, servers) {
        (true, Some(servers)) if is_all => product.described.borrow_mut().keep(servers, version, &reply),
        (true, _) => {}
        (false, servers) if is_all => local::command_all(servers.as_deref(), &mut reply, version),
        (false, servers) => local::command_info(servers.as_deref(), &call, &mut reply, version),
    }
    operation.finish(&reply);
}

/// Asks a server about commands, and leaves out those that the product does not offer.
async fn about_commands(operation: Operation, local: Local) {
    let words = match local::command_for_server(&operation.call()) {
        Ok(words) => words,
        Err(text) => return operation.refuse(&text),
    };
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let mut request = Vec::new();
    write::request(&mut request, &words);
    let version = operation.session.client.borrow().version;
    let is_list = local != Local::CommandGetkeysandflags;
    let reply = match operation.ask_a_primary(&request, if is_list { Version::Resp2 } else { version }).await {
        Ok(reply) => reply,
        Err(error) => return operation.refuse(error.text()),
    };
    let Some(names) = texts(&reply).filter(|_| is_list) else { return operation.finish(&reply) };
    let servers = server_commands(&operation.worker, &operation.session.product);
    let offered: Vec<_> = names.iter().filter(|name| local::offers(servers.as_deref(), name)).collect();
    let mut reply = Vec::new();
    write::array(&mut reply, offered.len());
    offered.iter().for_each(|name| write::bulk(&mut reply, name.as_bytes()));
    operation.finish(&reply);
}
