//! Assignments and holds to messages and back.

use super::Encode;
use crate::model::{
    change::{AssignFree, FinishAssign, GiveUpAssign, OpenHold, Release, StartAssign},
    ids::{AssignmentId, GroupId, HoldId, ProductId, Term},
};
use crate::wire::{
    convert::{DecodeError, cause_from, cause_to, kind_from, kind_to, slots_from, slots_to},
    migration::{epochs_from, epochs_to},
    pb::state as pb,
};

impl Encode for AssignFree {
    type Message = pb::AssignFree;

    fn to_message(&self) -> pb::AssignFree {
        pb::AssignFree { product: self.product.0, slots: slots_to(&self.slots), to: self.to.0 }
    }

    fn from_message(message: pb::AssignFree) -> Result<Self, DecodeError> {
        Ok(Self { product: ProductId(message.product), slots: slots_from(&message.slots)?, to: GroupId(message.to) })
    }
}

impl Encode for StartAssign {
    type Message = pb::StartAssign;

    fn to_message(&self) -> pb::StartAssign {
        pb::StartAssign {
            product: self.product.0,
            slots: slots_to(&self.slots),
            to: self.to.map(|to| to.0),
            abandon: self.abandon,
        }
    }

    fn from_message(message: pb::StartAssign) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            slots: slots_from(&message.slots)?,
            to: message.to.map(GroupId),
            abandon: message.abandon,
        })
    }
}

impl Encode for FinishAssign {
    type Message = pb::FinishAssign;

    fn to_message(&self) -> pb::FinishAssign {
        pb::FinishAssign {
            assignment: self.assignment.0,
            hold: self.hold.0,
            term: self.term.0,
            group_epochs: epochs_to(&self.group_epochs),
        }
    }

    fn from_message(message: pb::FinishAssign) -> Result<Self, DecodeError> {
        Ok(Self {
            assignment: AssignmentId(message.assignment),
            hold: HoldId(message.hold),
            term: Term(message.term),
            group_epochs: epochs_from(&message.group_epochs),
        })
    }
}

impl Encode for GiveUpAssign {
    type Message = pb::GiveUpAssign;

    fn to_message(&self) -> pb::GiveUpAssign {
        pb::GiveUpAssign { assignment: self.assignment.0, why: self.why.clone() }
    }

    fn from_message(message: pb::GiveUpAssign) -> Result<Self, DecodeError> {
        Ok(Self { assignment: AssignmentId(message.assignment), why: message.why })
    }
}

impl Encode for OpenHold {
    type Message = pb::OpenHold;

    fn to_message(&self) -> pb::OpenHold {
        pb::OpenHold {
            cause: cause_to(self.cause),
            attempt: self.attempt,
            kind: kind_to(self.kind),
            reason: self.reason.clone(),
        }
    }

    fn from_message(message: pb::OpenHold) -> Result<Self, DecodeError> {
        Ok(Self {
            cause: cause_from(message.cause)?,
            attempt: message.attempt,
            kind: kind_from(message.kind)?,
            reason: message.reason,
        })
    }
}

impl Encode for Release {
    type Message = pb::Release;

    fn to_message(&self) -> pb::Release {
        pb::Release { hold: self.hold.0, why: self.why.clone() }
    }

    fn from_message(message: pb::Release) -> Result<Self, DecodeError> {
        Ok(Self { hold: HoldId(message.hold), why: message.why })
    }
}
