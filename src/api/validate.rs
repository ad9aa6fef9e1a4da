//! What a request may say, whatever the state: the one place where input of operators is judged.
//! Knows nothing of the state; what depends on it is refused by `apply`.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{change::MutationCall, error::CallFailure};
use crate::{
    model::{
        ids::{GroupId, HostPort, MigrationId, NodeId, SlotId, Uuid},
        limits::{
            CREDENTIAL_LEN_MAX, DATABASES_MAX, DOWN_AFTER_MS, EJECT_AFTER_MS, FAILOVER_SHARE, HOLD_MS, MIN_ACKS_MAX,
            MIN_ACKS_MS, NAME_LEN_MAX, VOTERS_MAX, ZONE_LEN_MAX,
        },
        migration::{Limits, Verify},
        reads::ReadFrom,
        route::{Isolated, Mode},
        secret::{Credentials, Secret},
        slot::Layout,
        state::Role,
    },
    wire::pb::admin::{ChangeOptions, MigrationLimits, SlotSpan},
};

/// Without `wait`: a commit takes milliseconds, an election a second.
const TIMEOUT: Duration = Duration::from_secs(10);
/// With `wait`: nodes may be starting.
const TIMEOUT_WAIT: Duration = Duration::from_secs(5 * 60);
/// Longest that may be asked for.
const TIMEOUT_MAX_MS: u32 = 3_600_000;
/// Databases of a product when none are named: what Redis has by default.
const DATABASES: u32 = 16;
/// Longest piece of input that is repeated in an error text.
const QUOTE_MAX: usize = 80;

fn bad<T>(text: impl Into<String>) -> Result<T, CallFailure> {
    Err(CallFailure::Bad(text.into()))
}

/// Input as it may stand in an error text: short and printable.
#[must_use]
pub fn quote(text: &str) -> String {
    text.chars().take(QUOTE_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Options of a change; an empty id is replaced by a random one.
///
/// # Errors
/// An id of another length than 16, a timeout above an hour.
pub fn options(options: &ChangeOptions) -> Result<MutationCall, CallFailure> {
    let id = match options.change_id.len() {
        0 => Uuid(uuid::Uuid::new_v4().as_u128()),
        _ => match <[u8; 16]>::try_from(options.change_id.as_ref()) {
            Ok(bytes) => Uuid(u128::from_be_bytes(bytes)),
            Err(_) => return bad(format!("a change id has 16 bytes, this one has {}", options.change_id.len())),
        },
    };
    let timeout = match options.timeout_ms {
        0 if options.wait => TIMEOUT_WAIT,
        0 => TIMEOUT,
        ms if ms > TIMEOUT_MAX_MS => return bad("a timeout is at most one hour"),
        ms => Duration::from_millis(ms.into()),
    };
    Ok(MutationCall {
        id,
        request_hash: 0,
        dry_run: options.dry_run,
        wait: options.wait,
        deadline: Instant::now() + timeout,
    })
}

/// A product's name.
///
/// # Errors
/// A sentence.
pub fn product_name(name: &str) -> Result<String, CallFailure> {
    let fine = !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if fine {
        return Ok(name.to_owned());
    }
    bad(format!(
        "'{}' cannot be a product's name: 1 to {NAME_LEN_MAX} of letters, digits, '_', '.' and '-', not starting with '.' or '-'",
        quote(name)
    ))
}

/// A port.
///
/// # Errors
/// A sentence.
pub fn port(port: u32) -> Result<u16, CallFailure> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => bad(format!("{port} is not a port; ports are 1 to 65535")),
    }
}

/// A server's address.
///
/// # Errors
/// A sentence.
pub fn address(text: &str) -> Result<HostPort, CallFailure> {
    HostPort::parse(text).map_err(CallFailure::Bad)
}

/// A layout; empty: `codis`.
///
/// # Errors
/// A sentence.
pub fn layout(text: &str) -> Result<Layout, CallFailure> {
    match text {
        "" | "codis" => Ok(Layout::Codis),
        "redis" => Ok(Layout::Redis),
        other => bad(format!("'{}' is no layout; choose codis (1024 slots) or redis (16384 slots)", quote(other))),
    }
}

