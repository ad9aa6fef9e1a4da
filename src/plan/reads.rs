//! Which replicas may serve reads, from this node's probes of them and of their primaries: what they provably have, not
//! how far they seem to be behind. Knows nothing of how servers are probed, nor of how a read is sent; reads no clock.
//!
//! A replica whose offset is at least the one that its primary reported in an earlier probe, under the same replication
//! id, has everything that the primary had when that probe *began*. That moment is the whole evidence: the replica has
//! every write that was answered before it, and every slot that came to the group before it, and its staleness is at
//! most the time since.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::observation::{Probe, ReportedRole};
use crate::model::{
    ids::{Epoch, HostPort, SlotId},
    limits::MAX_LAG_MS,
    reads::{GroupReads, ProductReads, ReadFrom, ReadPolicy, ReadTable, Readable},
    state::{ClusterState, Group, Product, Server},
};

const NS_PER_MS: u64 = 1_000_000;

/// How exactly probes can measure a lag, milliseconds. Probes of a primary are half a second apart, so are those of its
/// replica, their order is arbitrary, and each may be a tenth late. So the measured lag of a replica that is in sync is
/// at most this.
pub const PRECISION_MS: u64 = 1_000;
/// For how long a probe counts, milliseconds: the next follows after half a second, fails after half a second more, and
/// a busy machine is late.
pub const FRESH_MS: u64 = 1_500;
/// How many offsets of a primary are remembered: enough for the largest lag at two and a half probes per second.
const MARKS_MAX: usize = (*MAX_LAG_MS.end() as usize + PRECISION_MS as usize) / 1000 * 5 / 2;

/// This node's probes of servers, as far as reads need them. Times are nanoseconds on one clock.
#[derive(Clone, Debug, Default)]
pub struct ProbeHistory {
    rows: BTreeMap<HostPort, ServerReads>,
}

#[derive(Clone, Debug, Default)]
struct ServerReads {
    /// The last probe, if it was answered completely.
    last: Option<LastProbe>,
    /// Microseconds of a PING, smoothed, so that a single slow one does not move all reads to another server.
    ping_us: u64,
    /// Its offsets as a primary under `replid`, ascending in time and offset.
    marks: VecDeque<PrimaryOffset>,
    replid: String,
    run_id: String,
}

#[derive(Clone, Debug)]
struct LastProbe {
    probe: Probe,
    began_ns: u64,
    ended_ns: u64,
}

/// A primary had `offset` in all probes from the one that ended at `first_ns` to the one that began at `last_ns`.
#[derive(Clone, Copy, Debug)]
struct PrimaryOffset {
    offset: u64,
    first_ns: u64,
    last_ns: u64,
    /// The last log entry that this node had applied when the last of them began.
    as_of: Epoch,
}

impl ProbeHistory {
    /// Drops all servers but these.
    pub fn watch_only(&mut self, servers: &BTreeSet<&HostPort>) {
        self.rows.retain(|server, _| servers.contains(server));
    }

    /// Records a probe and when it began and ended; `probe` is `None` if it failed. `as_of`: the last log entry that
    /// this node had applied when it began.
    pub fn note(&mut self, server: &HostPort, probe: Option<&Probe>, began_ns: u64, ended_ns: u64, as_of: Epoch) {
        let row = self.rows.entry(server.clone()).or_default();
        row.last = probe.map(|probe| LastProbe { probe: probe.clone(), began_ns, ended_ns });
        let Some(probe) = probe else { return };
        row.ping_us = match row.ping_us {
            0 => probe.ping_us,
            // The new value counts for an eighth.
            before => before.saturating_sub(before / 8).saturating_add(probe.ping_us / 8),
        };
        let ReportedRole::Primary { .. } = probe.role else {
            row.marks.clear();
            return;
        };
        // Another history, or an offset that went back: earlier offsets do not belong to this data.
        let back = row.marks.back().is_some_and(|mark| mark.offset > probe.offset);
        if back || (&row.replid, &row.run_id) != (&probe.replid, &probe.run_id) {
            (row.replid, row.run_id) = (probe.replid.clone(), probe.run_id.clone());
            row.marks.clear();
        }
        match row.marks.back_mut() {
            Some(mark) if mark.offset == probe.offset => (mark.last_ns, mark.as_of) = (began_ns, as_of),
            Some(_) | None => {
                row.marks.push_back(PrimaryOffset {
                    offset: probe.offset,
                    first_ns: ended_ns,
                    last_ns: began_ns,
                    as_of,
                });
            }
        }
        if row.marks.len() > MARKS_MAX {
            row.marks.pop_front();
        }
    }

    fn fresh(&self, server: &HostPort, now_ns: u64) -> Option<(&ServerReads, &LastProbe)> {
        let row = self.rows.get(server)?;
        let last = row.last.as_ref()?;
        (now_ns.saturating_sub(last.ended_ns) <= FRESH_MS * NS_PER_MS).then_some((row, last))
    }
}

/// Which replicas may serve reads, for all products with replica reads, at `now_ns` on the clock of the probes. `zone`:
/// the zone of this node; empty: none is configured.
#[must_use]
pub fn readable(state: &ClusterState, seen: &ProbeHistory, now_ns: u64, zone: &str) -> ReadTable {
    let with_replica_reads = state.products.values().filter(|product| product.reads.from != ReadFrom::Primary);
    let of = |product: &Product| {
        let groups = product.groups.values().map(|g| (g.id, group_reads(state, product, g, seen, now_ns, zone)));
        ProductReads { groups: groups.collect(), moving: slots_in_migrations(state, product) }
    };
    ReadTable { products: with_replica_reads.map(|product| (product.id, Arc::new(of(product)))).collect() }
}

