//! Checks the input of operators, independent of the state.
//! Knows nothing of the state; `apply` rejects what does not fit it.
//!
//! Each function returns the checked value in the model's type, or [`CallFailure::Bad`] with a text for the operator
//! that says what is expected.

use std::collections::BTreeSet;

use super::error::{CallFailure, quote};
use crate::{
    control::slots::rebalance::RebalanceBy,
    model::{
        ids::{GroupId, HostPort, MigrationId, NodeId, SlotId},
        limits::{
            CREDENTIAL_LEN_MAX, DATABASES_MAX, DOWN_AFTER_MS, EJECT_AFTER_MS, FAILOVER_SHARE, HOLD_MS,
            IMPAIRED_AFTER_MS, MIN_ACKS_MAX, MIN_ACKS_MS, NAME_LEN_MAX, VOTERS_MAX, ZONE_LEN_MAX,
        },
        migration::{Limits, Verify},
        ports::is_unspecified,
        reads::ReadFrom,
        redis_version::ToldVersion,
        route::{Isolated, Mode},
        secret::{Credentials, Secret},
        slot::Layout,
        state::Role,
    },
    wire::pb::admin::{self, MigrationLimits, NodeRole, SlotSpan, Verification},
};

/// Databases of a product if the request does not say: Redis' own default.
const DATABASES: u32 = 16;

fn bad<T>(text: impl Into<String>) -> Result<T, CallFailure> {
    Err(CallFailure::Bad(text.into()))
}

/// A value of an enum; `what` is for the error text.
fn known<E: TryFrom<i32>>(number: i32, what: &str) -> Result<E, CallFailure> {
    E::try_from(number).or_else(|_| {
        bad(format!("this node does not know {what} number {number}; is the client's version later than the node's?"))
    })
}

/// A product's name.
///
/// # Errors
/// [`CallFailure::Bad`] if it is empty, too long, or has a character that is not allowed.
pub fn product_name(name: &str) -> Result<String, CallFailure> {
    let fine = !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if fine {
        return Ok(name.to_owned());
    }
    bad(format!(
        "'{}' is not a valid product name: 1 to {NAME_LEN_MAX} letters, digits, '_', '.' or '-' are expected, and no '.' or '-' \
         at the start",
        quote(name)
    ))
}

/// A port.
///
/// # Errors
/// [`CallFailure::Bad`] if it is not 1 to 65535.
pub fn port(port: u32) -> Result<u16, CallFailure> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => bad(format!("{port} is not a port; ports are 1 to 65535")),
    }
}

/// A server's address.
///
/// # Errors
/// [`CallFailure::Bad`] if it is not HOST:PORT.
pub fn address(text: &str) -> Result<HostPort, CallFailure> {
    let addr = HostPort::parse(text).map_err(CallFailure::Bad)?;
    if is_unspecified(addr.host()) {
        return Err(CallFailure::Bad(format!(
            "{addr} is no address of a server: it means every address of a machine, so each node would connect to itself; \
             give the address at which all nodes reach the server"
        )));
    }
    Ok(addr)
}

/// A layout; unspecified: codis.
///
/// # Errors
/// [`CallFailure::Bad`] if this version does not know it.
pub fn layout(number: i32) -> Result<Layout, CallFailure> {
    Ok(match known(number, "layout")? {
        admin::Layout::Unspecified | admin::Layout::Codis => Layout::Codis,
        admin::Layout::Redis => Layout::Redis,
    })
}

/// Mode (unspecified: store) and `isolated`, whose default depends on the mode.
///
/// # Errors
/// [`CallFailure::Bad`] if this version does not know one of them.
pub fn mode(mode: i32, isolated: i32) -> Result<(Mode, Isolated), CallFailure> {
    let mode = match known(mode, "mode")? {
        admin::Mode::Unspecified | admin::Mode::Store => Mode::Store,
        admin::Mode::Cache => Mode::Cache,
    };
    let isolated = match (known(isolated, "value of isolated,")?, mode) {
        (admin::Isolated::Refuse, _) | (admin::Isolated::Unspecified, Mode::Store) => Isolated::Refuse,
        (admin::Isolated::Serve, _) | (admin::Isolated::Unspecified, Mode::Cache) => Isolated::Serve,
    };
    Ok((mode, isolated))
}

