//! What entries and snapshots have in common: errors, and the conversions of shared parts.

use std::collections::BTreeSet;

use super::pb::state as pb;
use crate::model::{
    change::{NewMember, NewProduct},
    data_user::DataUser,
    ids::{AssignmentId, HostPort, MigrationId, NodeId, PromotionId, SlotId, Uuid},
    redis_version::ToldVersion,
    route::{HoldKind, Isolated, Mode},
    secret::{Credentials, Secret},
    slot::{Layout, runs},
    state::{Cause, RaftMembership, Role, Server},
};

/// The newest feature level that this program understands, and the only one so far. Entries and states carry the level
/// that a program needs to understand them.
pub const LEVEL: u32 = 1;

/// Why bytes cannot be decoded as an entry or a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not protobuf of this kind.
    #[error("the bytes are damaged: {0}")]
    Damaged(String),
    /// A newer version wrote it.
    #[error(
        "it needs feature level {needs}, and this program has {LEVEL}: update pontoon on this node before it goes on"
    )]
    TooNew {
        /// The level it needs.
        needs: u32,
    },
    /// A required part is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value is not allowed.
    #[error("{what} cannot be {value}")]
    Bad {
        /// The part.
        what: &'static str,
        /// The value, as text.
        value: String,
    },
    /// The bytes are too long.
    #[error("{what} has {len} bytes, more than {max}")]
    TooLong {
        /// The kind of bytes.
        what: &'static str,
        /// Their length.
        len: usize,
        /// The limit.
        max: usize,
    },
}

pub(super) fn bad<T>(what: &'static str, value: impl ToString) -> Result<T, DecodeError> {
    Err(DecodeError::Bad { what, value: value.to_string() })
}

pub(super) fn need<T>(value: Option<T>, what: &'static str) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing(what))
}

/// Refuses what a newer version wrote. Every version writes a level, so 0 means damage.
pub(super) fn check_level(needs: u32) -> Result<(), DecodeError> {
    match needs {
        0 => Err(DecodeError::Missing("the feature level")),
        1..=LEVEL => Ok(()),
        _ => Err(DecodeError::TooNew { needs }),
    }
}

pub(super) fn id_to(id: Uuid) -> Option<pb::Id128> {
    Some(pb::Id128 { high: (id.0 >> 64) as u64, low: id.0 as u64 })
}

pub(super) fn id_from(id: Option<pb::Id128>, what: &'static str) -> Result<Uuid, DecodeError> {
    let id = need(id, what)?;
    Ok(Uuid(u128::from(id.high) << 64 | u128::from(id.low)))
}

pub(super) fn addr_from(text: &str) -> Result<HostPort, DecodeError> {
    HostPort::parse(text).or_else(|why| bad("an address", why))
}

pub(super) fn u16_from(n: u32, what: &'static str) -> Result<u16, DecodeError> {
    u16::try_from(n).or_else(|_| bad(what, n))
}

pub(super) fn u8_from(n: u32, what: &'static str) -> Result<u8, DecodeError> {
    u8::try_from(n).or_else(|_| bad(what, n))
}

pub(super) fn member_to(m: &NewMember) -> pb::NewMember {
    pb::NewMember {
        id: m.id.0,
        uuid: id_to(m.uuid),
        admin: m.admin.to_string(),
        advertise: m.advertise.clone(),
        port_offset: u32::from(m.port_offset),
    }
}

pub(super) fn member_from(m: pb::NewMember) -> Result<NewMember, DecodeError> {
    Ok(NewMember {
        id: NodeId(m.id),
        uuid: id_from(m.uuid, "a node's uuid")?,
        admin: addr_from(&m.admin)?,
        advertise: m.advertise,
        port_offset: u16_from(m.port_offset, "a port offset")?,
    })
}

pub(super) fn product_to(p: &NewProduct) -> pb::NewProduct {
    pb::NewProduct {
        name: p.name.clone(),
        port: u32::from(p.port),
        layout: match p.layout {
            Layout::Codis => pb::Layout::Codis,
            Layout::Redis => pb::Layout::Redis,
        }
        .into(),
        mode: match p.mode {
            Mode::Store => pb::Mode::Store,
            Mode::Cache => pb::Mode::Cache,
        }
        .into(),
        isolated: match p.isolated {
            Isolated::Refuse => pb::Isolated::Refuse,
            Isolated::Serve => pb::Isolated::Serve,
        }
        .into(),
        databases: p.databases,
        auth: p.auth.as_ref().map(credentials_to),
    }
}

pub(super) fn product_from(p: pb::NewProduct) -> Result<NewProduct, DecodeError> {
    Ok(NewProduct {
        port: u16_from(p.port, "a port")?,
        layout: match p.layout() {
            pb::Layout::Codis => Layout::Codis,
            pb::Layout::Redis => Layout::Redis,
            pb::Layout::Unspecified => return bad("a layout", p.layout),
        },
        mode: match p.mode() {
            pb::Mode::Store => Mode::Store,
            pb::Mode::Cache => Mode::Cache,
            pb::Mode::Unspecified => return bad("a mode", p.mode),
        },
        isolated: match p.isolated() {
            pb::Isolated::Refuse => Isolated::Refuse,
            pb::Isolated::Serve => Isolated::Serve,
            pb::Isolated::Unspecified => return bad("isolated", p.isolated),
        },
        databases: p.databases,
        auth: p.auth.map(credentials_from),
        name: p.name,
    })
}

