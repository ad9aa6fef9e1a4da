//! `plan::promotion` by cases: from the choice of a candidate to the new primary, and every way in which that fails.
#![allow(clippy::unwrap_used)]

mod waits;
mod world;

use pontoon::{
    model::{
        change::{Change, GiveUpPromotion, Release},
        promotion::PromotionKind::{Failover, Switchover},
    },
    plan::promotion::{PromoteResult, PromotionStep, ServerStatus},
};
use world::{MS, NEW, OLD, OTHER, SECOND, World, addr, primary, promoted, replica};

/// A failover whose slots are held behind the barrier.
fn failover_held() -> World {
    let mut world = World::new(Failover);
    world.answers(&[(NEW, Some(replica(NEW)))]);
    world.preflighted();
    assert!(matches!(world.proposes(), Change::OpenHold(_)));
    assert_eq!(world.waits().0, "node 2 has not acked");
    world.pass_barrier();
    world
}

/// A switchover that is about to send REPLICAOF NO ONE.
fn switchover_caught_up() -> World {
    let mut world = World::new(Switchover);
    world.answers(&[(OLD, Some(primary())), (NEW, Some(replica(NEW)))]);
    world.preflighted();
    assert!(matches!(world.proposes(), Change::OpenHold(_)));
    world.pass_barrier();
    world.answers(&[(OLD, Some(ServerStatus { offset: 1_100, ..primary() }))]);
    world.answers(&[(NEW, Some(replica(NEW)))]);
    let (why, left_ns) = world.waits();
    assert!(why.contains("is at offset 1000 of 1100") && left_ns == MS, "{why} {left_ns}");
    world.now_ns += MS;
    world.answers(&[(NEW, Some(ServerStatus { offset: 1_100, ..replica(NEW) }))]);
    world
}

#[track_caller]
fn finishes(world: &mut World) {
    assert!(matches!(world.proposes(), Change::FinishPromotion(_)));
    assert_eq!(world.group().servers[0].addr, addr(NEW));
    let PromotionStep::Repoint { primary, epoch, .. } = world.decide() else { panic!("{:?}", world.decide()) };
    assert_eq!((primary, epoch), (addr(NEW), world.group().epoch));
    world.memory.repointed();
    assert_eq!(world.decide(), PromotionStep::Over);
}

#[track_caller]
fn gives_up(world: &mut World) -> GiveUpPromotion {
    let Change::GiveUpPromotion(given_up) = world.proposes() else { panic!("the promotion goes on") };
    given_up
}

#[track_caller]
fn releases(world: &mut World) -> String {
    let Change::Release(Release { why, .. }) = world.proposes() else { panic!("no release") };
    why
}

#[test]
fn a_failover_saves_the_role_before_it_finishes() {
    let mut world = failover_held();
    world.answers(&[(NEW, Some(replica(NEW)))]);
    assert_eq!(world.may_promote(&replica(NEW)), Ok(()));
    world.promoted(PromoteResult::Promoted);
    assert_eq!(world.group().servers[0].addr, addr(OLD), "the log names it only when it has saved its role");
    world.saved(true);
    finishes(&mut world);
}

/// A slow disk must not prevent the failover, but the candidate may have died.
#[test]
fn a_save_that_is_not_answered_is_not_repeated_and_the_candidate_is_asked_again() {
    let mut world = failover_held();
    world.answers(&[(NEW, Some(replica(NEW)))]);
    world.promoted(PromoteResult::Promoted);
    world.saved(false);
    world.answers(&[(NEW, None)]);
    assert!(world.waits().0.contains("does not answer"));
    world.now_ns += 100 * MS;
    world.answers(&[(NEW, Some(promoted()))]);
    assert_eq!(world.may_promote(&promoted()), Ok(()));
    world.promoted(PromoteResult::Promoted);
    finishes(&mut world);

    // It has died and is another process: it never served, so another candidate can be chosen.
    let mut died = failover_held();
    died.answers(&[(NEW, Some(replica(NEW)))]);
    died.promoted(PromoteResult::Promoted);
    died.saved(false);
    died.answers(&[(NEW, Some(ServerStatus { run_id: "again".into(), ..replica(NEW) }))]);
    let given_up = gives_up(&mut died);
    assert!(given_up.forced && given_up.why.contains("was restarted before it was promoted"), "{given_up:?}");
}

