//! Promotions, entry by entry: what each change does, and that a change that does not fit is refused.

use pontoon::model::{
    apply::{apply, dry_run},
    change::{
        AddServer, Change, FinishPromotion, GiveUpPromotion, MarkResynced, NotePrimary, OpenHold, Release, SetCluster,
        SetGroup, SetImpaired, SetServer, StartPromotion,
    },
    check::check,
    event::EventKind,
    ids::{Epoch, GroupId, HoldId, HostPort, PromotionId, Term, Uuid},
    limits::PROMOTIONS_ENDED_MAX,
    outcome::Outcome,
    promotion::{Promotion, PromotionKind, ReplicationOffset},
    route::{HoldKind, RouteTable},
    state::{Cause, ClusterState, Entry, Group, Position, Server},
};

use super::world::{PRODUCT, TERM, World, addr, slots};

pub const FAILOVER: PromotionKind = PromotionKind::Failover;
pub const SWITCHOVER: PromotionKind = PromotionKind::Switchover;

impl World {
    pub fn group(&self, group: u32) -> &Group {
        &self.state.products[&PRODUCT].groups[&GroupId(group)]
    }

    pub fn server(&self, group: u32, n: u32) -> &Server {
        self.group(group).servers.iter().find(|s| s.addr == addr(group, n)).unwrap()
    }

    pub fn servers(&self, group: u32) -> Vec<HostPort> {
        self.group(group).servers.iter().map(|s| s.addr.clone()).collect()
    }

    /// Starts the promotion of the group's second server.
    pub fn promote(&self, group: u32, kind: PromotionKind) -> Change {
        let (now, forced) = (self.group(group), false);
        let (to, why) = (addr(group, 2), "test".to_owned());
        let (group_epoch, required_offset) = (now.epoch, now.required_offset.clone());
        Change::StartPromotion(StartPromotion {
            product: PRODUCT,
            group: now.id,
            to,
            kind,
            group_epoch,
            required_offset,
            forced,
            why,
        })
    }

