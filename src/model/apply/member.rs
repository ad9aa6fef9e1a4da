//! Members: joining, admission of a start, roles, removal.
//! Knows nothing of Raft's own membership, which follows this one (`plan::membership`).

use std::collections::{BTreeMap, BTreeSet};

use super::{Apply, common::routed, events::When, guard::same_term, product};
use crate::model::{
    change::{Admit, BeginRemove, Bootstrap, FinishRemove, NewMember, NewProduct, NoteMembership, Recover, SetRole},
    ids::{HostPort, Incarnation, NodeId, Term, Uuid},
    limits::{MEMBERS_MAX, REMOVED_MAX},
    outcome::Outcome,
    ports::{NodePorts, check_listeners, is_unspecified, products, servers},
    reject::Reject,
    route::{Isolated, Mode},
    slot::Layout,
    state::{Admission, ClusterState, Leaving, Member, RaftMembership, RemovedMember, Role},
};

/// Databases of the product `default`: the default of redis-server.
const DEFAULT_DATABASES: u32 = 16;

impl Apply for Bootstrap {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { ref members, port } = *self;
        let at = when.at;
        if !state.members.is_empty() {
            return Err(Reject::AlreadyBootstrapped);
        }
        if members.is_empty() {
            return Err(Reject::NoMembers);
        }
        if members.len() > MEMBERS_MAX {
            return Err(Reject::TooManyMembers { max: MEMBERS_MAX });
        }
        let mut first = BTreeMap::new();
        let mut uuids: BTreeMap<Uuid, NodeId> = BTreeMap::new();
        for new in members {
            new_member_allowed(new)?;
            if let Some(id) = uuids.insert(new.uuid, new.id) {
                return Err(Reject::UuidTaken { uuid: new.uuid, id });
            }
            if let Some(before) = first.insert(new.id, member(new)) {
                return Err(Reject::IdTaken { id: new.id, uuid: before.uuid, admin: before.admin });
            }
        }
        let default = NewProduct {
            name: "default".to_owned(),
            port,
            layout: Layout::Codis,
            mode: Mode::Store,
            isolated: Isolated::Refuse,
            databases: DEFAULT_DATABASES,
            auth: None,
        };
        check_listeners(members.iter().map(NodePorts::from), &[(&default.name, port)], std::iter::empty())?;

        // Raft's first membership has no learners.
        state.raft_membership = RaftMembership { voters: first.keys().copied().collect(), learners: BTreeSet::new() };
        state.members = first;
        product::insert(state, &default, at);
        routed(state, at);
        Ok(Outcome::Done)
    }
}

impl Apply for NewMember {
    fn apply(&self, state: &mut ClusterState, _when: When) -> Result<Outcome, Reject> {
        new_member_allowed(self)?;
        if state.was_removed(self.uuid) {
            return Err(Reject::NodeRemoved { node: self.id, uuid: self.uuid });
        }
        let known = known(state, self)?;
        if known.is_none() && state.members.len() >= MEMBERS_MAX {
            return Err(Reject::TooManyMembers { max: MEMBERS_MAX });
        }
        match known {
            Some(known) if same_place(known, self) => return Ok(Outcome::Unchanged),
            Some(_) | None => ports_free(state, self)?,
        }

        place(state, self);
        Ok(Outcome::Done)
    }
}

impl Apply for Admit {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { member: ref new, start } = *self;
        let at = when.at;
        new_member_allowed(new)?;
        let Some(known) = known(state, new)? else { return Err(Reject::UnknownNode(new.id)) };
        let moved = !same_place(known, new);
        let admitted = known.admitted.is_some_and(|a| a.start == start);
        if moved {
            ports_free(state, new)?;
        }

        if moved {
            place(state, new);
        }
        if admitted {
            return Ok(if moved { Outcome::Done } else { Outcome::Unchanged });
        }
        let incarnation = Incarnation(at.index.0);
        if let Some(member) = state.members.get_mut(&new.id) {
            member.admitted = Some(Admission { start, incarnation });
        }
        routed(state, at);
        Ok(Outcome::Admitted(incarnation))
    }
}

impl Apply for BeginRemove {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { node, assume_dead } = *self;
        let at = when.at;
        let member = state.members.get(&node).ok_or(Reject::UnknownNode(node))?;
        if member.leaving.is_none() {
            others_can_vote(state, node)?;
        }
        let leaving = match member.leaving {
            // A later removal without `assume_dead` does not take it back.
            Some(before) => Leaving { assume_dead: before.assume_dead || assume_dead, ..before },
            None => Leaving { since: at.index, assume_dead },
        };
        if member.leaving == Some(leaving) {
            return Ok(Outcome::Unchanged);
        }

        if let Some(member) = state.members.get_mut(&node) {
            member.leaving = Some(leaving);
        }
        Ok(Outcome::Done)
    }
}

impl Apply for FinishRemove {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { node, uuid, term } = *self;
        let at = when.at;
        let member = state.members.get(&node).ok_or(Reject::UnknownNode(node))?;
        if member.uuid != uuid {
            return Err(Reject::IdTaken { id: node, uuid: member.uuid, admin: member.admin.clone() });
        }
        if member.leaving.is_none() {
            return Err(Reject::NotLeaving(node));
        }
        same_term(term, at)?;

