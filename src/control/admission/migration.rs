//! Checks whether a migration can work before it is planned, and says why it cannot and what to do.
//! Knows nothing of the log: the caller proposes the migration, and `apply` checks the state again.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::server::VERSION_MIN;
use crate::{
    control::slots::scan::show_key,
    model::{
        ids::{GroupId, HostPort, SlotId},
        migration::{MigrationOptions, unexpected_keys_remedy},
        slot::{Layout, brief, spans},
        state::{Group, Product},
    },
    redis::{
        Client, RedisError, Role,
        capabilities::{Capabilities, Feeds, Psync, capabilities, feeds},
    },
};

/// How long one server may take for all its answers: an operator waits for them.
const ASK_MAX: Duration = Duration::from_secs(5);
/// How long the target may be searched for unexpected keys. The copy searches all of it before it writes.
const SEARCH_MAX: Duration = Duration::from_secs(2);
/// How many keys of each database of the source are read for the estimate. SCAN returns them in the order of their
/// hashes, so the first ones are as good as any; the share of slots is exact to two percent of the keys.
const SAMPLE: u64 = 5000;
/// How many keys a page of SCAN has: about 100 microseconds of the server's time.
const PAGE: u32 = 1000;
/// How much more memory than the estimate must be free, in percent: for fragmentation, another allocator, another share
/// of big keys.
const MARGIN_PERCENT: u64 = 20;
/// In addition, this number of bytes must be free, for the buffers of connections and of replicas.
const MARGIN_BYTES: u64 = 16 << 20;
/// Clocks that differ by less cause no warning: NTP keeps machines within some milliseconds, and the difference is
/// measured to half a round trip.
const CLOCKS_APART_MS: i64 = 100;
/// How many unexpected keys are named: enough to recognise where they come from.
const NAMED_MAX: usize = 5;

/// A migration that an operator requests.
#[derive(Clone, Copy, Debug)]
pub struct MigrationRequest<'a> {
    /// Its product.
    pub product: &'a Product,
    /// The group that owns the slots.
    pub from: GroupId,
    /// The group that will own them.
    pub to: GroupId,
    /// The slots that move.
    pub slots: &'a BTreeSet<SlotId>,
    /// How they move.
    pub options: MigrationOptions,
}

/// Whether the migration can work. Returns warnings: what the operator should know, and may accept.
///
/// # Errors
/// Returns what prevents it, at which server, and what to do, as text for the operator. Nothing has been changed
/// anywhere.
pub async fn admit(wanted: MigrationRequest<'_>, deadline: Instant) -> Result<Vec<String>, String> {
    let (from, to) = wanted.groups()?;
    let (source, target) = (primary_of(from)?, primary_of(to)?);
    let by = || deadline.min(Instant::now() + ASK_MAX);
    let (source, target) = tokio::join!(
        capabilities(source, from.credentials.as_ref(), by()),
        capabilities(target, to.credentials.as_ref(), by())
    );
    let source = source.map_err(|error| format!("the source, group {}: {error}", from.id))?;
    let target = target.map_err(|error| format!("the target, group {}: {error}", to.id))?;
    check_primary(&source).map_err(|why| format!("the source, group {}: {why}", from.id))?;
    check_primary(&target).map_err(|why| format!("the target, group {}: {why}", to.id))?;
    if source.run_id == target.run_id {
        return Err(format!(
            "{} and {} are one and the same server; groups {} and {} cannot share one",
            source.addr, target.addr, from.id, to.id
        ));
    }
    let mut warnings = Vec::new();
    check_rights(&source, &target, &mut warnings)?;
    warnings.extend(clocks_apart(&source, &target));
    wanted.check_feed(from, &source, by(), &mut warnings).await?;
    wanted.check_memory(from, &source, &target, by(), &mut warnings).await?;
    wanted.check_unexpected_keys(to, &target, deadline.min(Instant::now() + SEARCH_MAX), &mut warnings).await?;
    Ok(warnings)
}

