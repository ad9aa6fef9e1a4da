//! Promotions: a group gets another primary, under a hold.
//! Knows nothing of offsets and roles: the proposer has checked the servers, and names the term of its verdict.

use std::collections::BTreeSet;

use super::{
    Apply,
    common::{clipped, group, product, product_mut, routed, server_at, server_mut, subject},
    events::{self, When},
    guard::{no_promotion_open, same_epoch, same_term},
    migration,
};
use crate::model::{
    change::{FinishPromotion, GiveUpPromotion, StartPromotion},
    event::EventKind,
    ids::{GroupId, ProductId, PromotionId, SlotId, Term},
    limits::PROMOTIONS_ENDED_MAX,
    outcome::Outcome,
    promotion::{EndedPromotion, Promotion, PromotionKind},
    reject::{PromotionReject, Reject},
    route::HoldKind,
    scan_history::GroupChange,
    state::{Cause, ClusterState, Hold, Position, Product},
};

impl Apply for StartPromotion {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let product = product(state, self.product)?;
        let group = group(product, self.group)?;
        let place = server_at(product, group, &self.to)?;
        let to = &group.servers[place];
        if place == 0 {
            return Err(PromotionReject::IsPrimary { addr: to.addr.clone(), group: group.id }.into());
        }
        same_epoch(group, self.group_epoch)?;
        no_promotion_open(state, product.id, [group.id])?;
        if to.diverged && !self.forced {
            return Err(PromotionReject::Diverged { addr: to.addr.clone(), group: group.id }.into());
        }
        // A check before the last switch does not know the offset that a replica must have reached.
        if group.required_offset != self.required_offset {
            return Err(PromotionReject::RequiredOffsetChanged(group.id).into());
        }
        not_held(state, product, group.id)?;

        let id = PromotionId(when.at.index.0);
        let promotion = Promotion {
            id,
            product: product.id,
            group: group.id,
            from: group.servers[0].addr.clone(),
            to: to.addr.clone(),
            kind: self.kind,
            forced: self.forced,
            group_epoch: group.epoch,
            why: clipped(&self.why),
            attempts: 0,
            started_ms: when.ms,
        };
        let forced = if self.forced { ", forced" } else { "" };
        let text = format!("{}{forced} from {} to {}: {}", self.kind.name(), promotion.from, promotion.to, self.why);
        add_event(state, &promotion, when, EventKind::PromotionStarted, &text);
        state.promotions.insert(id, promotion);
        Ok(Outcome::Promotion(id))
    }
}

/// The product and the slots that a hold for this promotion takes, if it may. A group may have no slots.
pub(super) fn may_hold(
    state: &ClusterState,
    id: PromotionId,
    attempt: u32,
    kind: HoldKind,
) -> Result<(ProductId, BTreeSet<SlotId>), Reject> {
    let promotion = find(state, id)?;
    if kind != promotion.kind.hold() {
        let wanted = match promotion.kind.hold() {
            HoldKind::Wait => "Wait",
            HoldKind::Abandon => "Abandon",
        };
        return Err(PromotionReject::WrongHoldKind { kind: promotion.kind.name(), wanted }.into());
    }
    // Two holds without slots would not conflict.
    if let Some(hold) = state.promotion_hold(id) {
        return Err(PromotionReject::Held { promotion: id, hold }.into());
    }
    if attempt != promotion.attempts.saturating_add(1) {
        let attempts = promotion.attempts;
        return Err(PromotionReject::WrongAttempt { promotion: id, attempts, given: attempt }.into());
    }
    let product = product(state, promotion.product)?;
    Ok((product.id, product.owned(promotion.group)))
}

/// The hold was opened.
pub(super) fn held(state: &mut ClusterState, id: PromotionId, hold: &Hold, when: When) {
    let Some(promotion) = state.promotions.get_mut(&id) else { return };
    promotion.attempts = hold.attempt;
    let promotion = promotion.clone();
    let text = format!("hold {} (attempt {}) of {} slot(s): {}", hold.id, hold.attempt, hold.slots.len(), hold.reason);
    add_event(state, &promotion, when, EventKind::PromotionHeld, &text);
}

/// The hold was released.
pub(super) fn released(state: &mut ClusterState, id: PromotionId, hold: &Hold, why: &str, when: When) {
    let Some(promotion) = state.promotions.get(&id).cloned() else { return };
    let text = format!("hold {} after {} ms: {why}", hold.id, when.ms.saturating_sub(hold.since_ms));
    add_event(state, &promotion, when, EventKind::PromotionReleased, &text);
}