/// Mode and `isolated`; their defaults depend on each other.
///
/// # Errors
/// A sentence.
pub fn mode(mode: &str, isolated: &str) -> Result<(Mode, Isolated), CallFailure> {
    let mode = match mode {
        "" | "store" => Mode::Store,
        "cache" => Mode::Cache,
        other => return bad(format!("'{}' is no mode; choose store or cache", quote(other))),
    };
    let isolated = match (isolated, mode) {
        ("refuse", _) | ("", Mode::Store) => Isolated::Refuse,
        ("serve", _) | ("", Mode::Cache) => Isolated::Serve,
        (other, _) => {
            return bad(format!("'{}' is not what a node can do when isolated; choose refuse or serve", quote(other)));
        }
    };
    Ok((mode, isolated))
}

/// Where reads go.
///
/// # Errors
/// A sentence.
pub fn read_from(text: &str) -> Result<ReadFrom, CallFailure> {
    match ReadFrom::ALL.into_iter().find(|from| from.name() == text) {
        Some(from) => Ok(from),
        None => {
            bad(format!("reads cannot go to '{}'; choose primary, prefer-replica, replica or nearest", quote(text)))
        }
    }
}

/// Number of databases; 0: 16.
///
/// # Errors
/// A sentence.
pub fn databases(number: u32) -> Result<u32, CallFailure> {
    match number {
        0 => Ok(DATABASES),
        1..=DATABASES_MAX => Ok(number),
        _ => bad(format!("{number} databases cannot be; 1 to {DATABASES_MAX}")),
    }
}

/// Replicas that must have a write.
///
/// # Errors
/// A sentence.
pub fn min_acks(number: u32) -> Result<u8, CallFailure> {
    match u8::try_from(number) {
        Ok(n) if n <= MIN_ACKS_MAX => Ok(n),
        _ => bad(format!("min-acks {number} cannot be reached; 0 (off) to {MIN_ACKS_MAX}")),
    }
}

/// How long replicas are waited for, milliseconds.
///
/// # Errors
/// A sentence.
pub fn min_acks_ms(ms: u32) -> Result<u32, CallFailure> {
    if MIN_ACKS_MS.contains(&ms) {
        return Ok(ms);
    }
    bad(format!("replicas cannot be waited for {ms} ms; {} ms to {} s", MIN_ACKS_MS.start(), MIN_ACKS_MS.end() / 1000))
}

/// User name and password; both empty: none.
///
/// # Errors
/// A sentence that never has the password in it.
pub fn credentials(username: &str, password: &str) -> Result<Option<Credentials>, CallFailure> {
    if password.is_empty() {
        if !username.is_empty() {
            return bad("a user name needs a password; give --password-file");
        }
        return Ok(None);
    }
    if password.len() > CREDENTIAL_LEN_MAX || username.len() > CREDENTIAL_LEN_MAX {
        return bad(format!("a user name or password has at most {CREDENTIAL_LEN_MAX} bytes"));
    }
    if password.contains(['\r', '\n', '\0']) {
        return bad("the password has a line break or NUL in it; does the file have more than one line?");
    }
    if username.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return bad("the user name has white space in it");
    }
    let username = (!username.is_empty()).then(|| username.to_owned());
    Ok(Some(Credentials { username, password: Secret::new(password.to_owned()) }))
}

/// A group's id.
///
/// # Errors
/// A sentence.
pub fn group(id: u32) -> Result<GroupId, CallFailure> {
    if id == 0 { bad("0 is no group id; groups are numbered from 1") } else { Ok(GroupId(id)) }
}

/// A node's id.
///
/// # Errors
/// A sentence.
pub fn node(id: u64) -> Result<NodeId, CallFailure> {
    if id == 0 { bad("0 is no node id; nodes are numbered from 1") } else { Ok(NodeId(id)) }
}

/// A role wanted for a node.
///
/// # Errors
/// A sentence.
pub fn role(text: &str) -> Result<Role, CallFailure> {
    match text {
        "auto" => Ok(Role::Auto),
        "voter" => Ok(Role::Voter),
        "learner" => Ok(Role::Learner),
        other => bad(format!("'{}' is no role; choose voter, learner or auto", quote(other))),
    }
}