/// Checks what both primaries must be and allow.
fn check_primary(capabilities: &Capabilities) -> Result<(), String> {
    let addr = &capabilities.addr;
    if capabilities.version < VERSION_MIN {
        let ((major, minor), (least, least_minor)) = (capabilities.version, VERSION_MIN);
        return Err(format!("{addr} is Redis {major}.{minor}; {least}.{least_minor} or later is needed"));
    }
    if capabilities.loading {
        return Err(RedisError::Loading { addr: addr.clone() }.to_string());
    }
    match &capabilities.role {
        Role::Primary { .. } => {}
        Role::Replica { host, port, .. } => {
            return Err(format!(
                "{addr} is a replica of {host}:{port} now, and read-only, not its group's primary; repair the group \
                 (REPLICAOF NO ONE and CONFIG REWRITE on {addr}) and try again"
            ));
        }
        Role::Sentinel => return Err(format!("{addr} is a Redis Sentinel, which holds no data")),
    }
    // A run is fenced by these; without them a late write could not be excluded.
    for allowed in [&capabilities.client_name, &capabilities.client_list, &capabilities.client_kill] {
        allowed.clone().map_err(|why| format!("{why} (a migration closes its connections by name and id)"))?;
    }
    Ok(())
}

/// Checks the commands that a migration sends to source and target.
fn check_rights(source: &Capabilities, target: &Capabilities, warnings: &mut Vec<String>) -> Result<(), String> {
    let addr = &target.addr;
    for allowed in [&target.reads, &target.restore, &target.unlink] {
        let Err(why) = allowed else { continue };
        return Err(if why.contains("OOM") {
            format!("{addr} is out of memory; raise its maxmemory, or delete something there ({why})")
        } else if why.contains("READONLY") {
            format!("{addr} is read-only; repair its group so that it is a primary ({why})")
        } else if why.contains("NOREPLICAS") {
            format!(
                "{addr} accepts no writes, since it has fewer replicas than its min-replicas-to-write; connect them \
                 ({why})"
            )
        } else if why.contains("MISCONF") {
            format!("{addr} accepts no writes, since it cannot save its data; see its log and its disk ({why})")
        } else {
            why.clone()
        });
    }
    source.reads.clone()?;
    match &source.unlink {
        // Moving the slots away from such a server may be what the operator wants.
        Err(why) if why.contains("NOREPLICAS") || why.contains("MISCONF") => warnings.push(format!(
            "{} accepts no writes now ({why}); until it does, it is not cleaned after the switch",
            source.addr
        )),
        Err(why) => return Err(format!("{why} (the source is cleaned after the switch)")),
        Ok(()) => {}
    }
    Ok(())
}

/// A warning if the clocks of source and target differ: keys keep the instant at which they expire.
fn clocks_apart(source: &Capabilities, target: &Capabilities) -> Option<String> {
    let ahead = target.clock_ahead_ms?.checked_sub(source.clock_ahead_ms?)?;
    if ahead.abs() < CLOCKS_APART_MS {
        return None;
    }
    let (ms, which, when) = if ahead > 0 { (ahead, "ahead of", "earlier") } else { (-ahead, "behind", "later") };
    let (source, target) = (&source.addr, &target.addr);
    Some(format!(
        "the clock of {target} is about {ms} ms {which} that of {source}: keys with a time to live expire that much \
         {when} after the move; set the clocks (NTP)"
    ))
}

