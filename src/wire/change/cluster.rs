//! Changes of cluster settings to messages and back.

use super::Encode;
use crate::model::change::SetCluster;
use crate::wire::{
    convert::{DecodeError, u8_from},
    pb::state as pb,
};

impl Encode for SetCluster {
    type Message = pb::SetCluster;

    fn to_message(&self) -> pb::SetCluster {
        pb::SetCluster {
            voters: self.voters.map(u32::from),
            hold_ms_max: self.hold_ms_max,
            maintenance: self.maintenance,
            failover_share_max: self.failover_share_max.map(u32::from),
        }
    }

    fn from_message(message: pb::SetCluster) -> Result<Self, DecodeError> {
        Ok(Self {
            voters: message.voters.map(|n| u8_from(n, "the number of voters")).transpose()?,
            hold_ms_max: message.hold_ms_max,
            maintenance: message.maintenance,
            failover_share_max: message.failover_share_max.map(|n| u8_from(n, "a share of primaries")).transpose()?,
        })
    }
}