        state.members.remove(&node);
        remember(state, RemovedMember { id: node, uuid, at: at.index });
        Ok(Outcome::Done)
    }

    fn term(&self) -> Option<Term> {
        Some(self.term)
    }
}

impl Apply for SetRole {
    fn apply(&self, state: &mut ClusterState, _when: When) -> Result<Outcome, Reject> {
        let Self { node, role } = *self;
        let member = state.members.get(&node).ok_or(Reject::UnknownNode(node))?;
        if member.leaving.is_some() {
            return Err(Reject::NodeLeaving(node));
        }
        if member.role == role {
            return Ok(Outcome::Unchanged);
        }
        if role == Role::Learner {
            others_can_vote(state, node)?;
        }

        if let Some(member) = state.members.get_mut(&node) {
            member.role = role;
        }
        Ok(Outcome::Done)
    }
}

impl Apply for Recover {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { keep } = *self;
        if !state.members.contains_key(&keep) {
            return Err(Reject::UnknownNode(keep));
        }

        let at = when.at.index;
        let gone = state.members.values().filter(|m| m.id != keep);
        let gone: Vec<_> = gone.map(|m| RemovedMember { id: m.id, uuid: m.uuid, at }).collect();
        state.members.retain(|id, _| *id == keep);
        gone.into_iter().for_each(|removed| remember(state, removed));
        if let Some(member) = state.members.get_mut(&keep) {
            member.role = Role::Voter;
            member.leaving = None;
        }
        state.raft_membership = RaftMembership { voters: [keep].into(), learners: BTreeSet::new() };
        Ok(Outcome::Done)
    }
}

/// Refuses nothing: the proposer would propose it again and again.
impl Apply for NoteMembership {
    fn apply(&self, state: &mut ClusterState, _when: When) -> Result<Outcome, Reject> {
        if state.raft_membership == self.membership {
            return Ok(Outcome::Unchanged);
        }

        state.raft_membership = self.membership.clone();
        Ok(Outcome::Done)
    }
}

/// Refuses an id or a host that cannot be one.
fn new_member_allowed(new: &NewMember) -> Result<(), Reject> {
    if new.id.0 == 0 {
        return Err(Reject::NodeIdZero);
    }
    // Every text that can precede a port is a host.
    if HostPort::parse(&format!("{}:1", new.advertise)).is_err() {
        return Err(Reject::BadAdvertise { node: new.id, advertise: new.advertise.clone() });
    }
    for (host, address) in [(new.admin.host(), new.admin.as_str()), (new.advertise.as_str(), new.advertise.as_str())] {
        if is_unspecified(host) {
            return Err(Reject::UnspecifiedAddress { node: new.id, address: address.to_owned() });
        }
    }
    Ok(())
}

/// The member that `new` is, if it is one. Refuses if its id or its uuid belongs to another member, or it is being
/// removed.
fn known<'a>(state: &'a ClusterState, new: &NewMember) -> Result<Option<&'a Member>, Reject> {
    if let Some(other) = state.members.values().find(|m| m.uuid == new.uuid && m.id != new.id) {
        return Err(Reject::UuidTaken { uuid: new.uuid, id: other.id });
    }
    let Some(member) = state.members.get(&new.id) else { return Ok(None) };
    if member.uuid != new.uuid {
        return Err(Reject::IdTaken { id: new.id, uuid: member.uuid, admin: member.admin.clone() });
    }
    if member.leaving.is_some() {
        return Err(Reject::NodeLeaving(new.id));
    }
    Ok(Some(member))
}

fn remember(state: &mut ClusterState, removed: RemovedMember) {
    if state.removed.len() >= REMOVED_MAX {
        state.removed.pop_front();
    }
    state.removed.push_back(removed);
}

fn same_place(member: &Member, new: &NewMember) -> bool {
    member.admin == new.admin && member.advertise == new.advertise && member.port_offset == new.port_offset
}

fn ports_free(state: &ClusterState, new: &NewMember) -> Result<(), Reject> {
    let others = state.members.values().filter(|m| m.id != new.id).map(NodePorts::from);
    check_listeners(others.chain(std::iter::once(new.into())), &products(state), servers(state))
}

/// Refuses if no member could vote without `node`.
fn others_can_vote(state: &ClusterState, node: NodeId) -> Result<(), Reject> {
    let voters: BTreeSet<NodeId> = state
        .members
        .values()
        .filter(|m| m.id != node && m.leaving.is_none() && m.role != Role::Learner)
        .map(|m| m.id)
        .collect();
    if voters.is_empty() { Err(Reject::LastVoter(node)) } else { Ok(()) }
}

fn place(state: &mut ClusterState, new: &NewMember) {
    match state.members.get_mut(&new.id) {
        Some(member) => {
            member.admin = new.admin.clone();
            member.advertise.clone_from(&new.advertise);
            member.port_offset = new.port_offset;
        }
        None => {
            state.members.insert(new.id, member(new));
        }
    }
}

fn member(new: &NewMember) -> Member {
    Member {
        id: new.id,
        uuid: new.uuid,
        admin: new.admin.clone(),
        advertise: new.advertise.clone(),
        port_offset: new.port_offset,
        role: Role::Auto,
        admitted: None,
        leaving: None,
    }
}