    pub fn starts(&mut self, group: u32, kind: PromotionKind) -> PromotionId {
        match self.does(self.promote(group, kind)) {
            Outcome::Promotion(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn promotion(&self, id: PromotionId) -> &Promotion {
        &self.state.promotions[&id]
    }

    pub fn promotion_hold(&self, id: PromotionId) -> Change {
        let p = self.promotion(id);
        hold(id, p.attempts + 1, p.kind.hold())
    }

    pub fn holds(&mut self, id: PromotionId) -> HoldId {
        match self.does(self.promotion_hold(id)) {
            Outcome::Held(id) => id,
            other => panic!("{other:?}"),
        }
    }

    /// Makes the second server of the group its primary.
    pub fn promoted(&mut self, group: u32, kind: PromotionKind) -> PromotionId {
        let id = self.starts(group, kind);
        let hold = self.holds(id);
        self.does(finish(id, hold));
        id
    }

    pub fn last_event(&self) -> (EventKind, &str, &str) {
        let event = self.state.events.back().unwrap();
        (event.kind, &event.subject, &event.text)
    }

    /// What the last event says that has changed.
    pub fn last_change(&self) -> (&str, &str) {
        let event = self.state.events.back().unwrap();
        (&event.before, &event.after)
    }

    pub fn epoch(&self, slot: u16) -> Epoch {
        self.state.products[&PRODUCT].slots[usize::from(slot)].epoch
    }
}

pub fn hold(id: PromotionId, attempt: u32, kind: HoldKind) -> Change {
    Change::OpenHold(OpenHold { cause: Cause::Promotion(id), attempt, kind, reason: "barrier".into() })
}

pub fn finish(promotion: PromotionId, hold: HoldId) -> Change {
    Change::FinishPromotion(FinishPromotion { promotion, hold, term: TERM })
}

pub fn give_up(promotion: PromotionId, primary_back: bool, forced: bool) -> Change {
    Change::GiveUpPromotion(GiveUpPromotion { promotion, why: "test".into(), primary_back, forced })
}

pub fn required_offset(offset: u64) -> Option<ReplicationOffset> {
    Some(ReplicationOffset { replid: "ab".into(), offset })
}

#[test]
fn a_failover_from_its_start_to_its_end() {
    let mut world = World::new();
    // A third server, so that the order is visible.
    let third = Server::new(addr(1, 3), "1-3".into(), 0);
    world.does(Change::AddServer(AddServer { product: PRODUCT, group: GroupId(1), server: third }));
    let note = |group: u32, epoch, replid: &str| {
        Change::NotePrimary(NotePrimary::replication_id(PRODUCT, GroupId(group), epoch, replid.into()))
    };
    world.does(note(1, world.group(1).epoch, "ab"));
    let before = world.state.clone();
    let to = Change::StartPromotion(StartPromotion {
        product: PRODUCT,
        group: GroupId(1),
        to: addr(1, 3),
        kind: FAILOVER,
        group_epoch: world.group(1).epoch,
        required_offset: None,
        forced: false,
        why: "10.1.1.1 is down for 3.1 s to nodes 1, 2; 10.1.1.3 has the largest offset".into(),
    });
    let Outcome::Promotion(id) = world.does(to) else { panic!() };
    assert_eq!(id, PromotionId(world.state.applied.0));
    // Nothing has changed for clients yet.
    assert_eq!(RouteTable::derive(&world.state), RouteTable::derive(&before));
    assert_eq!(world.state.promotion_of(PRODUCT, GroupId(1)).unwrap().id, id);
    let p = world.promotion(id);
    assert_eq!((&p.from, &p.to, p.attempts, p.kind), (&addr(1, 1), &addr(1, 3), 0, FAILOVER));
    assert_eq!((p.started_ms, p.group_epoch), (1000 * id.0, world.group(1).epoch));
    let (kind, subject, text) = world.last_event();
    assert_eq!((kind, subject), (EventKind::PromotionStarted, "group 1"));
    assert!(text.starts_with("failover from 10.1.1.1:6379 to 10.1.1.3:6379: 10.1.1.1 is down for 3.1 s"), "{text}");

    let hold = world.holds(id);
    assert_eq!(world.state.promotion_hold(id), Some(hold));
    let open = &world.state.holds[&hold];
    assert_eq!((open.kind, open.attempt, &open.slots), (HoldKind::Abandon, 1, &slots(0, 99)));
    assert_eq!(world.promotion(id).attempts, 1);
    assert_eq!(world.last_event().2, format!("hold {hold} (attempt 1) of 100 slot(s): barrier"));

    assert_eq!(world.does(finish(id, hold)), Outcome::Done);
    let now = world.state.applied;
    assert_eq!(world.servers(1), [addr(1, 3), addr(1, 1), addr(1, 2)], "the others keep their order");
    let diverged: Vec<bool> = world.group(1).servers.iter().map(|s| s.diverged).collect();
    assert_eq!(diverged, [false, true, false], "the old primary may have what nobody else has");
    assert_eq!((world.group(1).epoch, world.state.route_epoch), (now, now));
    assert_eq!((world.epoch(0), world.epoch(99)), (now, now));
    assert_eq!(world.epoch(100), before.products[&PRODUCT].slots[100].epoch);
    assert_eq!((world.group(1).replid.as_str(), world.owner(0)), ("", GroupId(1)));
    assert!(world.state.holds.is_empty() && world.state.promotions.is_empty());
    let routes = RouteTable::derive(&world.state);
    let group = &routes.products[&PRODUCT].groups[0];
    assert_eq!((&group.primary, &group.replicas[..]), (&addr(1, 3), &[addr(1, 1), addr(1, 2)][..]));
    let ended = world.state.ended_promotions.back().unwrap();
    assert_eq!((ended.promotion.id, ended.at, &ended.failed), (id, now, &None));
    let text = format!("10.1.1.3:6379 instead of 10.1.1.1:6379, held 1000 ms (hold {hold})");
    assert_eq!(world.last_event(), (EventKind::Promoted, "group 1", text.as_str()));
}

#[test]
fn a_switchover_waits_for_requests_in_flight() {
    let mut world = World::new();
    let id = world.starts(2, SWITCHOVER);
    let sentence = "a switchover takes a hold of kind Wait";
    world.refuses(hold(id, 1, HoldKind::Abandon), sentence);
    assert_eq!(world.state.promotion_hold(id), None);
    let first = world.holds(id);
    assert_eq!(world.state.holds[&first].kind, HoldKind::Wait);
    // It exceeds its budget: released, and held again.
    world.does(Change::Release(Release { hold: first, why: "node 2 has not drained".into() }));
    let text = format!("hold {first} after 1000 ms: node 2 has not drained");
    assert_eq!(world.last_event(), (EventKind::PromotionReleased, "group 2", text.as_str()));
    assert_eq!((world.promotion(id).attempts, world.state.holds.len()), (1, 0));
    let second = world.holds(id);
    assert_eq!(world.promotion(id).attempts, 2);
    world.refuses(finish(id, first), "is not open any more");
    world.does(finish(id, second));
    world.refuses(Change::Release(Release { hold: second, why: "".into() }), "is not open any more");
    assert_eq!(world.servers(2), [addr(2, 2), addr(2, 1)]);
}

#[test]
fn a_group_without_slots_is_promoted_too() {
    let mut world = World::new();
    let id = world.starts(3, FAILOVER);
    let hold = world.holds(id);
    assert!(world.state.holds[&hold].slots.is_empty());
    assert!(RouteTable::derive(&world.state).holds.contains_key(&hold), "every node acknowledges it");
    world.does(finish(id, hold));
    assert_eq!(world.servers(3), [addr(3, 2), addr(3, 1)]);
}

#[test]
fn start_demands() {
    let mut world = World::new();
    let right = world.promote(1, FAILOVER);
    let Change::StartPromotion(StartPromotion { group_epoch, .. }) = right else { panic!() };
    let other = |group: u32, to: HostPort, group_epoch, required_offset| {
        Change::StartPromotion(StartPromotion {
            product: PRODUCT,
            group: GroupId(group),
            to,
            kind: FAILOVER,
            group_epoch,
            required_offset,
            forced: true,
            why: String::new(),
        })
    };
    // Not even if it is forced.
    world.refuses(other(9, addr(1, 2), group_epoch, None), "has no group 9");
    world.refuses(other(1, addr(2, 2), group_epoch, None), "has no server 10.1.2.2:6379");
    world.refuses(other(1, addr(1, 1), group_epoch, None), "10.1.1.1:6379 is the primary of group 1 already");
    world.refuses(other(1, addr(1, 2), Epoch(1), None), "group 1 changed since its servers were checked");
    world.refuses(other(1, addr(1, 2), group_epoch, required_offset(7)), "slots came to group 1 since its replicas");
    let first = world.starts(1, FAILOVER);
    world.refuses(right.clone(), &format!("group 1 is getting 10.1.1.2:6379 as its primary (promotion {first})"));
    // Promotions of two groups do not conflict.
    world.starts(2, SWITCHOVER);
    world.does(give_up(first, false, false));
    assert_eq!(
        world.starts(1, FAILOVER).0,
        world.state.applied.0,
        "no server was changed yet, so the replica stays a candidate"
    );
}

#[test]
fn a_server_that_may_have_been_a_primary_is_not_a_candidate_until_it_is_resynced() {
    let mut world = World::new();
    world.promoted(1, FAILOVER);
    assert!(world.server(1, 1).diverged);
    let epoch = world.group(1).epoch;
    let back = |forced| {
        Change::StartPromotion(StartPromotion {
            product: PRODUCT,
            group: GroupId(1),
            to: addr(1, 1),
            kind: FAILOVER,
            group_epoch: epoch,
            required_offset: None,
            forced,
            why: String::new(),
        })
    };
    world
        .refuses(back(false), "10.1.1.1:6379 of group 1 has diverged: it may have other keys than the group's primary");
    let resynced = |n: u32, epoch| {
        Change::MarkResynced(MarkResynced { product: PRODUCT, group: GroupId(1), addr: addr(1, n), epoch })
    };
    world.refuses(resynced(1, Epoch(2)), "group 1 changed since");
    world.refuses(resynced(2, epoch), "10.1.1.2:6379 is the primary of group 1 already");
    world.refuses(resynced(9, epoch), "has no server 10.1.1.9:6379");
    assert_eq!(world.does(resynced(1, epoch)), Outcome::Done);
    assert_eq!(world.last_event().0, EventKind::Resynced);
    assert_eq!(world.does(resynced(1, epoch)), Outcome::Unchanged);
    let Outcome::Promotion(id) = world.does(back(false)) else { panic!() };
    // An observation before the promotion says nothing of what the promotion does.
    world.refuses(resynced(1, epoch), "group 1 is getting 10.1.1.1:6379 as its primary");
    let hold = world.holds(id);
    world.does(give_up(id, true, false));
    assert!(!world.state.holds.contains_key(&hold) && world.server(1, 1).diverged);
    // The operator forces it; then its data is that of the group.
    let Outcome::Promotion(id) = world.does(back(true)) else { panic!() };
    assert!(world.promotion(id).forced && world.last_event().2.starts_with("failover, forced from"));
    let hold = world.holds(id);
    world.does(finish(id, hold));
    assert!(!world.server(1, 1).diverged && world.server(1, 2).diverged);
}

#[test]
fn a_failover_that_held_slots_is_given_up_only_with_the_old_primary_back_or_forced() {
    let mut world = World::new();
    let id = world.starts(1, FAILOVER);
    let first = world.holds(id);
    let sentence = "10.1.1.2:6379 may have become a primary; it can be given up when 10.1.1.1:6379 is back";
    world.refuses(give_up(id, false, false), sentence);
    // Nor when its hold was released: commands may have been sent under it.
    world.does(Change::Release(Release { hold: first, why: "10 s".into() }));
    world.refuses(give_up(id, false, false), sentence);
    let route = world.state.route_epoch;
    assert_eq!(world.does(give_up(id, true, false)), Outcome::Done);
    assert_eq!(world.state.route_epoch, route, "no route changed");
    assert_eq!((world.servers(1), world.server(1, 2).diverged), (vec![addr(1, 1), addr(1, 2)], true));
    let ended = world.state.ended_promotions.back().unwrap();
    assert_eq!((ended.promotion.attempts, ended.failed.as_deref()), (1, Some("test")));
    let (kind, _, text) = world.last_event();
    assert_eq!(kind, EventKind::PromotionGivenUp);
    assert!(text.starts_with("10.1.1.1:6379 stays the primary, 10.1.1.2:6379 does not replace it: test"), "{text}");
    world.refuses(give_up(id, true, true), &format!("promotion {id} has ended or never existed"));

    // Forced, with an open hold: requests go on.
    let id = world.starts(2, FAILOVER);
    world.holds(id);
    world.does(give_up(id, false, true));
    assert!(world.state.holds.is_empty() && world.server(2, 2).diverged);
    assert_eq!(world.state.route_epoch, world.state.applied);
    // A switchover can be given up at any time, and a failover before its first hold.
    let id = world.starts(4, SWITCHOVER);
    world.does(give_up(id, false, false));
    assert!(!world.server(4, 2).diverged);
    let id = world.starts(4, SWITCHOVER);
    world.holds(id);
    world.does(give_up(id, false, false));
    assert!(world.server(4, 2).diverged);
}

#[test]
fn hold_demands() {
    let mut world = World::new();
    let id = world.starts(1, FAILOVER);
    world.refuses(hold(PromotionId(99), 1, HoldKind::Abandon), "promotion 99 has ended or never existed");
    world.refuses(hold(id, 1, HoldKind::Wait), "a failover takes a hold of kind Abandon");
    world.refuses(hold(id, 2, HoldKind::Abandon), "had 0 attempt(s), so the next is not number 2");
    world.refuses(hold(id, 0, HoldKind::Abandon), "so the next is not number 0");
    let first = world.holds(id);
    world.refuses(hold(id, 2, HoldKind::Abandon), &format!("promotion {id} has an open hold already ({first})"));
    // Without slots no other check would refuse it.
    let empty = world.starts(3, FAILOVER);
    let first = world.holds(empty);
    world.refuses(hold(empty, 2, HoldKind::Abandon), &format!("promotion {empty} has an open hold already ({first})"));
}

#[test]
fn finish_demands() {
    let mut world = World::new();
    let id = world.starts(1, FAILOVER);
    world.refuses(finish(id, HoldId(99)), "hold 99 is not open any more");
    let hold = world.holds(id);
    world.refuses(finish(PromotionId(99), hold), "promotion 99 has ended or never existed");
    let other = world.starts(2, FAILOVER);
    let others = world.holds(other);
    world.refuses(finish(id, others), &format!("hold {others} is not one of promotion {id}"));
    let late = Change::FinishPromotion(FinishPromotion { promotion: id, hold, term: Term(2) });
    world.refuses(late, "decided in term 2, its entry is of term 1");
    assert!(world.act_in(finish(id, hold), Term(3)).unwrap_err().contains("the leader decides again"));
    // They race only in the log: the first wins.
    world.does(Change::Release(Release { hold, why: "10 s".into() }));
    world.refuses(finish(id, hold), "is not open any more");
    let second = world.holds(id);
    world.does(finish(id, second));
    world.refuses(finish(id, second), "has ended or never existed");
}

/// No log reaches these states; FinishPromotion checks nevertheless. (The states are made by hand.)
#[test]
fn finish_checks_its_group_again() {
    let mut world = World::new();
    let id = world.starts(1, FAILOVER);
    let hold = world.holds(id);
    let refused = |state: &ClusterState| {
        assert_ne!(check(state), []);
        let at = Position { index: Epoch(state.applied.0 + 1), term: TERM };
        let entry =
            Entry { id: Uuid(99), request_hash: 0, at_ms: 0, author: Default::default(), change: finish(id, hold) };
        apply(&mut state.clone(), &entry, at).unwrap_err().to_string()
    };
    let group = |state: &mut ClusterState, edit: &dyn Fn(&mut Group)| {
        edit(state.products.get_mut(&PRODUCT).unwrap().groups.get_mut(&GroupId(1)).unwrap());
    };
    let mut other = world.state.clone();
    group(&mut other, &|g| g.epoch = Epoch(g.epoch.0 + 1));
    assert!(refused(&other).contains("group 1 changed since its servers were checked"));
    let mut other = world.state.clone();
    group(&mut other, &|g| g.servers.truncate(1));
    assert!(refused(&other).contains("has no server 10.1.1.2:6379"));
}

#[test]
fn a_dry_run_returns_the_change_summary() {
    let mut world = World::new();
    let summary = |world: &World, change: &Change| dry_run(&world.state, change).unwrap().join("\n");
    let text = summary(&world, &world.promote(1, FAILOVER));
    assert_eq!(text, "10.1.1.2:6379 becomes the primary of group 1 instead of 10.1.1.1:6379, under a hold");
    let id = world.starts(1, FAILOVER);
    assert_eq!(dry_run(&world.state, &world.promote(1, FAILOVER)).unwrap_err(), {
        let change = world.promote(1, FAILOVER);
        let entry = Entry { id: Uuid(99), request_hash: 0, at_ms: 0, author: Default::default(), change };
        let at = Position { index: Epoch(world.state.applied.0 + 1), term: TERM };
        apply(&mut world.state.clone(), &entry, at).unwrap_err()
    });
    assert!(summary(&world, &world.promotion_hold(id)).contains(&format!("promotion {id}: attempt 1 begins")));
    let hold = world.holds(id);
    let text = summary(&world, &finish(id, hold));
    assert!(text.contains(&format!("promotion {id}: 10.1.1.2:6379 is the primary of group 1")), "{text}");
    assert!(text.contains("server 10.1.1.1:6379 is not a candidate until it is resynced"), "{text}");
    let text = summary(&world, &give_up(id, true, false));
    assert!(text.contains("10.1.1.1:6379 stays the primary of group 1"), "{text}");
    let text = summary(
        &world,
        &Change::SetServer(SetServer {
            product: PRODUCT,
            group: GroupId(1),
            addr: addr(1, 2),
            priority: Some(5),
            zone: Some("b".into()),
        }),
    );
    assert_eq!(text, "server 10.1.1.2:6379: priority 5 instead of 100\nserver 10.1.1.2:6379: zone 'b' instead of ''");
    let set = Change::SetGroup(SetGroup {
        product: PRODUCT,
        group: GroupId(1),
        down_after_ms: Some(5000),
        maintenance: Some(true),
        eject_after_ms: None,
        impaired: SetImpaired::default(),
    });
    assert!(summary(&world, &set).contains("group 1: down-after 5000 ms instead of 3000 ms"));
    let set = Change::SetCluster(SetCluster {
        voters: None,
        hold_ms_max: None,
        maintenance: Some(true),
        failover_share_max: Some(20),
    });
    assert!(
        summary(&world, &set)
            .contains("automatic failovers while at most 20 % of the primaries are down, instead of 50 %")
    );
}

#[test]
fn ended_promotions_are_bounded() {
    let mut world = World::new();
    for _ in 0..PROMOTIONS_ENDED_MAX + 5 {
        let id = world.starts(3, SWITCHOVER);
        world.does(give_up(id, false, false));
    }
    let ended = &world.state.ended_promotions;
    assert_eq!(ended.len(), PROMOTIONS_ENDED_MAX);
    assert_eq!(ended.back().unwrap().at, world.state.applied);
    // A text that is too long is cut.
    let long = Change::StartPromotion(StartPromotion {
        product: PRODUCT,
        group: GroupId(3),
        to: addr(3, 2),
        kind: SWITCHOVER,
        group_epoch: world.group(3).epoch,
        required_offset: None,
        forced: false,
        why: "w".repeat(10_000),
    });
    let Outcome::Promotion(id) = world.does(long) else { panic!() };
    assert_eq!(world.promotion(id).why.len(), 512);
}