/// Slots of a layout, as a set.
///
/// # Errors
/// A sentence when there are none, a range is reversed, or a slot is not in the layout.
pub fn slots(spans: &[SlotSpan], layout: Layout) -> Result<BTreeSet<SlotId>, CallFailure> {
    if spans.is_empty() {
        return bad("name slots, as 0-511 or 7");
    }
    let last = layout.slots() - 1;
    if spans.len() > usize::from(layout.slots()) {
        return bad("more ranges than there are slots");
    }
    let mut set = BTreeSet::new();
    for SlotSpan { first, last: end } in spans {
        if first > end {
            return bad(format!("the range {first}-{end} is reversed; write {end}-{first}"));
        }
        match (u16::try_from(*first), u16::try_from(*end)) {
            (Ok(first), Ok(end)) if end <= last => set.extend((first..=end).map(SlotId)),
            _ => return bad(format!("there is no slot {end}: this product's slots are 0 to {last}")),
        }
    }
    Ok(set)
}

/// Number of automatic voters.
///
/// # Errors
/// A sentence.
pub fn voters(number: u32) -> Result<u8, CallFailure> {
    match u8::try_from(number) {
        Ok(number) if (1..=VOTERS_MAX).contains(&number) => Ok(number),
        _ => bad(format!("{number} voters cannot be; 1 to {VOTERS_MAX}")),
    }
}

/// Budget of a hold.
///
/// # Errors
/// A sentence.
pub fn hold_ms(ms: u32) -> Result<u32, CallFailure> {
    if HOLD_MS.contains(&ms) {
        return Ok(ms);
    }
    bad(format!("hold-max is {} to {} ms, not {ms}", HOLD_MS.start(), HOLD_MS.end()))
}

/// How long a server has to fail until it counts as down.
///
/// # Errors
/// A sentence.
pub fn down_after_ms(ms: u32) -> Result<u32, CallFailure> {
    if DOWN_AFTER_MS.contains(&ms) {
        return Ok(ms);
    }
    bad(format!("down-after is {} ms to {} s, not {ms} ms", DOWN_AFTER_MS.start(), DOWN_AFTER_MS.end() / 1000))
}

/// How long a cache waits for a group before it ejects its slots; 0: for ever.
///
/// # Errors
/// A sentence.
pub fn eject_after_ms(ms: u32) -> Result<u32, CallFailure> {
    if ms == 0 || EJECT_AFTER_MS.contains(&ms) {
        return Ok(ms);
    }
    bad(format!(
        "eject-after is {} ms to {} s, or off, not {ms} ms",
        EJECT_AFTER_MS.start(),
        EJECT_AFTER_MS.end() / 1000
    ))
}

/// Share of the primaries that may be down at once, percent.
///
/// # Errors
/// A sentence.
pub fn failover_share(percent: u32) -> Result<u8, CallFailure> {
    match u8::try_from(percent) {
        Ok(share) if FAILOVER_SHARE.contains(&share) => Ok(share),
        _ => bad(format!(
            "failover-share-max is {} to {} percent, not {percent}; to stop failovers: pontoon maintenance on",
            FAILOVER_SHARE.start(),
            FAILOVER_SHARE.end()
        )),
    }
}

/// Where a server is; empty: not said.
///
/// # Errors
/// A sentence.
pub fn zone(text: &str) -> Result<String, CallFailure> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if text.len() <= ZONE_LEN_MAX && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    bad(format!("'{}' is no zone; a zone has at most {ZONE_LEN_MAX} of A-Z a-z 0-9 _ . - (none: zone=)", quote(text)))
}

/// How much is compared; empty: nothing.
///
/// # Errors
/// A sentence.
pub fn verify(text: &str) -> Result<Verify, CallFailure> {
    match text {
        "" | "none" => Ok(Verify::None),
        "sample" => Ok(Verify::Sample),
        "full" => Ok(Verify::Full),
        other => bad(format!("'{}' is nothing to compare; choose none, sample or full", quote(other))),
    }
}

/// Limits of a migration.
///
/// # Errors
/// A sentence.
pub fn limits(limits: Option<MigrationLimits>) -> Result<Limits, CallFailure> {
    let MigrationLimits { keys_per_second, bytes_per_second, hold_ms_max } = limits.unwrap_or_default();
    Ok(Limits { keys_per_second, bytes_per_second, hold_ms_max: migration_hold_ms(hold_ms_max)? })
}

/// Budget of a migration's hold; 0: the cluster's.
///
/// # Errors
/// A sentence.
pub fn migration_hold_ms(ms: u32) -> Result<u32, CallFailure> {
    if ms == 0 { Ok(0) } else { hold_ms(ms) }
}

