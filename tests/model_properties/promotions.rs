//! Random changes of promotions, groups and servers that have a chance of being accepted in the state they meet.

use std::collections::BTreeSet;

use pontoon::model::{
    change::{
        Change, FinishPromotion, ForgetFormer, GiveUpPromotion, GroupNote, MarkResynced, NodeNote, NoteGroup, NoteNode,
        NotePrimary, NoteReconciled, OpenHold, Release, SetControlUser, SetDataUser, SetGroup, SetImpaired, SetServer,
        StartPromotion,
    },
    data_user::DataUser,
    ids::{Epoch, GroupId, HostPort, NodeId, ProductId, PromotionId, Term},
    promotion::{Promotion, PromotionKind, ReplicationOffset},
    route::HoldKind,
    secret::{Credentials, Secret},
    state::{Cause, ClusterState, Group, Position, Product},
};

use super::{ejections, pick};

/// Number of kinds that `resolve` knows.
pub const KINDS: u8 = 28;
/// From here on: ejections.
pub const EJECTIONS: u8 = 24;

/// What notes about groups say.
const GROUP_NOTES: [GroupNote; 4] =
    [GroupNote::FailoverHeldBack, GroupNote::ScriptEnded, GroupNote::WritesRefused, GroupNote::NotFailedOver];

/// The numbers decide: mostly the next step of an open promotion, sometimes a wrong change.
pub fn resolve(kind: u8, numbers: [u16; 6], state: &ClusterState, at: Position) -> Change {
    let [a, b, c, d, e, f] = numbers;
    let term = if f % 16 == 0 { Term(at.term.0 + 1) } else { at.term };
    let all = || state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let Some(place) = pick(all(), b) else {
        return ejections::set(ProductId(1), GroupId(1), None);
    };
    let (product, group) = (place.0.id, place.1.id);
    let epoch = Epoch(place.1.epoch.0 - u64::from(c % 12 == 0));
    // Sometimes what ends the rotation of a password that has begun.
    let replaced = all().filter_map(|(p, g)| Some((p.id, g.id, g.former.as_ref()?.at)));
    if let Some((product, group, replaced_at)) = pick(replaced, d).filter(|_| kind % KINDS < 6 && e % 3 == 1) {
        return Change::ForgetFormer(ForgetFormer { product, group, replaced_at });
    }
    match kind % KINDS {
        0 => Change::SetGroup(SetGroup {
            product,
            group,
            down_after_ms: (c % 2 == 0).then_some(u32::from(d) * 3),
            maintenance: (d % 2 == 0).then_some(!place.1.options.maintenance),
            eject_after_ms: (e % 4 == 0).then_some(u32::from(f)),
            impaired: SetImpaired {
                busy_failover_after_ms: (f % 3 == 0).then_some(u32::from(d) * 7),
                script_kill_after_ms: (f % 5 == 0).then_some(u32::from(c) * 900),
                ..SetImpaired::default()
            },
        }),
        1 => Change::SetServer(SetServer {
            product,
            group,
            addr: some_server(place.1, c),
            priority: (d % 2 == 0).then_some(u32::from(e % 3) * 100),
            zone: (e % 2 == 0)
                .then(|| ["", "a", "eu-1", "no zone"][usize::from(f % 4)].repeat(1 + usize::from(d % 20))),
        }),
        2 if e % 3 == 0 => Change::NoteReconciled(NoteReconciled {
            product,
            group,
            addr: some_server(place.1, c),
            text: "w".repeat(usize::from(d % 700)),
        }),
        2 if e % 3 == 1 && f % 4 == 0 => Change::NoteNode(NoteNode {
            node: NodeId(u64::from(c % 5)),
            note: NodeNote::ClientsClosed,
            text: "c".repeat(usize::from(d % 700)),
            before: String::new(),
            after: String::new(),
        }),
        2 if e % 3 == 1 && f % 4 == 1 => Change::SetDataUser(SetDataUser {
            product,
            group,
            data_user: DataUser {
                credentials: Credentials {
                    username: Some(["app", "data"][usize::from(c % 2)].to_owned()),
                    password: Secret::new(format!("secret{}", d % 3)),
                },
                managed: c % 7 == 0,
            },
        }),
        2 if e % 3 == 1 => Change::NoteGroup(NoteGroup {
            product,
            group,
            note: GROUP_NOTES[usize::from(c % 4)],
            text: "n".repeat(usize::from(d % 700)),
        }),
        2 => Change::NotePrimary(NotePrimary {
            product,
            group,
            epoch,
            replid: ["ab", "cd", "ef", ""][usize::from(d % 4)].repeat(20),
            run_id: ["", "12", "34", "56"][usize::from(e % 4)].repeat(20),
            keys: u64::from(f % 3),
            keys_before: (f % 2 == 0).then_some(u64::from(f % 5)),
        }),
        3 if e % 3 == 0 => Change::SetControlUser(SetControlUser {
            product,
            group,
            credentials: Credentials { username: None, password: Secret::new(format!("secret{}", d % 3)) },
        }),
        3 => {
            let replid = ["ab", "cd", "ef", ""][usize::from(d % 4)].repeat(20);
            NotePrimary::replication_id(product, group, epoch, replid).into()
        }
        4 | 5 => {
            // Mostly of a server that has diverged.
            let diverged =
                all().flat_map(|(p, g)| g.servers.iter().map(move |s| (p, g, s))).filter(|(_, _, s)| s.diverged);
            match pick(diverged, c).filter(|_| d % 8 != 0) {
                Some((product, group, server)) => Change::MarkResynced(MarkResynced {
                    product: product.id,
                    group: group.id,
                    addr: server.addr.clone(),
                    epoch: group.epoch,
                }),
                None => Change::MarkResynced(MarkResynced { product, group, addr: some_server(place.1, c), epoch }),
            }
        }
        6..=9 => start(place, numbers),
        EJECTIONS.. => ejections::resolve(numbers, state, term),
        n => match pick(state.promotions.values(), a) {
            Some(promotion) => next(n, promotion, numbers, state, term),
            None => start(place, numbers),
        },
    }
}