impl Apply for FinishPromotion {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { promotion: id, hold, term } = *self;
        let promotion = find(state, id)?.clone();
        let open = state.holds.get(&hold).ok_or(Reject::HoldNotOpen(hold))?;
        if open.cause != Cause::Promotion(id) {
            return Err(PromotionReject::OtherHold { hold, promotion: id }.into());
        }
        same_term(term, when.at)?;
        let product = product(state, promotion.product)?;
        let group = group(product, promotion.group)?;
        same_epoch(group, promotion.group_epoch)?;
        let place = server_at(product, group, &promotion.to)?;
        let held_ms = when.ms.saturating_sub(open.since_ms);

        let product = product_mut(state, promotion.product)?;
        if let Some(group) = product.groups.get_mut(&promotion.group) {
            let mut new = group.servers.remove(place);
            new.diverged = false;
            // The old primary may have writes that the new one never got.
            if let Some(old) = group.servers.first_mut() {
                old.diverged = true;
            }
            group.servers.insert(0, new);
            group.epoch = when.at.index;
            group.replid.clear();
            group.run_id.clear();
            group.restarted_with = None;
            // The new primary has reached it: the proposer made sure of that. Later replicas copy all its data.
            group.required_offset = None;
        }
        for slot in product.slots.iter_mut().filter(|s| s.owner == Some(promotion.group)) {
            slot.epoch = when.at.index;
        }
        product.scans.record(GroupChange::Changed(promotion.group));
        state.holds.remove(&hold);
        routed(state, when.at);
        let why = format!("group {} has another primary: {}", promotion.group, promotion.to);
        let restarted = migration::primary_changed(state, promotion.product, promotion.group, &why, when);
        let mut text = format!("{} instead of {}, held {held_ms} ms (hold {hold})", promotion.to, promotion.from);
        if !restarted.is_empty() {
            let ids: Vec<String> = restarted.iter().map(ToString::to_string).collect();
            text = format!("{text}; restarted: migration {}", ids.join(", "));
        }
        add_event(state, &promotion, when, EventKind::Promoted, &text);
        ended(state, id, None, when);
        Ok(Outcome::Done)
    }

    fn term(&self) -> Option<Term> {
        Some(self.term)
    }
}

impl Apply for GiveUpPromotion {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { promotion: id, ref why, primary_back, forced } = *self;
        let promotion = find(state, id)?.clone();
        let sent = promotion.attempts > 0;
        if promotion.kind == PromotionKind::Failover && sent && !primary_back && !forced {
            let Promotion { to, from, .. } = promotion;
            return Err(PromotionReject::MayBePromoted { promotion: id, to, from }.into());
        }

        if let Some(hold) = state.promotion_hold(id) {
            state.holds.remove(&hold);
            routed(state, when.at);
        }
        if sent && let Some(server) = server_mut(state, promotion.product, promotion.group, &promotion.to) {
            // It may have become a primary, and may have taken writes that no other server has.
            server.diverged = true;
        }
        let text = format!("{} stays the primary, {} does not replace it: {why}", promotion.from, promotion.to);
        add_event(state, &promotion, when, EventKind::PromotionGivenUp, &text);
        ended(state, id, Some(clipped(why)), when);
        Ok(Outcome::Done)
    }
}

fn find(state: &ClusterState, id: PromotionId) -> Result<&Promotion, Reject> {
    state.promotions.get(&id).ok_or_else(|| PromotionReject::Unknown(id).into())
}

/// Refuses while slots are held that leave or reach the group: the cause of the hold depends on its primary.
fn not_held(state: &ClusterState, product: &Product, id: GroupId) -> Result<(), Reject> {
    for hold in state.holds.values().filter(|h| h.product == product.id) {
        match hold.cause {
            Cause::Migration(cause) => {
                if state.migrations.get(&cause).is_some_and(|m| m.from == id || m.to == id) {
                    return Err(PromotionReject::MigrationHeld { group: id, migration: cause, hold: hold.id }.into());
                }
            }
            Cause::Assignment(cause) => {
                let comes = state.assignments.get(&cause).is_some_and(|a| a.to == Some(id));
                if comes || hold.slots.iter().any(|s| product.slots[usize::from(s.0)].owner == Some(id)) {
                    return Err(PromotionReject::AssignmentHeld { group: id, assignment: cause, hold: hold.id }.into());
                }
            }
            // Of another group: a group has at most one open promotion.
            Cause::Promotion(_) => {}
        }
    }
    Ok(())
}

fn add_event(state: &mut ClusterState, promotion: &Promotion, when: When, kind: EventKind, text: &str) {
    events::push(state, when, kind, Some(promotion.product), subject(promotion.group), text);
}

/// Moves the promotion from the open to the ended ones.
fn ended(state: &mut ClusterState, id: PromotionId, failed: Option<String>, when: When) {
    let Some(promotion) = state.promotions.remove(&id) else { return };
    if state.ended_promotions.len() >= PROMOTIONS_ENDED_MAX {
        state.ended_promotions.pop_front();
    }
    let Position { index, .. } = when.at;
    state.ended_promotions.push_back(EndedPromotion { promotion, at: index, at_ms: when.ms, failed });
}