#[test]
fn a_failover_ends_when_the_old_primary_is_back() {
    let mut world = World::new(Failover);
    world.report(OLD, &primary());
    world.answers(&[(NEW, Some(replica(NEW)))]);
    assert!(gives_up(&mut world).primary_back);

    // The candidate was promoted under the only hold, which is still open: the old primary has acknowledged nothing.
    let mut promoted_before = failover_held();
    promoted_before.report(OLD, &primary());
    promoted_before.answers(&[(NEW, Some(promoted()))]);
    assert!(matches!(promoted_before.decide(), PromotionStep::Promote { .. }));

    // Between two holds it may have.
    let mut second = failover_held();
    second.now_ns += 11 * SECOND;
    second.answers(&[(NEW, None)]);
    releases(&mut second);
    second.now_ns += SECOND;
    second.answers(&[(NEW, Some(replica(NEW)))]);
    second.preflighted();
    second.proposes();
    second.pass_barrier();
    second.answers(&[(OLD, Some(primary()))]);
    let given_up = gives_up(&mut second);
    assert!(given_up.primary_back && given_up.why.contains("between two holds"), "{given_up:?}");
}

/// Only a leader that opened every hold knows that nothing was sent.
#[test]
fn a_candidate_that_goes_down_is_given_up_only_if_nothing_was_sent() {
    let mut world = failover_held();
    world.report_down(NEW);
    world.answers(&[(NEW, None)]);
    assert!(gives_up(&mut world).forced);

    let mut other_leader = failover_held();
    other_leader.elect();
    assert!(matches!(other_leader.decide(), PromotionStep::Wait { .. }), "the barrier of the hold that was left");
    other_leader.pass_barrier();
    other_leader.report_down(NEW);
    other_leader.answers(&[(NEW, None)]);
    assert!(other_leader.waits().0.contains("does not answer"));

    // One that was answered by a replica knows that the leader before has promoted nothing.
    let mut answered = failover_held();
    answered.elect();
    answered.decide();
    answered.pass_barrier();
    answered.answers(&[(NEW, Some(replica(NEW)))]);
    answered.promoted(PromoteResult::NotExecuted("its connection is broken".into()));
    answered.now_ns += 100 * MS;
    answered.report_down(NEW);
    answered.answers(&[(NEW, None)]);
    assert!(gives_up(&mut answered).forced);

    let mut unknown = failover_held();
    unknown.answers(&[(NEW, Some(replica(NEW)))]);
    unknown.promoted(PromoteResult::Unknown("the connection is broken".into()));
    unknown.report_down(NEW);
    unknown.now_ns += 100 * MS;
    unknown.answers(&[(NEW, None)]);
    assert!(unknown.waits().0.contains("does not answer"));
}

#[test]
fn a_candidate_that_refuses_ten_times_is_given_up() {
    for another_leader in [false, true] {
        let mut world = failover_held();
        if another_leader {
            world.elect();
            world.decide();
            world.pass_barrier();
        }
        for _ in 0..10 {
            world.answers(&[(NEW, Some(replica(NEW)))]);
            world.promoted(PromoteResult::NotExecuted("NOPERM".into()));
            world.now_ns += 100 * MS;
        }
        let given_up = gives_up(&mut world);
        assert!(given_up.forced && given_up.why == "NOPERM", "{given_up:?}");
    }
}

