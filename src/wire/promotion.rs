//! Promotions, and what groups are promoted by, to messages and back: parts of entries and of the state.
//! Knows nothing of bytes.

use super::{
    convert::{DecodeError, addr_from, bad, need},
    pb::state as pb,
};
use crate::model::{
    ids::{Epoch, GroupId, ProductId, PromotionId},
    promotion::{EndedPromotion, Promotion, PromotionKind, ReplicationOffset},
    state::GroupOptions,
};

pub(super) fn promotion_kind_to(kind: PromotionKind) -> i32 {
    match kind {
        PromotionKind::Failover => pb::PromotionKind::Failover,
        PromotionKind::Switchover => pb::PromotionKind::Switchover,
    }
    .into()
}

pub(super) fn promotion_kind_from(kind: i32) -> Result<PromotionKind, DecodeError> {
    match pb::PromotionKind::try_from(kind) {
        Ok(pb::PromotionKind::Failover) => Ok(PromotionKind::Failover),
        Ok(pb::PromotionKind::Switchover) => Ok(PromotionKind::Switchover),
        Ok(pb::PromotionKind::Unspecified) | Err(_) => bad("the kind of a promotion", kind),
    }
}

pub(super) fn offset_to(required_offset: Option<&ReplicationOffset>) -> Option<pb::ReplicationOffset> {
    required_offset.map(|r| pb::ReplicationOffset { replid: r.replid.clone(), offset: r.offset })
}

pub(super) fn offset_from(required_offset: Option<pb::ReplicationOffset>) -> Option<ReplicationOffset> {
    required_offset.map(|r| ReplicationOffset { replid: r.replid, offset: r.offset })
}

/// Absent where nothing was chosen, so that what was there before promotions is written as it always was.
pub(super) fn options_to(options: GroupOptions) -> Option<pb::GroupOptions> {
    let GroupOptions { down_after_ms, maintenance, eject_after_ms } = options;
    let usual = eject_after_ms == GroupOptions::default().eject_after_ms;
    let eject_after_ms = (!usual).then_some(eject_after_ms);
    (options != GroupOptions::default()).then_some(pb::GroupOptions { down_after_ms, maintenance, eject_after_ms })
}

pub(super) fn options_from(options: Option<pb::GroupOptions>) -> GroupOptions {
    let Some(pb::GroupOptions { down_after_ms, maintenance, eject_after_ms }) = options else {
        return GroupOptions::default();
    };
    let eject_after_ms = eject_after_ms.unwrap_or(GroupOptions::default().eject_after_ms);
    GroupOptions { down_after_ms, maintenance, eject_after_ms }
}

pub(super) fn promotion_to(p: &Promotion) -> pb::Promotion {
    pb::Promotion {
        id: p.id.0,
        product: p.product.0,
        group: p.group.0,
        from: p.from.to_string(),
        to: p.to.to_string(),
        kind: promotion_kind_to(p.kind),
        forced: p.forced,
        group_epoch: p.group_epoch.0,
        why: p.why.clone(),
        attempts: p.attempts,
        started_ms: p.started_ms,
    }
}

pub(super) fn promotion_from(p: pb::Promotion) -> Result<Promotion, DecodeError> {
    Ok(Promotion {
        id: PromotionId(p.id),
        product: ProductId(p.product),
        group: GroupId(p.group),
        from: addr_from(&p.from)?,
        to: addr_from(&p.to)?,
        kind: promotion_kind_from(p.kind)?,
        forced: p.forced,
        group_epoch: Epoch(p.group_epoch),
        why: p.why,
        attempts: p.attempts,
        started_ms: p.started_ms,
    })
}

pub(super) fn ended_to(e: &EndedPromotion) -> pb::EndedPromotion {
    pb::EndedPromotion {
        promotion: Some(promotion_to(&e.promotion)),
        at: e.at.0,
        at_ms: e.at_ms,
        failed: e.failed.clone(),
    }
}

pub(super) fn ended_from(e: pb::EndedPromotion) -> Result<EndedPromotion, DecodeError> {
    Ok(EndedPromotion {
        promotion: promotion_from(need(e.promotion, "a promotion")?)?,
        at: Epoch(e.at),
        at_ms: e.at_ms,
        failed: e.failed,
    })
}
