//! DBSIZE and RANDOMKEY: a server also has keys of slots that its group does not own, copies under way and leftovers, which
//! neither may show. Knows nothing of how a request is sent.

use tokio::time::Instant;

use super::{
    super::{Operation, StepSlots},
    broadcast::Broadcast,
    options::ScanOptions,
    page::Page,
    scan::SeenKeys,
    server_scan::ServerScan,
    walk::{Walk, group_of, index_of},
};
use crate::{
    model::ids::GroupId,
    resp::{
        number::{Header, header},
        write,
    },
};

/// Keys of each server that DBSIZE looks at. If one of them is another group's, it looks at more.
const SAMPLE: u64 = 128;

/// Keys of a server that DBSIZE counts, at least; of a larger one it estimates the share of the group's own, to half a percent
/// or so.
const COUNTED: u64 = 10_000;

/// Keys of one step while it counts.
const STEP_COUNT: u64 = 1024;

/// How often RANDOMKEY draws a key until one is of the group that owns its slot. With half of the keys in copies under way, a
/// thousandth of the calls needs more; then it takes the first key of a scan.
const DRAWS_MAX: usize = 10;

/// Runs DBSIZE.
pub(super) async fn dbsize(operation: Operation) {
    match count_keys(&operation, operation.db(), None).await {
        Ok(count) => {
            let mut reply = Vec::new();
            write::int(&mut reply, i64::try_from(count).unwrap_or(i64::MAX));
            operation.finish(&reply);
        }
        Err(text) => operation.refuse(&text),
    }
}

/// The number of the product's keys in a database. `deadline`: until when it may wait for holds; `None`: as other commands.
///
/// # Errors
/// Returns the error for the client.
pub(in crate::proxy::operation) async fn count_keys(
    operation: &Operation,
    db: u32,
    mut deadline: Option<Instant>,
) -> Result<u64, String> {
    let sizes = sizes(operation, db, &mut deadline).await?;
    let request = ScanOptions::ALL.request(0, SAMPLE);
    let sample = Broadcast { request: &request, db, slots: StepSlots::All, is_write: false };
    let pages = sample.send(operation, &mut deadline).await?;
    let mut total = 0;
    for (group, reply) in pages.routes.groups.iter().zip(pages.list) {
        let page = Page::of(reply)?;
        // A group that was added meanwhile has no keys.
        let size = sizes.iter().find(|(id, _)| *id == group.id).map_or(0, |(_, size)| *size);
        let routes = operation.routes();
        let owner = index_of(&routes, group.id);
        let own = page.keys().filter(|(key, _)| owner.is_some() && group_of(&routes, key) == owner).count();
        total += if own == page.len {
            size
        } else if page.next == 0 {
            own as u64
        } else {
            count_own(operation, (db, group.id), size, &mut deadline).await?
        };
    }
    Ok(total)
}

/// Number of keys of each group's primary.
async fn sizes(operation: &Operation, db: u32, deadline: &mut Option<Instant>) -> Result<Vec<(GroupId, u64)>, String> {
    let mut request = Vec::new();
    write::request(&mut request, &[b"DBSIZE"]);
    let broadcast = Broadcast { request: &request, db, slots: StepSlots::All, is_write: false };
    let replies = broadcast.send(operation, deadline).await?;
    let mut sizes = Vec::with_capacity(replies.list.len());
    for (group, reply) in replies.routes.groups.iter().zip(&replies.list) {
        match (reply.first(), header(reply, 1)) {
            (Some(b':'), Header::Number(size, _)) => sizes.push((group.id, size.unsigned_abs())),
            _ => return Err("ERR a server answers DBSIZE in an unknown form".into()),
        }
    }
    Ok(sizes)
}