/// It was restarted and has copied a third server, so that no node remembers its former process; the leader is another.
#[test]
fn a_candidate_that_has_copied_another_server_is_given_up() {
    let copied = |port: u16, link_up: bool| {
        let follows = Some(("127.0.0.1".into(), port));
        ServerStatus { run_id: "again".into(), replid: "third".into(), follows, link_up, ..replica(NEW) }
    };
    let world = || {
        let mut world = failover_held();
        world.elect();
        world.forget(NEW);
        world.decide();
        world.pass_barrier();
        world
    };
    for status in [copied(OTHER, true), copied(OLD, false)] {
        let mut world = world();
        world.answers(&[(NEW, Some(status))]);
        let given_up = gives_up(&mut world);
        assert!(given_up.forced && given_up.why.contains("has copied other data"), "{given_up:?}");
    }
    // The old primary is back, and the nodes are about to see it.
    let mut back = world();
    back.answers(&[(NEW, Some(copied(OLD, true)))]);
    assert!(matches!(back.decide(), PromotionStep::Promote { .. }));
    assert!(back.may_promote(&copied(OLD, true)).unwrap_err().contains("another replication id"));
}

#[test]
fn an_unfit_candidate_is_given_up_after_three_seconds() {
    let mut world = World::new(Failover);
    for _ in 0..31 {
        world.answers(&[(NEW, Some(ServerStatus { loading: true, ..replica(NEW) }))]);
        if matches!(world.decide(), PromotionStep::Propose(_)) {
            break;
        }
        assert!(world.waits().0.contains("it is loading its data"));
        world.now_ns += 100 * MS;
    }
    assert!(gives_up(&mut world).why.contains("the candidate cannot be promoted"));
    assert_eq!(world.now_ns, 4 * SECOND);
    assert!(!world.group().servers[1].diverged, "nothing was held");
}

#[test]
fn with_min_acks_no_replica_may_have_more_than_the_candidate() {
    let asked = |other: ServerStatus, candidate: ServerStatus| {
        let mut world = World::new(Failover);
        world.demand_acks(1);
        world.answers(&[(NEW, Some(replica(NEW)))]);
        world.answers(&[(OTHER, Some(other))]);
        world.answers(&[(NEW, Some(candidate))]);
        world
    };
    let at = |port, offset| ServerStatus { offset, ..replica(port) };
    assert!(matches!(asked(at(OTHER, 900), at(NEW, 1_000)).decide(), PromotionStep::Preflight { .. }));
    let mut behind = asked(at(OTHER, 1_100), at(NEW, 1_000));
    assert!(behind.waits().0.contains("catches up"));
    behind.now_ns += SECOND;
    behind.answers(&[(NEW, Some(at(NEW, 1_000)))]);
    assert!(gives_up(&mut behind).why.contains("has more (offset 1100)"));
    let mut other_history = asked(ServerStatus { replid: "x".into(), ..replica(OTHER) }, at(NEW, 1_000));
    assert!(other_history.waits().0.contains("2 of the 2 replicas must answer"), "{:?}", other_history.waits());
}

#[test]
fn a_switchover_finishes_when_the_candidate_has_all_data_and_has_saved_its_role() {
    let mut world = switchover_caught_up();
    let at = |offset| ServerStatus { offset, ..replica(NEW) };
    assert_eq!(world.may_promote(&at(1_100)), Ok(()));
    assert!(world.may_promote(&at(1_099)).is_err());
    assert!(world.may_promote(&promoted()).is_err(), "it was not promoted by this leader");
    world.promoted(PromoteResult::Promoted);
    world.saved(true);
    finishes(&mut world);
}

/// The candidate is killed before it saves its configuration, and comes back as a replica: the log still names the old
/// primary, which has everything.
#[test]
fn a_switchover_is_repeated_when_the_candidate_restarts_before_it_saves() {
    let mut world = switchover_caught_up();
    world.promoted(PromoteResult::Promoted);
    world.saved(false);
    world.answers(&[(NEW, None)]);
    assert!(world.waits().0.contains("it is not known whether"));
    world.now_ns += 100 * MS;
    world.answers(&[(NEW, Some(ServerStatus { run_id: "again".into(), link_up: false, ..replica(NEW) }))]);
    assert!(releases(&mut world).contains("was restarted after it was promoted"));
    assert!(world.state.holds.is_empty() && world.group().servers[0].addr == addr(OLD));
    world.now_ns += SECOND;
    world.answers(&[(OLD, Some(primary())), (NEW, Some(replica(NEW)))]);

    // It is a primary, and slow.
    let mut slow = switchover_caught_up();
    slow.promoted(PromoteResult::Promoted);
    slow.saved(false);
    slow.answers(&[(NEW, Some(promoted()))]);
    finishes(&mut slow);

    // It does not come back: the old primary stays, and the candidate is diverged.
    let mut gone = switchover_caught_up();
    gone.promoted(PromoteResult::Promoted);
    gone.saved(false);
    gone.now_ns += 2 * SECOND;
    gone.answers(&[(NEW, None)]);
    assert!(gives_up(&mut gone).why.contains("it is not known whether"));
    assert!(gone.group().servers[1].diverged);
    gone.answers(&[(NEW, None)]);
    assert_eq!(gone.decide(), PromotionStep::Over);
}