impl MigrationRequest<'_> {
    /// Both groups, after the checks that need no server.
    fn groups(&self) -> Result<(&Group, &Group), String> {
        let product = &self.product.name;
        let group = |id: GroupId| {
            self.product.groups.get(&id).ok_or_else(|| {
                format!(
                    "product '{product}' has no group {id}; see 'pontoon group ls', or create it (pontoon group create)"
                )
            })
        };
        let (from, to) = (group(self.from)?, group(self.to)?);
        if self.from == self.to {
            return Err(format!("the slots are in group {} already; name another target", self.to));
        }
        if self.slots.is_empty() {
            return Err("no slots are named".into());
        }
        let last = self.product.layout.slots() - 1;
        if self.slots.iter().any(|slot| slot.0 > last) {
            return Err(format!("product '{product}' has slots 0 to {last}"));
        }
        let owned =
            |slot: &&SlotId| self.product.slots.get(usize::from(slot.0)).is_some_and(|s| s.owner == Some(from.id));
        let others: BTreeSet<SlotId> = self.slots.iter().filter(|slot| !owned(slot)).copied().collect();
        if !others.is_empty() {
            return Err(format!(
                "slots {} do not belong to group {}; see 'pontoon slot ls', and migrate them from their owner",
                brief(&others),
                from.id
            ));
        }
        Ok((from, to))
    }

    /// Checks that there is a feed: from a healthy replica of the source, otherwise from the source itself.
    async fn check_feed(
        &self,
        from: &Group,
        source: &Capabilities,
        by: Instant,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        let mut found: Option<(HostPort, Feeds)> = None;
        for replica in from.servers.iter().skip(1) {
            match healthy_replica(from, &replica.addr, source, by).await {
                Ok(feeds) if feeds.psync.is_ok() => {
                    found = Some((replica.addr.clone(), feeds));
                    break;
                }
                Ok(feeds) => {
                    found.get_or_insert((replica.addr.clone(), feeds));
                }
                Err(why) => {
                    warnings.push(format!("the replica {} cannot be read instead of its primary: {why}", replica.addr))
                }
            }
        }
        let (addr, feeds) = match found.filter(|(_, feeds)| feeds.any()) {
            Some(found) => found,
            None => {
                let feeds =
                    feeds(&source.addr, from.credentials.as_ref(), by).await.map_err(|error| error.to_string())?;
                (source.addr.clone(), feeds)
            }
        };
        if !feeds.any() {
            return Err(format!(
                "{addr} offers no way to learn which keys change while they are copied: {}; allow the user PSYNC and \
                 REPLCONF (ACL SETUSER ... +psync +replconf &pt:*, then ACL SAVE or CONFIG REWRITE), or CLIENT \
                 TRACKING, or give group {} a replica",
                feeds.why_none(),
                from.id
            ));
        }
        match (&feeds.psync, source.min_replicas_to_write) {
            (Ok(_), Some(least)) if addr == source.addr && least > 0 => warnings.push(format!(
                "{addr} has min-replicas-to-write {least} and no replica that can be read instead: while the copy runs \
                 it counts Pontoon as a replica, so it accepts writes with one real replica fewer"
            )),
            (Err(why), _) => warnings.push(format!(
                "{addr} is followed by CLIENT TRACKING, since it offers no replication stream ({why}): a big key that \
                 changes is copied again as a whole"
            )),
            _ => {}
        }
        if feeds.psync == Ok(Psync::Prime) {
            warnings.push(format!(
                "{addr} has never had a replica; it forks once, for an empty snapshot, to begin a replication backlog"
            ));
        }
        Ok(())
    }

    /// Checks that the target has enough free memory.
    async fn check_memory(
        &self,
        from: &Group,
        source: &Capabilities,
        target: &Capabilities,
        by: Instant,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        let addr = &target.addr;
        let memory = target.memory;
        match target.policy.as_deref() {
            Some("noeviction") => {}
            _ if memory.max == 0 => {}
            Some(policy) => warnings.push(format!(
                "{addr} has maxmemory-policy {policy}: if its memory becomes full, it evicts keys, those that were \
                 just copied among them; 'noeviction' stops the copy instead"
            )),
            None => warnings.push(format!("{addr} does not report its maxmemory-policy; it should be 'noeviction'")),
        }
        let keys: u64 = source.keyspace.values().sum();
        if keys == 0 {
            return Ok(());
        }
        let moving = self.keys_in_slots(from, source, by).await.map_err(|error| error.to_string())?;
        let (data, moving_keys) = (source.memory.dataset as f64, moving.min(keys as f64));
        let bytes = (data * moving_keys / keys as f64) as u64;
        let needed = bytes + bytes / 100 * MARGIN_PERCENT + MARGIN_BYTES;
        let limit = if memory.max > 0 { "its maxmemory" } else { "its machine's memory" };
        match memory.free() {
            Some(free) if free < needed => Err(format!(
                "{addr} has {} of {limit} left, and the slots need about {} (about {:.0} of the source's {keys} keys, \
                 {} with a margin of {MARGIN_PERCENT} %); raise maxmemory there, or move fewer slots",
                size(free),
                size(needed),
                moving_keys,
                size(bytes)
            )),
            Some(_) => Ok(()),
            None => {
                warnings.push(format!(
                    "{addr} does not report how much memory it has; the slots need about {}",
                    size(needed)
                ));
                Ok(())
            }
        }
    }

    /// Estimates how many of the source's keys are in the slots.
    async fn keys_in_slots(&self, from: &Group, source: &Capabilities, by: Instant) -> Result<f64, RedisError> {
        let mut client = Client::connect(&source.addr, from.credentials.as_ref(), "pt:admission", by).await?;
        let slots = SlotCheck::new(self.product.layout, self.slots);
        let by_slots = self.slots.len() as f64 / f64::from(self.product.layout.slots());
        let mut moving = 0.0;
        for (db, keys) in &source.keyspace {
            client.select(*db, by).await?;
            let (mut probed, mut inside, mut cursor) = (0u64, 0u64, 0);
            loop {
                let page = client.scan(cursor, PAGE, by).await?;
                probed += page.keys.len() as u64;
                inside += page.keys.iter().filter(|key| slots.has(key)).count() as u64;
                cursor = page.cursor;
                if cursor == 0 || probed >= SAMPLE {
                    break;
                }
            }
            let share = if probed == 0 { 0.0 } else { inside as f64 / probed as f64 };
            // If all keys were read, the share is exact. Otherwise a few slots may have no key in the sample and many
            // in fact.
            let share = if cursor == 0 { share } else { share.max(by_slots) };
            moving += *keys as f64 * share;
        }
        Ok(moving)
    }

    /// Checks that the target has no unexpected keys.
    async fn check_unexpected_keys(
        &self,
        to: &Group,
        target: &Capabilities,
        by: Instant,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        if self.options.wipe {
            return Ok(());
        }
        let never_owned: BTreeSet<SlotId> = self.slots.difference(&to.given_away).copied().collect();
        let mut found = Vec::new();
        match self.search(to, target, &SlotCheck::new(self.product.layout, &never_owned), by, &mut found).await {
            Ok(()) => {}
            Err(RedisError::Timeout { .. }) if found.is_empty() => warnings.push(format!(
                "{} has too many keys to search in {} s; the copy searches them, and stops if it finds keys of these \
                 slots",
                target.addr,
                SEARCH_MAX.as_secs()
            )),
            Err(RedisError::Timeout { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        if found.is_empty() {
            return Ok(());
        }
        let (named, all) = (brief(self.slots), spans(self.slots));
        let typed = if named == all { all.replace(' ', "") } else { "SLOTS".into() };
        let remedy = unexpected_keys_remedy(&format!("{typed} --to {} --product {}", to.id, self.product.name));
        Err(format!(
            "{} holds keys of these slots, which group {} never owned: {}; {remedy}",
            target.addr,
            to.id,
            found.join(", ")
        ))
    }

    /// Searches the target for keys of `slots`, until [`NAMED_MAX`] are found.
    async fn search(
        &self,
        to: &Group,
        target: &Capabilities,
        slots: &SlotCheck,
        by: Instant,
        found: &mut Vec<String>,
    ) -> Result<(), RedisError> {
        let mut client = Client::connect(&target.addr, to.credentials.as_ref(), "pt:admission", by).await?;
        for db in target.keyspace.keys() {
            client.select(*db, by).await?;
            let mut cursor = 0;
            loop {
                let page = client.scan(cursor, PAGE, by).await?;
                for key in page.keys.iter().filter(|key| slots.has(key)) {
                    found.push(format!("'{}' (slot {}, database {db})", show_key(key), slots.layout.slot(key)));
                    if found.len() == NAMED_MAX {
                        return Ok(());
                    }
                }
                cursor = page.cursor;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The feeds that a replica of the source offers, if it is in sync with the source.
///
/// # Errors
/// Returns why it cannot be used, as text for the operator.
async fn healthy_replica(from: &Group, addr: &HostPort, source: &Capabilities, by: Instant) -> Result<Feeds, String> {
    let text = |error: RedisError| error.to_string();
    let replica = capabilities(addr, from.credentials.as_ref(), by).await.map_err(text)?;
    match &replica.role {
        Role::Replica { link, .. } if link == "connected" => {}
        Role::Replica { link, .. } => return Err(format!("its link to its primary is '{link}'")),
        Role::Primary { .. } | Role::Sentinel => return Err("it is not a replica now".into()),
    }
    if replica.replid != source.replid {
        return Err(format!("it does not follow {}", source.addr));
    }
    replica.reads?;
    feeds(addr, from.credentials.as_ref(), by).await.map_err(text)
}

fn primary_of(group: &Group) -> Result<&HostPort, String> {
    let none = || format!("group {} has no server; add one (pontoon group add-server)", group.id);
    group.servers.first().map(|server| &server.addr).ok_or_else(none)
}

/// Whether a key is in one of some slots, in constant time.
struct SlotCheck {
    layout: Layout,
    wanted: Vec<bool>,
}

impl SlotCheck {
    fn new(layout: Layout, slots: &BTreeSet<SlotId>) -> Self {
        Self { layout, wanted: (0..layout.slots()).map(|slot| slots.contains(&SlotId(slot))).collect() }
    }

    fn has(&self, key: &[u8]) -> bool {
        self.wanted.get(usize::from(self.layout.slot(key).0)).copied().unwrap_or(false)
    }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];
    for (unit, one) in UNITS {
        if bytes >= one {
            return format!("{:.1} {unit}", bytes as f64 / one as f64);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in
            [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KB"), (1 << 20, "1.0 MB"), (5 << 30, "5.0 GB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
