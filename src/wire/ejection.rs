//! Ejections to messages and back: parts of entries and of the state.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    convert::{DecodeError, bad, slots_from, slots_to},
    pb::state as pb,
};
use crate::model::{
    ejection::Ejection,
    ids::{Epoch, GroupId, SlotId},
};

pub(super) fn shares_to(shares: &BTreeMap<GroupId, BTreeSet<SlotId>>) -> Vec<pb::Share> {
    shares.iter().map(|(group, slots)| pb::Share { group: group.0, slots: slots_to(slots) }).collect()
}

pub(super) fn shares_from(shares: Vec<pb::Share>) -> Result<BTreeMap<GroupId, BTreeSet<SlotId>>, DecodeError> {
    let mut map = BTreeMap::new();
    for share in shares {
        if map.insert(GroupId(share.group), slots_from(&share.slots)?).is_some() {
            return bad("two shares of a group", share.group);
        }
    }
    Ok(map)
}

pub(super) fn ejection_to(ejection: &Ejection) -> pb::Ejection {
    pb::Ejection { id: ejection.id.0, slots: slots_to(&ejection.slots), since_ms: ejection.since_ms }
}

pub(super) fn ejection_from(ejection: pb::Ejection) -> Result<Ejection, DecodeError> {
    Ok(Ejection { id: Epoch(ejection.id), slots: slots_from(&ejection.slots)?, since_ms: ejection.since_ms })
}