#[test]
fn a_new_leader_finishes_a_switchover_only_if_the_candidate_is_a_primary_with_all_data() {
    let mut world = switchover_caught_up();
    world.elect();
    world.answers(&[(NEW, Some(promoted()))]);
    // The former leader may not have come to that.
    world.saved(true);
    assert_eq!(world.waits().0, "node 2 has not acked");
    world.pass_barrier();
    finishes(&mut world);

    let mut replica_still = switchover_caught_up();
    replica_still.elect();
    replica_still.answers(&[(NEW, Some(replica(NEW)))]);
    assert_eq!(releases(&mut replica_still), "a new leader starts over");
    replica_still.answers(&[(OLD, Some(primary())), (NEW, Some(replica(NEW)))]);
}

/// REPLICAOF NO ONE was not executed, and never will be: the candidate is a replica over a new control connection.
#[test]
fn a_switchover_whose_command_is_lost_is_repeated_and_given_up_in_the_end() {
    let mut world = switchover_caught_up();
    world.promoted(PromoteResult::Unknown("the connection is broken".into()));
    world.answers(&[(NEW, Some(replica(NEW)))]);
    assert_eq!(releases(&mut world), "the connection is broken");
    let (why, left_ns) = world.waits();
    assert_eq!((why.as_str(), left_ns), ("the connection is broken", 200 * MS));
    world.now_ns += 30 * SECOND;
    assert!(gives_up(&mut world).why.contains("1 holds failed; the last: the connection is broken"));
    // It is shown to be a replica in sync, which can be promoted later.
    world.answers(&[(NEW, Some(replica(NEW)))]);
    assert!(world.group().servers[1].diverged);
    assert!(matches!(world.proposes(), Change::MarkResynced(_)));
    assert!(!world.group().servers[1].diverged);
    assert_eq!(world.decide(), PromotionStep::Over);
}

#[test]
fn a_switchover_ends_when_the_old_primary_cannot_take_part() {
    let mut down = World::new(Switchover);
    down.report_down(OLD);
    down.answers(&[(OLD, None), (NEW, Some(replica(NEW)))]);
    assert!(gives_up(&mut down).why.contains("is down"));

    // It was restarted as a replica: as long as the promotion is open, nothing can restore it.
    let mut follows = World::new(Switchover);
    follows.answers(&[(OLD, Some(replica(OLD))), (NEW, Some(replica(NEW)))]);
    assert!(gives_up(&mut follows).why.contains("accepts no writes"));

    // It was restarted in the hold: what it has now is not what it had.
    let mut restarted = World::new(Switchover);
    restarted.answers(&[(OLD, Some(primary())), (NEW, Some(replica(NEW)))]);
    restarted.preflighted();
    restarted.proposes();
    restarted.pass_barrier();
    restarted.answers(&[(OLD, Some(ServerStatus { run_id: "again".into(), ..primary() }))]);
    assert!(releases(&mut restarted).contains("was restarted"));
}

#[test]
fn the_replication_id_is_in_the_log_before_a_switchover_holds_slots() {
    let mut world = World::new(Switchover);
    let renamed = |status: ServerStatus| ServerStatus { replid: "id2".into(), ..status };
    world.answers(&[(OLD, Some(renamed(primary()))), (NEW, Some(renamed(replica(NEW))))]);
    assert!(matches!(world.proposes(), Change::NotePrimary(_)));
    assert_eq!(world.group().replid, "id2");
    assert!(world.waits().0.contains("had to be written to the log first"));
}