/// Where reads go.
///
/// # Errors
/// [`CallFailure::Bad`] if it is unspecified, or this version does not know it.
pub fn read_from(number: i32) -> Result<ReadFrom, CallFailure> {
    Ok(match known(number, "value of read-from,")? {
        admin::ReadFrom::Unspecified => return bad("read-from is primary, prefer-replica, replica or nearest"),
        admin::ReadFrom::Primary => ReadFrom::Primary,
        admin::ReadFrom::PreferReplica => ReadFrom::PreferReplica,
        admin::ReadFrom::Replica => ReadFrom::Replica,
        admin::ReadFrom::Nearest => ReadFrom::Nearest,
    })
}

/// Number of databases; 0: 16.
///
/// # Errors
/// [`CallFailure::Bad`] if it is larger than [`DATABASES_MAX`].
pub fn databases(number: u32) -> Result<u32, CallFailure> {
    match number {
        0 => Ok(DATABASES),
        1..=DATABASES_MAX => Ok(number),
        _ => bad(format!("a product has 1 to {DATABASES_MAX} databases, not {number}")),
    }
}

/// Number of replicas that must have a write.
///
/// # Errors
/// [`CallFailure::Bad`] if it is larger than [`MIN_ACKS_MAX`].
pub fn min_acks(number: u32) -> Result<u8, CallFailure> {
    match u8::try_from(number) {
        Ok(n) if n <= MIN_ACKS_MAX => Ok(n),
        _ => bad(format!("min-acks is 0 (off) to {MIN_ACKS_MAX}, not {number}")),
    }
}

/// The version of Redis that clients are told.
///
/// # Errors
/// [`CallFailure::Bad`] if the text is no version.
pub fn redis_version(text: &str) -> Result<ToldVersion, CallFailure> {
    match ToldVersion::parse(text) {
        Some(version) => Ok(version),
        None => bad("redis-version is a version such as 7.2.4, or servers (the oldest one of the product's servers)"),
    }
}

/// How long a write waits for replicas, milliseconds.
///
/// # Errors
/// [`CallFailure::Bad`] if it is outside of [`MIN_ACKS_MS`].
pub fn min_acks_timeout_ms(ms: u32) -> Result<u32, CallFailure> {
    if MIN_ACKS_MS.contains(&ms) {
        return Ok(ms);
    }
    bad(format!("min-acks-timeout is {} ms to {} s, not {ms} ms", MIN_ACKS_MS.start(), MIN_ACKS_MS.end() / 1000))
}

/// User name and password; both empty: none.
///
/// # Errors
/// [`CallFailure::Bad`] if one is too long or has a character that is not allowed, or a user name has no password. The
/// text never contains the password.
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
        return bad("the password contains a line break or NUL; does the file have more than one line?");
    }
    if username.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return bad("the user name contains white space or a control character");
    }
    let username = (!username.is_empty()).then(|| username.to_owned());
    Ok(Some(Credentials { username, password: Secret::new(password.to_owned()) }))
}

/// A group's id.
///
/// # Errors
/// [`CallFailure::Bad`] if it is 0.
pub fn group(id: u32) -> Result<GroupId, CallFailure> {
    if id == 0 { bad("0 is not a group id; groups are numbered from 1") } else { Ok(GroupId(id)) }
}

/// A node's id.
///
/// # Errors
/// [`CallFailure::Bad`] if it is 0.
pub fn node(id: u64) -> Result<NodeId, CallFailure> {
    if id == 0 { bad("0 is not a node id; nodes are numbered from 1") } else { Ok(NodeId(id)) }
}

/// The role that an operator wants for a node.
///
/// # Errors
/// [`CallFailure::Bad`] if it is unspecified, or this version does not know it.
pub fn role(number: i32) -> Result<Role, CallFailure> {
    Ok(match known(number, "role")? {
        NodeRole::Unspecified => return bad("the role is voter, learner or auto"),
        NodeRole::Auto => Role::Auto,
        NodeRole::Voter => Role::Voter,
        NodeRole::Learner => Role::Learner,
    })
}

