//! Which replicas may serve reads, by what this node has seen of them and of their primaries: what they surely have, not how
//! far they seem to be behind. Knows nothing of who probes, nor of how a read is sent; reads no clock.
//!
//! A replica whose offset is at least the one that its primary told in an earlier probe, under the same replication id, has
//! all that the primary had when that probe *began*. That moment is the whole evidence: a write that was answered before it
//! is there, a slot that came to the group before it is there, and the replica's staleness is at most the time since.

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

/// How exactly probes can tell a lag, milliseconds: those at a primary are half a second apart, so are those at its replica,
/// nothing orders the two, and each may be a tenth late. So a replica that is in step is seen to be within this.
pub const PRECISION_MS: u64 = 1_000;
/// A probe holds for so long, milliseconds: the next comes after half a second and has failed after half a second more, and a
/// busy machine is late.
pub const FRESH_MS: u64 = 1_500;
/// Looks at a primary that are remembered: as many as the largest lag takes, at two and a bit in a second.
const MARKS_MAX: usize = (*MAX_LAG_MS.end() as usize + PRECISION_MS as usize) / 1000 * 5 / 2;

/// What this node has seen of servers, as far as reads need it. Times are nanoseconds on one clock.
#[derive(Clone, Debug, Default)]
pub struct ProbeHistory {
    rows: BTreeMap<HostPort, ServerReads>,
}

#[derive(Clone, Debug, Default)]
struct ServerReads {
    /// The last probe, if it was answered and said something.
    last: Option<LastProbe>,
    /// Microseconds of a PING, smoothed, so that one slow one does not send everybody elsewhere.
    ping_us: u64,
    /// Where it was as a primary under `replid`, ascending in time and offset.
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

/// A primary was at `offset` in probes from the one that ended at `first_ns` to the one that began at `last_ns`.
#[derive(Clone, Copy, Debug)]
struct PrimaryOffset {
    offset: u64,
    first_ns: u64,
    last_ns: u64,
    /// What this node had applied when the last of them began.
    as_of: Epoch,
}

impl ProbeHistory {
    /// Forgets all servers but these.
    pub fn watch_only(&mut self, servers: &BTreeSet<&HostPort>) {
        self.rows.retain(|server, _| servers.contains(server));
    }

    /// Notes a probe that began and ended then; `probe` is `None` where it told nothing. `as_of` is an entry of the log that this
    /// node had applied when it began.
    pub fn note(&mut self, server: &HostPort, probe: Option<&Probe>, began_ns: u64, ended_ns: u64, as_of: Epoch) {
        let row = self.rows.entry(server.clone()).or_default();
        row.last = probe.map(|probe| LastProbe { probe: probe.clone(), began_ns, ended_ns });
        let Some(probe) = probe else { return };
        row.ping_us = match row.ping_us {
            0 => probe.ping_us,
            // An eighth of the new one.
            before => before.saturating_sub(before / 8).saturating_add(probe.ping_us / 8),
        };
        let ReportedRole::Primary { .. } = probe.role else {
            row.marks.clear();
            return;
        };
        // Another history, or one that went back: what was noted says nothing of it.
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

/// Which replicas may serve, of all products that want it, at `now_ns` on the clock of the probes. `zone`: where this node
/// stands; empty: not said.
#[must_use]
pub fn readable(state: &ClusterState, seen: &ProbeHistory, now_ns: u64, zone: &str) -> ReadTable {
    let wanting = state.products.values().filter(|product| product.reads.from != ReadFrom::Primary);
    let of = |product: &Product| {
        let groups = product.groups.values().map(|g| (g.id, group_reads(state, product, g, seen, now_ns, zone)));
        ProductReads { groups: groups.collect(), moving: moving(state, product) }
    };
    ReadTable { products: wanting.map(|product| (product.id, Arc::new(of(product)))).collect() }
}

/// Slots of migrations that have not ended.
fn moving(state: &ClusterState, product: &Product) -> Vec<SlotId> {
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

/// The one replica that is nearer than the primary, if there is one.
fn nearest(primary: &Server, may: Vec<(&Server, Readable)>, seen: &ProbeHistory, zone: &str) -> GroupReads {
    let far = |server: &Server| {
        let away = zone.is_empty() || server.zone != zone;
        // One that was never answered is further than any other.
        let ping_us = seen.rows.get(&server.addr).map_or(u64::MAX, |row| row.ping_us);
        (away, ping_us)
    };
    let best = may.into_iter().min_by_key(|(server, _)| far(server));
    let nearer = best.filter(|(server, _)| far(server) < far(primary));
    GroupReads { replicas: nearer.map(|(_, readable)| readable).into_iter().collect(), none: String::new() }
}

/// What a replica has, if it may serve; else why not, the rest of a sentence that begins with its address.
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
        return Err("does not tell its run_id, so that a restart would not be seen".into());
    }
    // The primary need not answer now; the marks say where it was when it last did.
    let Some(row) = seen.rows.get(&primary.addr).filter(|row| !row.marks.is_empty()) else {
        return Err(format!("follows {}, which has not answered this node as a primary", primary.addr));
    };
    if probe.replid != row.replid {
        return Err("has the data of another history than the primary's".into());
    }
    if group.required_offset.as_ref().is_some_and(|r| r.replid == probe.replid && probe.offset < r.offset) {
        return Err("lacks slots that have moved to the group".into());
    }
    // Ascending: the last that it has reached, and the first that it has not.
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
    // At least so far behind: it lacks what the primary had when that probe ended.
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
