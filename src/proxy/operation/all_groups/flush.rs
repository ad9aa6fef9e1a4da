//! FLUSHALL, FLUSHDB and SWAPDB (decision 0028). Knows nothing of how a request is sent.

use tokio::time::Instant;

use super::{
    super::{Operation, StepSlots},
    broadcast::Broadcast,
    options::SYNTAX,
};
use crate::{
    commands::Args,
    model::route::ProductRoutes,
    resp::{number, write},
};

/// How often all groups are flushed until no slot has moved meanwhile. No owner changes under a hold while a flush is in
/// flight, so a second time is rare.
const ROUNDS_MAX: usize = 3;

/// Runs FLUSHALL or FLUSHDB.
pub(super) async fn flush(operation: Operation, name: &[u8]) {
    match flushed(&operation, name).await {
        Ok(()) => operation.finish(b"+OK\r\n"),
        Err(text) => operation.refuse(&text),
    }
}

async fn flushed(operation: &Operation, name: &[u8]) -> Result<(), String> {
    let call = operation.call();
    let mode: &[u8] = match call.args.len() {
        1 => b"",
        2 if call.get(1).eq_ignore_ascii_case(b"async") => b"ASYNC",
        2 if call.get(1).eq_ignore_ascii_case(b"sync") => b"SYNC",
        _ => return Err(SYNTAX.into()),
    };
    let mut request = Vec::new();
    let args: &[&[u8]] = if mode.is_empty() { &[name] } else { &[name, mode] };
    write::request(&mut request, args);
    let broadcast = Broadcast { request: &request, db: operation.db(), slots: StepSlots::All, is_write: true };
    let mut deadline = None;
    for _ in 0..ROUNDS_MAX {
        let before = broadcast.send(operation, &mut deadline).await?.routes;
        if same_owners(&before, &operation.routes()) {
            return Ok(());
        }
        deadline = None;
    }
    Err("ERR outcome unknown: slots got other owners while their groups were flushed. Repeat it".into())
}

/// Runs SWAPDB. It is never repeated: twice is as if it was not done.
pub(super) async fn swap_databases(operation: Operation) {
    match swapped(&operation).await {
        Ok(()) => operation.finish(b"+OK\r\n"),
        Err(text) => operation.refuse(&text),
    }
}

async fn swapped(operation: &Operation) -> Result<(), String> {
    let call = operation.call();
    let index = |at: usize, which: &str| {
        let index = number::parse(call.get(at)).and_then(|index| i32::try_from(index).ok());
        index.ok_or_else(|| format!("ERR invalid {which} DB index"))
    };
    let (first, second) = (index(1, "first")?, index(2, "second")?);
    let databases = operation.routes().databases;
    if [first, second].iter().any(|index| u32::try_from(*index).map_or(true, |index| index >= databases)) {
        return Err("ERR DB index is out of range".into());
    }
    // What can be found out before is: a group that does not answer would leave the others swapped.
    let mut deadline: Option<Instant> = None;
    let mut ping = Vec::new();
    write::request(&mut ping, &[b"PING"]);
    let probe = Broadcast { request: &ping, db: 0, slots: StepSlots::None, is_write: false };
    probe.send(operation, &mut deadline).await?;
    let mut request = Vec::new();
    write::request(&mut request, &[b"SWAPDB", first.to_string().as_bytes(), second.to_string().as_bytes()]);
    let swap = Broadcast { request: &request, db: 0, slots: StepSlots::All, is_write: true };
    let before = swap.send(operation, &mut deadline).await?.routes;
    if same_owners(&before, &operation.routes()) {
        return Ok(());
    }
    Err("ERR outcome unknown: slots got other owners while databases were swapped. Look at the keys, then decide"
        .into())
}

/// Whether no slot has had another owner, or another primary of its owner, in between.
fn same_owners(before: &ProductRoutes, now: &ProductRoutes) -> bool {
    before.slots.len() == now.slots.len() && before.slots.iter().zip(&now.slots).all(|(a, b)| a.epoch == b.epoch)
}