/// Slots of a layout, as a set.
///
/// # Errors
/// [`CallFailure::Bad`] if there are none, a range is reversed, or a slot is not in the layout.
pub fn slots(spans: &[SlotSpan], layout: Layout) -> Result<BTreeSet<SlotId>, CallFailure> {
    if spans.is_empty() {
        return bad("no slots are named; name them as 0-511 or 7");
    }
    let last = layout.slots() - 1;
    if spans.len() > usize::from(layout.slots()) {
        return bad("there are more ranges than slots");
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
/// [`CallFailure::Bad`] if it is not 1 to [`VOTERS_MAX`].
pub fn voters(number: u32) -> Result<u8, CallFailure> {
    match u8::try_from(number) {
        Ok(number) if (1..=VOTERS_MAX).contains(&number) => Ok(number),
        _ => bad(format!("voters is 1 to {VOTERS_MAX}, not {number}")),
    }
}

/// Longest hold, milliseconds.
///
/// # Errors
/// [`CallFailure::Bad`] if it is outside of [`HOLD_MS`].
pub fn hold_max_ms(ms: u32) -> Result<u32, CallFailure> {
    if HOLD_MS.contains(&ms) {
        return Ok(ms);
    }
    bad(format!("hold-max is {} to {} ms, not {ms}", HOLD_MS.start(), HOLD_MS.end()))
}

/// How long a server must fail until it counts as down, milliseconds.
///
/// # Errors
/// [`CallFailure::Bad`] if it is outside of [`DOWN_AFTER_MS`].
pub fn down_after_ms(ms: u32) -> Result<u32, CallFailure> {
    if DOWN_AFTER_MS.contains(&ms) {
        return Ok(ms);
    }
    bad(format!("down-after is {} ms to {} s, not {ms} ms", DOWN_AFTER_MS.start(), DOWN_AFTER_MS.end() / 1000))
}

/// How long a cache waits for a group before it ejects the group's slots, milliseconds; 0: forever.
///
/// # Errors
/// [`CallFailure::Bad`] if it is neither 0 nor inside of [`EJECT_AFTER_MS`].
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

/// How long an impaired server is left alone, milliseconds; 0: forever. `setting` names it.
///
/// # Errors
/// [`CallFailure::Bad`] if it is neither 0 nor inside of [`IMPAIRED_AFTER_MS`].
pub fn impaired_after_ms(setting: &str, ms: u32) -> Result<u32, CallFailure> {
    if ms == 0 || IMPAIRED_AFTER_MS.contains(&ms) {
        return Ok(ms);
    }
    let (least, most) = (IMPAIRED_AFTER_MS.start() / 1000, IMPAIRED_AFTER_MS.end() / 1000);
    bad(format!("{setting} is {least} to {most} s, or off, not {ms} ms"))
}

/// Share of the primaries that may be down at the same time, percent.
///
/// # Errors
/// [`CallFailure::Bad`] if it is outside of [`FAILOVER_SHARE`].
pub fn failover_share_max(percent: u32) -> Result<u8, CallFailure> {
    match u8::try_from(percent) {
        Ok(share) if FAILOVER_SHARE.contains(&share) => Ok(share),
        _ => bad(format!(
            "failover-share-max is {} to {} percent, not {percent}; to stop failovers: pontoon maintenance on",
            FAILOVER_SHARE.start(),
            FAILOVER_SHARE.end()
        )),
    }
}

/// A server's zone; empty: none.
///
/// # Errors
/// [`CallFailure::Bad`] if it is too long or has a character that is not allowed.
pub fn zone(text: &str) -> Result<String, CallFailure> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if text.len() <= ZONE_LEN_MAX && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    bad(format!(
        "'{}' is not a valid zone: at most {ZONE_LEN_MAX} of A-Z a-z 0-9 _ . - are expected (no zone: zone=)",
        quote(text)
    ))
}

/// How much a migration compares; unspecified: nothing.
///
/// # Errors
/// [`CallFailure::Bad`] if this version does not know it.
pub fn verification(number: i32) -> Result<Verify, CallFailure> {
    Ok(match known(number, "verification")? {
        Verification::Unspecified | Verification::None => Verify::None,
        Verification::Sample => Verify::Sample,
        Verification::Full => Verify::Full,
    })
}

/// Limits of a migration.
///
/// # Errors
/// As [`migration_hold_max_ms`].
pub fn limits(limits: Option<MigrationLimits>) -> Result<Limits, CallFailure> {
    let MigrationLimits { keys_per_second, bytes_per_second, hold_max_ms } = limits.unwrap_or_default();
    Ok(Limits { keys_per_second, bytes_per_second, hold_ms_max: migration_hold_max_ms(hold_max_ms)? })
}

/// Longest hold of a migration, milliseconds; 0: the cluster's.
///
/// # Errors
/// [`CallFailure::Bad`] if it is neither 0 nor inside of [`HOLD_MS`].
pub fn migration_hold_max_ms(ms: u32) -> Result<u32, CallFailure> {
    if ms == 0 { Ok(0) } else { hold_max_ms(ms) }
}

/// A migration's id.
///
/// # Errors
/// [`CallFailure::Bad`] if it is 0.
pub fn migration(id: u64) -> Result<MigrationId, CallFailure> {
    if id == 0 { bad("0 is not a migration id; `pontoon migrate ls` shows them") } else { Ok(MigrationId(id)) }
}

/// What a rebalance balances; unspecified: the number of slots.
///
/// # Errors
/// [`CallFailure::Bad`] if this version does not know it.
pub fn rebalance_by(number: i32) -> Result<RebalanceBy, CallFailure> {
    Ok(match known(number, "measure of a rebalance,")? {
        admin::RebalanceBy::Unspecified | admin::RebalanceBy::Slots => RebalanceBy::Slots,
        admin::RebalanceBy::Keys => RebalanceBy::Keys,
        admin::RebalanceBy::Memory => RebalanceBy::Memory,
        admin::RebalanceBy::Ops => RebalanceBy::Ops,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_ports_and_ids() {
        for name in ["default", "a", "A.b_c-9", &"x".repeat(64)] {
            assert_eq!(product_name(name).unwrap(), name);
        }
        for name in ["", "-a", ".a", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(product_name(name).is_err(), "{name}");
        }
        assert_eq!((port(1).unwrap(), port(65535).unwrap()), (1, 65535));
        assert!(port(0).is_err() && port(65536).is_err());
        assert!(group(0).is_err() && node(0).is_err() && migration(0).is_err());
        assert!(databases(1025).is_err());
        assert_eq!(databases(0).unwrap(), 16);
        assert!(voters(0).is_err() && voters(8).is_err() && hold_max_ms(9).is_err() && hold_max_ms(10_001).is_err());
    }

    #[test]
    fn enums_have_defaults_and_a_later_version_s_values_are_refused() {
        assert_eq!(layout(0).unwrap(), Layout::Codis);
        assert_eq!(verification(0).unwrap(), Verify::None);
        assert_eq!(rebalance_by(admin::RebalanceBy::Ops.into()).unwrap(), RebalanceBy::Ops);
        assert!(role(0).is_err() && read_from(0).is_err());
        for refused in [
            layout(99).map(drop),
            mode(99, 0).map(drop),
            mode(0, 99).map(drop),
            read_from(99).map(drop),
            role(99).map(drop),
            verification(99).map(drop),
            rebalance_by(-1).map(drop),
        ] {
            assert!(refused.unwrap_err().to_string().contains("does not know"));
        }
    }

    #[test]
    fn settings_of_failover() {
        assert_eq!((down_after_ms(500).unwrap(), down_after_ms(600_000).unwrap()), (500, 600_000));
        assert_eq!((eject_after_ms(0).unwrap(), eject_after_ms(500).unwrap()), (0, 500));
        assert!(eject_after_ms(499).is_err() && eject_after_ms(600_001).is_err());
        assert!(down_after_ms(499).is_err() && down_after_ms(600_001).is_err());
        assert_eq!((failover_share_max(1).unwrap(), failover_share_max(100).unwrap()), (1, 100));
        for none in [0, 101, 256, u32::MAX] {
            assert!(failover_share_max(none).unwrap_err().to_string().contains("maintenance on"), "{none}");
        }
        for good in ["", "rack-7", "eu.west_1", &"x".repeat(64)] {
            assert_eq!(zone(good).unwrap(), good);
        }
        for wrong in ["a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(zone(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_default_of_isolated_depends_on_the_mode() {
        let (cache, refuse) = (admin::Mode::Cache.into(), admin::Isolated::Refuse.into());
        assert_eq!(mode(0, 0).unwrap(), (Mode::Store, Isolated::Refuse));
        assert_eq!(mode(cache, 0).unwrap(), (Mode::Cache, Isolated::Serve));
        assert_eq!(mode(cache, refuse).unwrap(), (Mode::Cache, Isolated::Refuse));
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
    fn error_texts_do_not_contain_passwords() {
        for password in ["top\nsecret", &format!("top{}secret", "x".repeat(CREDENTIAL_LEN_MAX))] {
            let text = credentials("", password).unwrap_err().to_string();
            assert!(!text.contains("top") && !text.contains("secret"), "{text}");
        }
        assert!(credentials("user", "").is_err());
        assert_eq!(credentials("", "").unwrap(), None);
        assert_eq!(credentials("u", "p").unwrap().unwrap().username.as_deref(), Some("u"));
    }
}