/// A migration's id.
///
/// # Errors
/// A sentence.
pub fn migration(id: u64) -> Result<MigrationId, CallFailure> {
    if id == 0 { bad("0 is no migration; `pontoon migrate ls` shows them") } else { Ok(MigrationId(id)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_ports_and_roles() {
        for name in ["default", "a", "A.b_c-9", &"x".repeat(64)] {
            assert_eq!(product_name(name).unwrap(), name);
        }
        for name in ["", "-a", ".a", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(product_name(name).is_err(), "{name}");
        }
        assert_eq!((port(1).unwrap(), port(65535).unwrap()), (1, 65535));
        assert!(port(0).is_err() && port(65536).is_err());
        assert!(role("boss").is_err() && group(0).is_err() && node(0).is_err());
        assert!(databases(1025).is_err());
        assert_eq!(databases(0).unwrap(), 16);
        assert!(voters(0).is_err() && voters(8).is_err() && hold_ms(9).is_err() && hold_ms(10_001).is_err());
    }

    #[test]
    fn what_promotions_go_by() {
        assert_eq!((down_after_ms(500).unwrap(), down_after_ms(600_000).unwrap()), (500, 600_000));
        assert_eq!((eject_after_ms(0).unwrap(), eject_after_ms(500).unwrap()), (0, 500));
        assert!(eject_after_ms(499).is_err() && eject_after_ms(600_001).is_err());
        assert!(down_after_ms(499).is_err() && down_after_ms(600_001).is_err());
        assert_eq!((failover_share(1).unwrap(), failover_share(100).unwrap()), (1, 100));
        for none in [0, 101, 256, u32::MAX] {
            assert!(failover_share(none).unwrap_err().to_string().contains("maintenance on"), "{none}");
        }
        for good in ["", "rack-7", "eu.west_1", &"x".repeat(64)] {
            assert_eq!(zone(good).unwrap(), good);
        }
        for wrong in ["a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(zone(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn isolated_follows_the_mode() {
        assert_eq!(mode("", "").unwrap(), (Mode::Store, Isolated::Refuse));
        assert_eq!(mode("cache", "").unwrap(), (Mode::Cache, Isolated::Serve));
        assert_eq!(mode("cache", "refuse").unwrap(), (Mode::Cache, Isolated::Refuse));
        assert!(mode("both", "").is_err() && mode("", "maybe").is_err());
    }

    #[test]
    fn slot_ranges() {
        let span = |first, last| SlotSpan { first, last };
        let set = slots(&[span(0, 2), span(2, 3), span(1023, 1023)], Layout::Codis).unwrap();
        assert_eq!(set.into_iter().map(|s| s.0).collect::<Vec<_>>(), [0, 1, 2, 3, 1023]);
        assert_eq!(slots(&[span(0, 16383)], Layout::Redis).unwrap().len(), 16384);
        for wrong in [&[][..], &[span(3, 2)], &[span(0, 1024)], &[span(70_000, 70_001)], &[span(0, u32::MAX)]] {
            assert!(slots(wrong, Layout::Codis).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn passwords_are_not_repeated() {
        for password in ["top\nsecret", &format!("top{}secret", "x".repeat(CREDENTIAL_LEN_MAX))] {
            let text = credentials("", password).unwrap_err().to_string();
            assert!(!text.contains("top") && !text.contains("secret"), "{text}");
        }
        assert!(credentials("user", "").is_err());
        assert_eq!(credentials("", "").unwrap(), None);
        assert_eq!(credentials("u", "p").unwrap().unwrap().username.as_deref(), Some("u"));
    }

    #[test]
    fn ids_and_timeouts() {
        let mut given = ChangeOptions { change_id: vec![1; 16].into(), ..ChangeOptions::default() };
        assert_eq!(options(&given).unwrap().id, Uuid(0x0101_0101_0101_0101_0101_0101_0101_0101));
        assert!(options(&given).unwrap().left() <= TIMEOUT);
        given.wait = true;
        assert!(options(&given).unwrap().left() > TIMEOUT);
        given.change_id = vec![1; 15].into();
        assert!(options(&given).is_err());
        given = ChangeOptions { timeout_ms: TIMEOUT_MAX_MS + 1, ..ChangeOptions::default() };
        assert!(options(&given).is_err());
        given.timeout_ms = 5;
        assert_ne!(options(&given).unwrap().id, options(&given).unwrap().id);
    }
}
