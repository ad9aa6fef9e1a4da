//! PONTOON ON: sends a command that only reads to one server of the product's groups, as the control user.
//! Knows nothing of which commands those are.

use std::{rc::Rc, time::Duration};

use tokio::time::timeout;

use super::{Operation, StepError, StepSlots, step::received, texts::texts};
use crate::{
    commands::Args,
    proxy::{
        backend::Backend,
        local::{ServerCommand, is_shown},
    },
    resp::write::{self, Version},
};

/// How long a server may take: LATENCY HISTOGRAM of all commands is the longest.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The error where the operator has not allowed it.
const NOT_ALLOWED: &str = "NOPERM 'pontoon|on' is not executed: the answers of servers name other clients, and the operator \
    has not allowed that for this product. See: pontoon product set NAME server-commands=on";

/// Runs PONTOON ON.
pub(in crate::proxy) async fn on(operation: Operation) {
    match answer(&operation).await {
        Ok(reply) => operation.finish(&reply),
        Err(text) => operation.refuse(&text),
    }
}

async fn answer(operation: &Operation) -> Result<Vec<u8>, String> {
    let call = operation.call();
    if !operation.routes().rules.server_commands {
        return Err(NOT_ALLOWED.into());
    }
    let command = ServerCommand::of(&call)?;
    operation.may_serve()?;
    let version = if command.is_config { Version::Resp2 } else { operation.session.client.borrow().version };
    let backend = backend(operation, &String::from_utf8_lossy(call.get(2)), version)?;
    operation.worker.report_server_ask(
        (operation.routes().id, &operation.routes().name),
        operation.session.addr.ip(),
        &backend.addr,
        &command.words,
    );
    let words: Vec<&[u8]> = command.words.iter().map(Vec::as_slice).collect();
    let mut request = Vec::new();
    write::request(&mut request, &words);
    let text = |error: StepError| error.text().to_owned();
    let sent = operation.send(&backend, &request, StepSlots::None, false).map_err(text)?;
    let reply = match timeout(ANSWER_MAX, received(sent)).await {
        Ok(reply) => reply.map_err(text)?,
        Err(_) => return Err(format!("ERR the server has not answered within {} s", ANSWER_MAX.as_secs())),
    };
    match texts(&reply).filter(|_| command.is_config) {
        Some(settings) => Ok(without_secrets(&settings, operation.session.client.borrow().version)),
        None => Ok(reply),
    }
}

/// The connection to the server that `name` names: the id of a group, for its primary, or an address.
fn backend(operation: &Operation, name: &str, version: Version) -> Result<Rc<Backend>, String> {
    let routes = operation.routes();
    let (worker, product) = (&operation.worker, &operation.session.product);
    let set = product.control_set(0, version);
    for group in &routes.groups {
        let mut servers = std::iter::once(&group.primary).chain(&group.replicas);
        let server =
            if group.id.to_string() == name { servers.next() } else { servers.find(|addr| addr.as_str() == name) };
        if let Some(addr) = server {
            return Ok(set.of_server(worker, product, (group, addr)));
        }
    }
    let ids: Vec<String> = routes.groups.iter().map(|group| group.id.to_string()).collect();
    Err(format!(
        "ERR no group or server of this product has this name, not executed. Its groups are {}; a server is named by its \
         address",
        ids.join(", ")
    ))
}

/// The reply to CONFIG GET without the settings that are secrets.
fn without_secrets(settings: &[String], version: Version) -> Vec<u8> {
    let shown: Vec<_> = settings.chunks_exact(2).filter(|pair| is_shown(&pair[0])).collect();
    let mut reply = Vec::new();
    write::map(&mut reply, shown.len(), version);
    shown.iter().flat_map(|pair| pair.iter()).for_each(|text| write::bulk(&mut reply, text.as_bytes()));
    reply
}
