//! Changes of members to messages and back.

use super::Encode;
use crate::model::{
    change::{Admit, BeginRemove, Bootstrap, FinishRemove, NewMember, NoteMembership, Recover, SetRole},
    ids::{NodeId, Term},
};
use crate::wire::{
    convert::{
        DecodeError, id_from, id_to, member_from, member_to, need, raft_membership_from, raft_membership_to, role_from,
        role_to, u16_from,
    },
    pb::state as pb,
};

impl Encode for Bootstrap {
    type Message = pb::Bootstrap;

    fn to_message(&self) -> pb::Bootstrap {
        pb::Bootstrap { members: self.members.iter().map(member_to).collect(), port: u32::from(self.port) }
    }

    fn from_message(message: pb::Bootstrap) -> Result<Self, DecodeError> {
        Ok(Self {
            members: message.members.into_iter().map(member_from).collect::<Result<_, _>>()?,
            port: u16_from(message.port, "a port")?,
        })
    }
}

impl Encode for NewMember {
    type Message = pb::NewMember;

    fn to_message(&self) -> pb::NewMember {
        member_to(self)
    }

    fn from_message(message: pb::NewMember) -> Result<Self, DecodeError> {
        member_from(message)
    }
}

impl Encode for Admit {
    type Message = pb::Admit;

    fn to_message(&self) -> pb::Admit {
        pb::Admit { member: Some(member_to(&self.member)), start: id_to(self.start) }
    }

    fn from_message(message: pb::Admit) -> Result<Self, DecodeError> {
        Ok(Self {
            member: member_from(need(message.member, "the node of an admission")?)?,
            start: id_from(message.start, "the start of an admission")?,
        })
    }
}

impl Encode for BeginRemove {
    type Message = pb::BeginRemove;

    fn to_message(&self) -> pb::BeginRemove {
        pb::BeginRemove { node: self.node.0, assume_dead: self.assume_dead }
    }

    fn from_message(message: pb::BeginRemove) -> Result<Self, DecodeError> {
        Ok(Self { node: NodeId(message.node), assume_dead: message.assume_dead })
    }
}

impl Encode for FinishRemove {
    type Message = pb::FinishRemove;

    fn to_message(&self) -> pb::FinishRemove {
        pb::FinishRemove { node: self.node.0, uuid: id_to(self.uuid), term: self.term.0 }
    }

    fn from_message(message: pb::FinishRemove) -> Result<Self, DecodeError> {
        Ok(Self { node: NodeId(message.node), uuid: id_from(message.uuid, "a node's uuid")?, term: Term(message.term) })
    }
}

impl Encode for SetRole {
    type Message = pb::SetRole;

    fn to_message(&self) -> pb::SetRole {
        pb::SetRole { node: self.node.0, role: role_to(self.role) }
    }

    fn from_message(message: pb::SetRole) -> Result<Self, DecodeError> {
        Ok(Self { node: NodeId(message.node), role: role_from(message.role)? })
    }
}

impl Encode for Recover {
    type Message = pb::Recover;

    fn to_message(&self) -> pb::Recover {
        pb::Recover { keep: self.keep.0 }
    }

    fn from_message(message: pb::Recover) -> Result<Self, DecodeError> {
        Ok(Self { keep: NodeId(message.keep) })
    }
}

impl Encode for NoteMembership {
    type Message = pb::NoteMembership;

    fn to_message(&self) -> pb::NoteMembership {
        pb::NoteMembership { membership: Some(raft_membership_to(&self.membership)) }
    }

    fn from_message(message: pb::NoteMembership) -> Result<Self, DecodeError> {
        Ok(Self { membership: raft_membership_from(need(message.membership, "Raft's membership")?) })
    }
}