fn start((product, group): (&Product, &Group), [_, b, c, d, e, f]: [u16; 6]) -> Change {
    Change::StartPromotion(StartPromotion {
        product: product.id,
        group: group.id,
        to: match group.servers.last() {
            Some(last) if d % 8 != 0 => last.addr.clone(),
            Some(_) | None => some_server(group, c),
        },
        kind: if b % 2 == 0 { PromotionKind::Failover } else { PromotionKind::Switchover },
        group_epoch: Epoch(group.epoch.0 + u64::from(e % 12 == 0)),
        required_offset: if f % 12 == 0 {
            Some(ReplicationOffset { replid: "ab".into(), offset: 1 })
        } else {
            group.required_offset.clone()
        },
        forced: e % 4 == 0,
        why: "w".repeat(usize::from(b % 700)),
    })
}

/// The next change of a leader, sometimes with one wrong value.
fn next(kind: u8, p: &Promotion, [_, b, c, d, e, _]: [u16; 6], state: &ClusterState, term: Term) -> Change {
    let id = if e % 16 == 0 { PromotionId(p.id.0 + 1) } else { p.id };
    let why = "w".repeat(usize::from(b % 700));
    let give_up = |why| {
        Change::GiveUpPromotion(GiveUpPromotion { promotion: id, why, primary_back: c % 2 == 0, forced: d % 8 == 0 })
    };
    match state.promotion_hold(p.id) {
        _ if kind == 10 => give_up(why),
        Some(hold) if kind < 14 => Change::Release(Release { hold, why }),
        Some(_) if kind == 14 => hold(p, id, 1, p.kind.hold()),
        Some(hold) => {
            let other = state.holds.keys().next().copied().filter(|_| d % 12 == 0).unwrap_or(hold);
            Change::FinishPromotion(FinishPromotion { promotion: id, hold: other, term })
        }
        None => {
            let wrong = if p.kind == PromotionKind::Failover { HoldKind::Wait } else { HoldKind::Abandon };
            let kind = if d % 12 == 0 { wrong } else { p.kind.hold() };
            hold(p, id, 1 + u32::from(c % 12 == 0), kind)
        }
    }
}

fn hold(p: &Promotion, id: PromotionId, more: u32, kind: HoldKind) -> Change {
    Change::OpenHold(OpenHold {
        cause: Cause::Promotion(id),
        attempt: p.attempts + more,
        kind,
        reason: "test".to_owned(),
    })
}

fn some_server(group: &Group, n: u16) -> HostPort {
    pick(group.servers.iter(), n).map_or_else(|| HostPort::parse("127.0.0.1:1").unwrap(), |s| s.addr.clone())
}

/// What a state contains of promotions: a set of random logs must reach all of it.
pub fn shown(state: &ClusterState) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for ended in &state.ended_promotions {
        let how = if ended.failed.is_none() { "finished" } else { "given up" };
        seen.insert(format!("{} {how}", ended.promotion.kind.name()));
        if ended.promotion.attempts > 1 {
            seen.insert("second hold".to_owned());
        }
        if ended.failed.is_none()
            && state.events.iter().any(|e| e.index == ended.at && e.text.contains("; restarted: migration"))
        {
            seen.insert("restarted a migration".to_owned());
        }
    }
    for group in state.products.values().flat_map(|p| p.groups.values()) {
        if group.servers.iter().any(|s| s.diverged) {
            seen.insert("diverged".to_owned());
        }
        if group.required_offset.is_some() {
            seen.insert("required_offset".to_owned());
        }
        if !group.replid.is_empty() {
            seen.insert("noted".to_owned());
        }
    }
    let empty = |h: &pontoon::model::state::Hold| matches!(h.cause, Cause::Promotion(_)) && h.slots.is_empty();
    if state.holds.values().any(empty) {
        seen.insert("hold of no slots".to_owned());
    }
    seen
}