pub(super) fn credentials_to(c: &Credentials) -> pb::Credentials {
    pb::Credentials { username: c.username.clone(), password: c.password.reveal().to_owned() }
}

pub(super) fn data_user_to(user: &DataUser) -> pb::DataUser {
    pb::DataUser { credentials: Some(credentials_to(&user.credentials)), managed: user.managed }
}

pub(super) fn data_user_from(user: pb::DataUser) -> Result<DataUser, DecodeError> {
    let credentials = credentials_from(need(user.credentials, "the credentials of a data user")?);
    Ok(DataUser { credentials, managed: user.managed })
}

pub(super) fn credentials_from(c: pb::Credentials) -> Credentials {
    Credentials { username: c.username, password: Secret::new(c.password) }
}

pub(super) fn server_to(s: &Server) -> pb::Server {
    pb::Server {
        addr: s.addr.to_string(),
        run_id: s.run_id.clone(),
        keys_when_added: s.keys_when_added,
        priority: s.priority,
        zone: s.zone.clone(),
        diverged: s.diverged,
    }
}

pub(super) fn server_from(s: pb::Server) -> Result<Server, DecodeError> {
    Ok(Server {
        addr: addr_from(&s.addr)?,
        run_id: s.run_id,
        keys_when_added: s.keys_when_added,
        priority: s.priority,
        zone: s.zone,
        diverged: s.diverged,
    })
}

pub(super) fn slots_to(slots: &BTreeSet<SlotId>) -> Vec<pb::SlotRun> {
    runs(slots)
        .into_iter()
        .map(|(first, last)| pb::SlotRun { first: u32::from(first.0), last: u32::from(last.0) })
        .collect()
}

/// Runs must be ascending and must not overlap, so that they have at most 65536 slots together.
pub(super) fn slots_from(runs: &[pb::SlotRun]) -> Result<BTreeSet<SlotId>, DecodeError> {
    let mut slots = BTreeSet::new();
    let mut next = 0u32;
    for run in runs {
        if run.first < next || run.last < run.first {
            return bad("a run of slots", format!("{}-{}", run.first, run.last));
        }
        let (first, last) = (u16_from(run.first, "a slot")?, u16_from(run.last, "a slot")?);
        slots.extend((first..=last).map(SlotId));
        next = run.last + 1;
    }
    Ok(slots)
}

pub(super) fn cause_to(cause: Cause) -> Option<pb::Cause> {
    let kind = match cause {
        Cause::Assignment(id) => pb::cause::Kind::Assignment(id.0),
        Cause::Migration(id) => pb::cause::Kind::Migration(id.0),
        Cause::Promotion(id) => pb::cause::Kind::Promotion(id.0),
    };
    Some(pb::Cause { kind: Some(kind) })
}

pub(super) fn cause_from(cause: Option<pb::Cause>) -> Result<Cause, DecodeError> {
    match need(cause.and_then(|c| c.kind), "the cause of a hold")? {
        pb::cause::Kind::Assignment(id) => Ok(Cause::Assignment(AssignmentId(id))),
        pb::cause::Kind::Migration(id) => Ok(Cause::Migration(MigrationId(id))),
        pb::cause::Kind::Promotion(id) => Ok(Cause::Promotion(PromotionId(id))),
    }
}

pub(super) fn kind_to(kind: HoldKind) -> i32 {
    match kind {
        HoldKind::Wait => pb::HoldKind::Wait,
        HoldKind::Abandon => pb::HoldKind::Abandon,
    }
    .into()
}

pub(super) fn kind_from(kind: i32) -> Result<HoldKind, DecodeError> {
    match pb::HoldKind::try_from(kind) {
        Ok(pb::HoldKind::Wait) => Ok(HoldKind::Wait),
        Ok(pb::HoldKind::Abandon) => Ok(HoldKind::Abandon),
        Ok(pb::HoldKind::Unspecified) | Err(_) => bad("the kind of a hold", kind),
    }
}

pub(super) fn raft_membership_to(membership: &RaftMembership) -> pb::RaftMembership {
    let RaftMembership { voters, learners } = membership;
    let ids = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect();
    pb::RaftMembership { voters: ids(voters), learners: ids(learners) }
}

pub(super) fn raft_membership_from(membership: pb::RaftMembership) -> RaftMembership {
    let ids = |nodes: Vec<u64>| nodes.into_iter().map(NodeId).collect();
    RaftMembership { voters: ids(membership.voters), learners: ids(membership.learners) }
}

pub(super) fn role_to(role: Role) -> i32 {
    match role {
        Role::Auto => pb::Role::Auto,
        Role::Voter => pb::Role::Voter,
        Role::Learner => pb::Role::Learner,
    }
    .into()
}

pub(super) fn role_from(role: i32) -> Result<Role, DecodeError> {
    match pb::Role::try_from(role) {
        Ok(pb::Role::Auto) => Ok(Role::Auto),
        Ok(pb::Role::Voter) => Ok(Role::Voter),
        Ok(pb::Role::Learner) => Ok(Role::Learner),
        Ok(pb::Role::Unspecified) | Err(_) => bad("a role", role),
    }
}

pub(super) fn told_version_from(number: u64) -> Result<ToldVersion, DecodeError> {
    match ToldVersion::of_number(number) {
        Some(version) => Ok(version),
        None => bad("a version of Redis", number),
    }
}

pub(super) fn min_acks_from(replicas: u32) -> Result<u8, DecodeError> {
    u8_from(replicas, "min-acks")
}
