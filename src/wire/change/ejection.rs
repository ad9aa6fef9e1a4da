//! Changes of ejections to messages and back.

use super::Encode;
use crate::model::{
    change::{Eject, Reinstate},
    ids::{Epoch, GroupId, ProductId},
};
use crate::wire::{
    convert::DecodeError,
    ejection::{shares_from, shares_to},
    pb::state as pb,
};

impl Encode for Eject {
    type Message = pb::Eject;

    fn to_message(&self) -> pb::Eject {
        pb::Eject {
            product: self.product.0,
            group: self.group.0,
            group_epoch: self.group_epoch.0,
            to: shares_to(&self.to),
            why: self.why.clone(),
        }
    }

    fn from_message(message: pb::Eject) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            group_epoch: Epoch(message.group_epoch),
            to: shares_from(message.to)?,
            why: message.why,
        })
    }
}

impl Encode for Reinstate {
    type Message = pb::Reinstate;

    fn to_message(&self) -> pb::Reinstate {
        pb::Reinstate {
            product: self.product.0,
            group: self.group.0,
            ejection: self.ejection.0,
            group_epoch: self.group_epoch.0,
        }
    }

    fn from_message(message: pb::Reinstate) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            ejection: Epoch(message.ejection),
            group_epoch: Epoch(message.group_epoch),
        })
    }
}
