//! Promotions, and the options of groups, to messages and back: parts of entries and of the state.

use super::{
    convert::{DecodeError, addr_from, bad, need},
    pb::state as pb,
};
use crate::model::{
    ids::{Epoch, GroupId, ProductId, PromotionId},
    promotion::{EndedPromotion, Promotion, PromotionKind, ReplicationOffset},
    state::{GroupOptions, ImpairedOptions},
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

pub(super) fn offset_to(offset: &ReplicationOffset) -> pb::ReplicationOffset {
    pb::ReplicationOffset { replid: offset.replid.clone(), offset: offset.offset }
}

pub(super) fn offset_from(offset: pb::ReplicationOffset) -> ReplicationOffset {
    ReplicationOffset { replid: offset.replid, offset: offset.offset }
}

pub(super) fn options_to(options: GroupOptions) -> pb::GroupOptions {
    let GroupOptions { down_after_ms, maintenance, eject_after_ms, impaired } = options;
    let ImpairedOptions {
        busy_failover_after_ms,
        loading_failover_after_ms,
        misconf_failover_after_ms,
        script_kill_after_ms,
    } = impaired;
    // A state of an earlier version has none, and is written as it was.
    let impaired = (impaired != ImpairedOptions::default()).then_some(pb::ImpairedOptions {
        busy_failover_after_ms,
        loading_failover_after_ms,
        misconf_failover_after_ms,
        script_kill_after_ms,
    });
    pb::GroupOptions { down_after_ms, maintenance, eject_after_ms, impaired }
}

pub(super) fn options_from(options: pb::GroupOptions) -> GroupOptions {
    let pb::GroupOptions { down_after_ms, maintenance, eject_after_ms, impaired } = options;
    let impaired = impaired.map_or_else(ImpairedOptions::default, |impaired| ImpairedOptions {
        busy_failover_after_ms: impaired.busy_failover_after_ms,
        loading_failover_after_ms: impaired.loading_failover_after_ms,
        misconf_failover_after_ms: impaired.misconf_failover_after_ms,
        script_kill_after_ms: impaired.script_kill_after_ms,
    });
    GroupOptions { down_after_ms, maintenance, eject_after_ms, impaired }
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