/// Slots of migrations that have not ended.
fn slots_in_migrations(state: &ClusterState, product: &Product) -> Vec<SlotId> {
    let of = state.migrations.values().filter(|m| m.product == product.id);
    let slots: BTreeSet<SlotId> = of.flat_map(|m| m.slots.iter().copied()).collect();
    slots.into_iter().collect()
}

fn group_reads(
    state: &ClusterState,
    product: &Product,
    group: &Group,
    seen: &ProbeHistory,
    now_ns: u64,
    zone: &str,
) -> GroupReads {
    let none = |why: &str| GroupReads { replicas: Vec::new(), none: why.to_owned() };
    let Some((primary, others)) = group.servers.split_first() else { return none("it has no servers") };
    if others.is_empty() {
        return none("it has no replica");
    }
    if state.promotion_of(product.id, group.id).is_some() {
        return none("one of its servers is being promoted");
    }
    let mut may = Vec::new();
    let mut why = Vec::new();
    for server in others {
        match replica(product.reads, group, primary, server, seen, now_ns) {
            Ok(readable) => may.push((server, readable)),
            Err(reason) => why.push(format!("{} {reason}", server.addr)),
        }
    }
    if product.reads.from == ReadFrom::Nearest {
        return nearest(primary, may, seen, zone);
    }
    let replicas: Vec<Readable> = may.into_iter().map(|(_, readable)| readable).collect();
    GroupReads { none: if replicas.is_empty() { why.join("; ") } else { String::new() }, replicas }
}

/// The nearest replica, if it is nearer than the primary.
fn nearest(primary: &Server, may: Vec<(&Server, Readable)>, seen: &ProbeHistory, zone: &str) -> GroupReads {
    let far = |server: &Server| {
        let away = zone.is_empty() || server.zone != zone;
        // A server that never answered is farther than any other.
        let ping_us = seen.rows.get(&server.addr).map_or(u64::MAX, |row| row.ping_us);
        (away, ping_us)
    };
    let best = may.into_iter().min_by_key(|(server, _)| far(server));
    let nearer = best.filter(|(server, _)| far(server) < far(primary));
    GroupReads { replicas: nearer.map(|(_, readable)| readable).into_iter().collect(), none: String::new() }
}

/// What a replica provably has, if it may serve reads.
///
/// # Errors
/// Why it may not, as a predicate without its subject, the address ("is loading its data").
fn replica(
    policy: ReadPolicy,
    group: &Group,
    primary: &Server,
    server: &Server,
    seen: &ProbeHistory,
    now_ns: u64,
) -> Result<Readable, String> {
    let Some((_, last)) = seen.fresh(&server.addr, now_ns) else { return Err("does not answer this node".into()) };
    let LastProbe { probe, began_ns, ended_ns } = last;
    let ReportedRole::Replica { of, link_up, syncing, .. } = &probe.role else { return Err("is a primary".into()) };
    if *of != primary.addr {
        return Err(format!("follows {of}, not the primary {}", primary.addr));
    }
    if probe.loading || *syncing {
        return Err("is loading its data".into());
    }
    if !link_up {
        return Err("has lost its primary".into());
    }
    if probe.run_id.is_empty() {
        return Err("does not report its run_id, so that a restart would not be noticed".into());
    }
    // The primary need not answer now; the marks are its offsets while it did.
    let Some(row) = seen.rows.get(&primary.addr).filter(|row| !row.marks.is_empty()) else {
        return Err(format!("follows {}, which has not answered this node as a primary", primary.addr));
    };
    if probe.replid != row.replid {
        return Err("has data of another history than the primary's".into());
    }
    if group.required_offset.as_ref().is_some_and(|r| r.replid == probe.replid && probe.offset < r.offset) {
        return Err("lacks slots that have moved to the group".into());
    }
    // The marks ascend: the last one that it has reached, and the first one that it has not.
    let required_offset = row.marks.partition_point(|mark| mark.offset <= probe.offset);
    let Some(has) = required_offset.checked_sub(1).and_then(|at| row.marks.get(at)) else {
        return Err("is further behind than this node remembers".into());
    };
    let fresh_until = ended_ns.saturating_add(FRESH_MS * NS_PER_MS);
    let lag = u64::from(policy.max_lag_ms);
    let until_ns = match lag {
        0 => fresh_until,
        lag => fresh_until.min(has.last_ns.saturating_add((lag + PRECISION_MS) * NS_PER_MS)),
    };
    // A lower bound of its lag: it lacks what the primary had when that probe ended.
    let behind_ns = row.marks.get(required_offset).map_or(0, |lacks| began_ns.saturating_sub(lacks.first_ns));
    if lag > 0 && (behind_ns > lag * NS_PER_MS || until_ns <= now_ns) {
        return Err(format!("is more than {lag} ms behind"));
    }
    Ok(Readable {
        addr: server.addr.clone(),
        run_id: probe.run_id.clone(),
        has_ns: has.last_ns,
        as_of: has.as_of,
        until_ns,
    })
}