/// How many of the `size` keys of a group's primary are in slots that the group owns: exactly if it has no more than
/// [`COUNTED`], else an estimate.
async fn count_own(
    operation: &Operation,
    (db, group): (u32, GroupId),
    size: u64,
    deadline: &mut Option<Instant>,
) -> Result<u64, String> {
    let mut scan = ServerScan::Begins;
    let mut seen = SeenKeys::default();
    let (mut all, mut own) = (0, 0);
    loop {
        operation.wait_for_holds(deadline).await?;
        operation.may_serve()?;
        let routes = operation.routes();
        let Some(index) = index_of(&routes, group) else { return Ok(0) };
        let options = (&ScanOptions::ALL, STEP_COUNT);
        let Some(page) = scan.page_of(operation, db, (&routes, index), options, StepSlots::All).await? else {
            continue;
        };
        let routes = operation.routes();
        for (key, _) in page.keys().filter(|(key, _)| seen.is_new(key)) {
            all += 1;
            own += u64::from(group_of(&routes, key) == index_of(&routes, group));
        }
        if page.next == 0 {
            return Ok(own);
        }
        if all >= COUNTED {
            // Of the keys that it has by now, not fewer than were seen.
            let share = u128::from(size.max(all)) * u128::from(own) / u128::from(all);
            return Ok(u64::try_from(share).unwrap_or(u64::MAX));
        }
    }
}

/// Runs RANDOMKEY.
pub(super) async fn randomkey(operation: Operation) {
    match drawn(&operation).await {
        Ok(Some(key)) => {
            let mut reply = Vec::new();
            write::bulk(&mut reply, &key);
            operation.finish(&reply);
        }
        Ok(None) => {
            let version = operation.session.client.borrow().version;
            let mut reply = Vec::new();
            write::null(&mut reply, version);
            operation.finish(&reply);
        }
        Err(text) => operation.refuse(&text),
    }
}

/// Draws a group by its number of keys, then one of its keys, until the group owns the key's slot.
async fn drawn(operation: &Operation) -> Result<Option<Vec<u8>>, String> {
    let mut deadline = None;
    let mut sizes = sizes(operation, operation.db(), &mut deadline).await?;
    let mut request = Vec::new();
    write::request(&mut request, &[b"RANDOMKEY"]);
    let draw = Broadcast { request: &request, db: operation.db(), slots: StepSlots::All, is_write: false };
    for _ in 0..DRAWS_MAX {
        let total: u64 = sizes.iter().map(|(_, size)| size).sum();
        if total == 0 {
            return Ok(None);
        }
        let Some((group, size)) = at(&mut sizes, fastrand::u64(0..total)) else { break };
        let Some(index) = index_of(&operation.routes(), *group) else {
            *size = 0;
            continue;
        };
        let reply = draw.send_to(operation, usize::from(index), &mut deadline).await?;
        match key(&reply)? {
            // The routes may be newer than those by which it was sent.
            Some(key) if group_of(&operation.routes(), key) == index_of(&operation.routes(), *group) => {
                return Ok(Some(key.to_vec()));
            }
            Some(_) => {}
            None => *size = 0,
        }
    }
    first_key(operation).await
}

/// The group that has the key with this number, if all are counted one group after the other.
fn at(sizes: &mut [(GroupId, u64)], mut number: u64) -> Option<(&GroupId, &mut u64)> {
    for (group, size) in sizes {
        if number < *size {
            return Some((group, size));
        }
        number -= *size;
    }
    None
}

/// The key in a reply to RANDOMKEY.
fn key(reply: &[u8]) -> Result<Option<&[u8]>, String> {
    match (reply.first(), header(reply, 1)) {
        (Some(b'$'), Header::Number(-1, _)) => Ok(None),
        (Some(b'$'), Header::Number(len, from)) => {
            let len = usize::try_from(len).unwrap_or_default();
            Ok(reply.get(from..from.saturating_add(len)))
        }
        (Some(b'-'), _) => Err(String::from_utf8_lossy(&reply[1..]).trim_end().to_owned()),
        _ => Err("ERR a server answers RANDOMKEY in an unknown form".into()),
    }
}

/// The first key that a scan finds.
async fn first_key(operation: &Operation) -> Result<Option<Vec<u8>>, String> {
    let mut walk = Walk::of(operation, 0).await?;
    while let Some(page) = walk.page(operation, &ScanOptions::ALL, STEP_COUNT).await? {
        if operation.session.is_closed() {
            break;
        }
        if let Some((key, _)) = page.owned(&operation.routes()).next() {
            return Ok(Some(key.to_vec()));
        }
    }
    Ok(None)
}
