//! SLOTSINFO and SLOTSSCAN of Codis. A stock server has no list of the keys of a slot, so both look at all keys of a group.
//! Knows nothing of how a request is sent.

use tokio::time::Instant;

use super::{
    super::{Operation, StepSlots},
    options::{self, SYNTAX, ScanOptions},
    server_scan::ServerScan,
    walk::Walk,
};
use crate::{
    commands::Args,
    model::{
        ids::{GroupId, SlotId},
        route::ProductRoutes,
        scan_cursor::key_cursor_for_client,
    },
    proxy::{
        dispatch::{CallContext, RefusalReason},
        worker::TaskKind,
    },
    resp::{number, write},
};

/// Keys of one step.
const STEP_COUNT: u64 = 4096;

/// Steps of one SLOTSSCAN: a slot has a thousandth of the keys, or less, and the time for a reply stays bounded.
const STEPS_MAX: usize = 8;

/// Runs SLOTSINFO.
pub(super) async fn info(operation: Operation) {
    match counted(&operation).await {
        Ok(counts) => {
            let mut reply = Vec::new();
            write::array(&mut reply, counts.len());
            for (slot, keys) in counts {
                write::array(&mut reply, 2);
                write::int(&mut reply, i64::from(slot));
                write::int(&mut reply, keys);
            }
            operation.finish(&reply);
        }
        Err(text) => operation.refuse(&text),
    }
}

/// The slots with keys among those that the call names, and the number of their keys.
async fn counted(operation: &Operation) -> Result<Vec<(u16, i64)>, String> {
    let routes = operation.routes();
    let (slots, only) = wanted(&operation.call(), &routes)?;
    let mut counts = vec![0_i64; routes.slots.len()];
    let mut walk = Walk::of(operation, 0).await?;
    while let Some(page) = walk.page(operation, &ScanOptions::ALL, STEP_COUNT).await? {
        if operation.session.is_closed() {
            break;
        }
        operation.worker.turns.turn(TaskKind::Session(routes.id)).await;
        if only.is_some_and(|only| only != page.group) {
            continue;
        }
        for (key, _) in page.owned(&operation.routes()) {
            counts[usize::from(routes.layout.slot(key).0)] += 1;
        }
    }
    let counts = (0u16..).zip(counts).skip(slots.start).take(slots.len());
    Ok(counts.filter(|(_, keys)| *keys > 0).collect())
}

/// The slots, and the group, that a call of SLOTSINFO names: `SLOTSINFO [start [count]]`, as a server of Codis has it, or
/// `SLOTSINFO addr`, as its proxy has it.
fn wanted(call: &CallContext<'_>, routes: &ProductRoutes) -> Result<(std::ops::Range<usize>, Option<GroupId>), String> {
    let all = routes.slots.len();
    if call.args.len() > 3 {
        return Err("ERR wrong number of arguments for 'slotsinfo' command".into());
    }
    if call.args.len() == 2 && call.get(1).contains(&b':') {
        let addr = String::from_utf8_lossy(call.get(1));
        let group = routes.groups.iter().find(|group| group.primary.as_str() == addr);
        let group = group.ok_or_else(|| format!("ERR backend server '{addr}' not found"))?;
        return Ok((0..all, Some(group.id)));
    }
    let argument = |at: usize, default: usize, what: &str| {
        if call.args.len() <= at {
            return Ok(default);
        }
        let number = number::parse(call.get(at)).ok_or("ERR value is not an integer or out of range")?;
        usize::try_from(number).map_err(|_| format!("ERR invalid slot {what} = {number}"))
    };
    let start = argument(1, 0, "number")?;
    if start >= all {
        return Err(format!("ERR invalid slot number = {start}"));
    }
    let count = argument(2, all, "count")?;
    Ok((start..start.saturating_add(count).min(all), None))
}

/// Runs SLOTSSCAN.
pub(super) async fn scan(operation: Operation) {
    match scanned(&operation).await {
        Ok((cursor, count, keys)) => {
            let mut reply = Vec::new();
            write::array(&mut reply, 2);
            write::bulk(&mut reply, cursor.to_string().as_bytes());
            write::array(&mut reply, count);
            reply.extend_from_slice(&keys);
            operation.finish(&reply);
        }
        Err(text) => operation.refuse(&text),
    }
}

/// The cursor for the client, the number of keys and the keys, each as a bulk string.
async fn scanned(operation: &Operation) -> Result<(u64, usize, Vec<u8>), String> {
    let call = operation.call();
    let slot = slot(&call, &operation.routes())?;
    let (cursor, options) = options::parse(&call, 2)?;
    if options.pattern.is_some() || options.of_type.is_some() {
        return Err(SYNTAX.into());
    }
    let mut scan = if cursor == 0 { ServerScan::Begins } else { ServerScan::ResumedSlot(cursor) };
    let (mut count, mut keys) = (0, Vec::new());
    let mut deadline: Option<Instant> = None;
    let mut steps = 0;
    while count < options.count && steps < STEPS_MAX {
        operation.may_serve()?;
        let routes = operation.routes();
        let route = routes.slots[usize::from(slot.0)];
        if route.hold.0 != 0 {
            operation.park(&mut deadline).await?;
            continue;
        }
        let group = route.group.ok_or_else(|| RefusalReason::Unassigned(slot).to_string())?;
        let slots = StepSlots::One(slot, route.epoch);
        let page = scan.page(operation, (&routes, group), (&ScanOptions::ALL, STEP_COUNT), slots).await?;
        let Some(page) = page else { continue };
        steps += 1;
        for (_, bulk) in page.keys().filter(|(key, _)| routes.layout.slot(key) == slot) {
            count += 1;
            keys.extend_from_slice(bulk);
        }
        if page.next == 0 {
            break;
        }
    }
    let cursor = match &scan {
        ServerScan::Cursor(server, run_id) => key_cursor_for_client(*server, run_id),
        _ => Ok(0),
    };
    Ok((cursor.map_err(|error| error.to_string())?, usize::try_from(count).unwrap_or_default(), keys))
}

/// The slot that a call of SLOTSSCAN names.
fn slot(call: &CallContext<'_>, routes: &ProductRoutes) -> Result<SlotId, String> {
    let text = String::from_utf8_lossy(call.get(1));
    let number =
        number::parse(call.get(1)).ok_or_else(|| format!("ERR parse slotnum '{text}' failed, not a number"))?;
    let slot = u16::try_from(number).ok().filter(|slot| usize::from(*slot) < routes.slots.len());
    slot.map(SlotId).ok_or_else(|| format!("ERR parse slotnum '{text}' failed, out of range"))
}
