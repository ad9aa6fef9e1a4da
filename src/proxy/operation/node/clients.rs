//! CLIENT LIST, KILL and UNBLOCK, and the same for operators. Only clients of the asker's product are seen.
//! Knows nothing of how a client is described.

use super::{
    super::Operation,
    finish_number, finish_ok,
    options::{Asker, Of, filter},
    product, workers, wrong_arguments,
};
use crate::{
    commands::Args,
    proxy::{
        blocking::Unblock,
        client_id,
        client_view::{ClientCondition, ClientFilter, ClientView},
        inquiry::{Unanswered, Workers},
    },
    resp::{number, write},
};

/// The clients of a node that a filter means, up to `max`, in the order of their ids; and whether there are more.
pub(in crate::proxy) async fn describe(
    workers: &Workers,
    filter: &ClientFilter,
    max: usize,
) -> Result<(Vec<ClientView>, bool), Unanswered> {
    let mut clients = Vec::new();
    for index in 0..workers.count() {
        let mut from = Some(0);
        while let Some(first) = from {
            let filter = filter.clone();
            let page = workers.ask(index, move |worker| worker.describe_clients(&filter, first)).await?;
            clients.extend(page.clients);
            if clients.len() > max {
                clients.truncate(max);
                return Ok((clients, true));
            }
            from = page.next;
        }
    }
    clients.sort_unstable_by_key(|client| client.id);
    Ok((clients, false))
}

/// Closes the clients of a node that a filter means, and returns their ids. `asks`: the client that asks, which is not closed
/// here.
pub(in crate::proxy) async fn kill(
    workers: &Workers,
    filter: &ClientFilter,
    asks: Option<u64>,
) -> Result<Vec<ClientView>, Unanswered> {
    let mut killed = Vec::new();
    for index in 0..workers.count() {
        let mut from = Some(0);
        while let Some(first) = from {
            let filter = filter.clone();
            let page = workers.ask(index, move |worker| worker.kill_clients(&filter, first, asks)).await?;
            killed.extend(page.clients);
            from = page.next;
        }
    }
    Ok(killed)
}

/// Runs CLIENT LIST.
pub(super) async fn list(operation: Operation) {
    let filter = match filter_of(&operation, Of::List) {
        Ok(filter) => filter,
        Err(text) => return operation.refuse(&text),
    };
    let workers = workers(&operation);
    let mut lines: Vec<(u64, String)> = Vec::new();
    let mut bytes = 0;
    for index in 0..workers.count() {
        let mut from = Some(0);
        while let Some(first) = from {
            let filter = filter.clone();
            let page = match workers.ask(index, move |worker| worker.describe_clients(&filter, first)).await {
                Ok(page) => page,
                Err(unanswered) => return operation.refuse(&format!("ERR {unanswered}")),
            };
            for mut client in page.clients {
                if client.id == operation.session.id {
                    client = client.with_own_request(operation.call().bytes.len());
                    // A Redis has no reply of this request yet that waits.
                    client.waiting -= client.waiting.min(1);
                }
                let line = format!("{client}\n");
                bytes += line.len();
                lines.push((client.id, line));
            }
            operation.charge(bytes);
            if !operation.may_keep(bytes) {
                return;
            }
            from = page.next;
        }
    }
    lines.sort_unstable_by_key(|(id, _)| *id);
    let text: String = lines.into_iter().map(|(_, line)| line).collect();
    let version = operation.session.client.borrow().version;
    let mut reply = Vec::new();
    write::verbatim(&mut reply, &text, version);
    operation.finish(&reply);
}

/// Runs CLIENT KILL.
pub(super) async fn kill_some(operation: Operation) {
    // The form before Redis 2.8.12: one address, of any client.
    let is_old_form = operation.call().len() == 3;
    let filter = if is_old_form {
        let mut filter = ClientFilter::of(product(&operation));
        let addr = String::from_utf8_lossy(operation.call().get(2)).into_owned();
        filter.require(false, ClientCondition::Addr(addr));
        Ok(filter)
    } else {
        filter_of(&operation, Of::Kill)
    };
    let filter = match filter {
        Ok(filter) => filter,
        Err(text) => return operation.refuse(&text),
    };
    let session = operation.session.clone();
    let killed = match kill(&workers(&operation), &filter, Some(session.id)).await {
        Ok(killed) => killed,
        Err(unanswered) => return operation.refuse(&format!("ERR {unanswered}")),
    };
    let closes = killed.iter().any(|client| client.id == session.id);
    match (is_old_form, killed.len()) {
        (true, 0) => operation.refuse("ERR No such client"),
        (true, _) => finish_ok(operation, Ok::<(), Unanswered>(())),
        (false, count) => finish_number(operation, count),
    }
    if closes {
        session.close_when_answered();
    }
}

fn filter_of(operation: &Operation, of: Of) -> Result<ClientFilter, String> {
    let routes = operation.routes();
    let asker = Asker { id: operation.session.id, product: routes.id, auth: &routes.auth };
    filter(of, &operation.call(), asker)
}

/// Runs CLIENT UNBLOCK.
pub(super) async fn unblock(operation: Operation) {
    let wanted = {
        let call = operation.call();
        match (call.len(), (call.len() > 3).then(|| call.get(3).to_ascii_lowercase()).as_deref()) {
            (5.., _) => Err(wrong_arguments(&operation)),
            (_, None | Some(b"timeout")) => Ok(Unblock::Timeout),
            (_, Some(b"error")) => Ok(Unblock::Error),
            _ => Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".into()),
        }
        .and_then(|how| match number::parse(call.get(2)) {
            Some(id) => Ok((how, u64::try_from(id).unwrap_or_default())),
            None => Err("ERR value is not an integer or out of range".into()),
        })
    };
    let (how, id) = match wanted {
        Ok(wanted) => wanted,
        Err(text) => return operation.refuse(&text),
    };
    let (workers, product) = (workers(&operation), product(&operation));
    let Some(index) = client_id::worker_of(id, operation.worker.config.node, workers.count()) else {
        return finish_number(operation, 0);
    };
    match workers.ask(index, move |worker| worker.unblock(id, Some(product), how)).await {
        Ok(ended) => finish_number(operation, usize::from(ended)),
        Err(unanswered) => operation.refuse(&format!("ERR {unanswered}")),
    }
}
