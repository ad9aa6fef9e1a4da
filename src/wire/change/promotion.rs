//! Changes of promotions, and what the leader notes about servers and nodes, to messages and back.

use super::Encode;
use crate::model::{
    change::{
        FinishPromotion, GiveUpPromotion, GroupNote, MarkResynced, NodeNote, NoteGroup, NoteNode, NotePrimary,
        NoteReconciled, StartPromotion,
    },
    ids::{Epoch, GroupId, HoldId, NodeId, ProductId, PromotionId, Term},
};
use crate::wire::{
    convert::{DecodeError, addr_from, bad},
    pb::state as pb,
    promotion::{offset_from, offset_to, promotion_kind_from, promotion_kind_to},
};

impl Encode for StartPromotion {
    type Message = pb::StartPromotion;

    fn to_message(&self) -> pb::StartPromotion {
        pb::StartPromotion {
            product: self.product.0,
            group: self.group.0,
            to: self.to.to_string(),
            kind: promotion_kind_to(self.kind),
            group_epoch: self.group_epoch.0,
            required_offset: self.required_offset.as_ref().map(offset_to),
            forced: self.forced,
            why: self.why.clone(),
        }
    }

    fn from_message(message: pb::StartPromotion) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            to: addr_from(&message.to)?,
            kind: promotion_kind_from(message.kind)?,
            group_epoch: Epoch(message.group_epoch),
            required_offset: message.required_offset.map(offset_from),
            forced: message.forced,
            why: message.why,
        })
    }
}

impl Encode for FinishPromotion {
    type Message = pb::FinishPromotion;

    fn to_message(&self) -> pb::FinishPromotion {
        pb::FinishPromotion { promotion: self.promotion.0, hold: self.hold.0, term: self.term.0 }
    }

    fn from_message(message: pb::FinishPromotion) -> Result<Self, DecodeError> {
        Ok(Self { promotion: PromotionId(message.promotion), hold: HoldId(message.hold), term: Term(message.term) })
    }
}

impl Encode for GiveUpPromotion {
    type Message = pb::GiveUpPromotion;

    fn to_message(&self) -> pb::GiveUpPromotion {
        pb::GiveUpPromotion {
            promotion: self.promotion.0,
            why: self.why.clone(),
            primary_back: self.primary_back,
            forced: self.forced,
        }
    }

    fn from_message(message: pb::GiveUpPromotion) -> Result<Self, DecodeError> {
        Ok(Self {
            promotion: PromotionId(message.promotion),
            why: message.why,
            primary_back: message.primary_back,
            forced: message.forced,
        })
    }
}

impl Encode for NotePrimary {
    type Message = pb::NotePrimary;

    fn to_message(&self) -> pb::NotePrimary {
        pb::NotePrimary {
            product: self.product.0,
            group: self.group.0,
            epoch: self.epoch.0,
            replid: self.replid.clone(),
            run_id: self.run_id.clone(),
            keys: self.keys,
            keys_before: self.keys_before,
        }
    }

    fn from_message(message: pb::NotePrimary) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            epoch: Epoch(message.epoch),
            replid: message.replid,
            run_id: message.run_id,
            keys: message.keys,
            keys_before: message.keys_before,
        })
    }
}

impl Encode for NoteReconciled {
    type Message = pb::NoteReconciled;

    fn to_message(&self) -> pb::NoteReconciled {
        pb::NoteReconciled {
            product: self.product.0,
            group: self.group.0,
            addr: self.addr.to_string(),
            text: self.text.clone(),
        }
    }

    fn from_message(message: pb::NoteReconciled) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            addr: addr_from(&message.addr)?,
            text: message.text,
        })
    }
}

impl Encode for NoteGroup {
    type Message = pb::NoteGroup;

    fn to_message(&self) -> pb::NoteGroup {
        let note = match self.note {
            GroupNote::FailoverHeldBack => pb::GroupNote::FailoverHeldBack,
            GroupNote::ScriptEnded => pb::GroupNote::ScriptEnded,
            GroupNote::WritesRefused => pb::GroupNote::WritesRefused,
            GroupNote::NotFailedOver => pb::GroupNote::NotFailedOver,
        };
        pb::NoteGroup { product: self.product.0, group: self.group.0, note: note.into(), text: self.text.clone() }
    }

    fn from_message(message: pb::NoteGroup) -> Result<Self, DecodeError> {
        let note = match pb::GroupNote::try_from(message.note) {
            Ok(pb::GroupNote::FailoverHeldBack) => GroupNote::FailoverHeldBack,
            Ok(pb::GroupNote::ScriptEnded) => GroupNote::ScriptEnded,
            Ok(pb::GroupNote::WritesRefused) => GroupNote::WritesRefused,
            Ok(pb::GroupNote::NotFailedOver) => GroupNote::NotFailedOver,
            Ok(pb::GroupNote::Unspecified) | Err(_) => return bad("what a note is about", message.note),
        };
        let (product, group) = (ProductId(message.product), GroupId(message.group));
        Ok(Self { product, group, note, text: message.text })
    }
}

impl Encode for NoteNode {
    type Message = pb::NoteNode;

    fn to_message(&self) -> pb::NoteNode {
        let note = match self.note {
            NodeNote::ClientsClosed => pb::NodeNote::ClientsClosed,
            NodeNote::LogSet => pb::NodeNote::LogSet,
            NodeNote::SecretsSet => pb::NodeNote::SecretsSet,
            NodeNote::ClientsKilled => pb::NodeNote::ClientsKilled,
            NodeNote::ServersAsked => pb::NodeNote::ServersAsked,
        };
        let (text, before, after) = (self.text.clone(), self.before.clone(), self.after.clone());
        pb::NoteNode { node: self.node.0, note: note.into(), text, before, after }
    }

    fn from_message(message: pb::NoteNode) -> Result<Self, DecodeError> {
        let note = match pb::NodeNote::try_from(message.note) {
            Ok(pb::NodeNote::ClientsClosed) => NodeNote::ClientsClosed,
            Ok(pb::NodeNote::LogSet) => NodeNote::LogSet,
            Ok(pb::NodeNote::SecretsSet) => NodeNote::SecretsSet,
            Ok(pb::NodeNote::ClientsKilled) => NodeNote::ClientsKilled,
            Ok(pb::NodeNote::ServersAsked) => NodeNote::ServersAsked,
            Ok(pb::NodeNote::Unspecified) | Err(_) => return bad("what a note is about", message.note),
        };
        let pb::NoteNode { node, text, before, after, .. } = message;
        Ok(Self { node: NodeId(node), note, text, before, after })
    }
}

impl Encode for MarkResynced {
    type Message = pb::MarkResynced;

    fn to_message(&self) -> pb::MarkResynced {
        pb::MarkResynced {
            product: self.product.0,
            group: self.group.0,
            addr: self.addr.to_string(),
            epoch: self.epoch.0,
        }
    }

    fn from_message(message: pb::MarkResynced) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            addr: addr_from(&message.addr)?,
            epoch: Epoch(message.epoch),
        })
    }
}
