//! Commands that a node answers itself with the help of servers. Knows nothing of what the node adds.

use std::time::Duration;

use tokio::time::Instant;

use super::{Operation, info::info, one_server::on, texts::texts};
use crate::{
    commands::Local,
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
        Local::PontoonOn => on(operation).await,
        Local::ConfigGet | Local::ConfigSet => config(operation, local).await,
        _ => about_commands(operation, local).await,
    }
}

/// Runs CONFIG GET and CONFIG SET of settings of the servers.
async fn config(operation: Operation, local: Local) {
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
    let (worker, routes) = (operation.worker.clone(), operation.routes());
    if local == Local::ConfigGet {
        let mut reply = Vec::new();
        local::config_get(&worker, &operation.session, &routes, &operation.call(), &settings, &mut reply);
        return operation.finish(&reply);
    }
    match local::config_changes(&worker, &operation.session, &routes, &operation.call(), &settings) {
        Err(text) => operation.refuse(&text),
        Ok(changes) if changes.is_empty() => operation.finish(b"+OK\r\n"),
        Ok(changes) => {
            let product = routes.id;
            match worker.workers.ask_all(move |worker| worker.set_own(product, &changes)).await {
                Ok(_) => operation.finish(b"+OK\r\n"),
                Err(unanswered) => operation.refuse(&format!("ERR {unanswered}: it may not have changed the setting")),
            }
        }
    }
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
