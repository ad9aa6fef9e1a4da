//! The fault matrix of migrations (`cluster_tests::matrix`): each phase and each fault at least once.
//! Not included: other server versions (tests of payloads), clock rates (the simulation), failovers
//! (failover_faults.rs), and commands that Pontoon does not support yet (transactions, blocking pops).
//!
//! To run one case: `cargo test -p cluster-tests --test migration_faults NAME`. To run random cases: `make chaos`.

use cluster_tests::matrix::{Case, Fault, run};
use pontoon::faults::Point;

/// name: point, fault, whether a replica serves the feed, seed.
macro_rules! matrix {
    ($($name:ident: $point:ident, $fault:ident, $replica:literal, $seed:literal;)*) => {
        $(
            #[test]
            fn $name() {
                run(&Case { point: Point::$point, fault: Fault::$fault, replica: $replica, seed: $seed, without: Vec::new() });
            }
        )*
    };
}

matrix! {
    cleaning_target_leader_killed: CleaningTarget, KillLeader, false, 1;
    cleaning_target_mover_node_stopped: CleaningTarget, StopMoverNode, false, 2;
    cleaning_target_target_reset: CleaningTarget, ResetTarget, true, 3;
    cleaning_target_cancelled: CleaningTarget, Cancel, false, 4;
    copying_slowly: Copying, None, true, 5;
    copying_leader_killed: Copying, KillLeader, true, 6;
    copying_leader_stopped: Copying, StopLeader, false, 7;
    copying_mover_node_killed: Copying, KillMoverNode, false, 8;
    copying_mover_node_cut_off: Copying, CutMoverNode, true, 9;
    copying_source_killed: Copying, KillSource, false, 10;
    copying_replica_killed: Copying, KillReplica, true, 11;
    copying_target_killed: Copying, KillTarget, false, 12;
    copying_feed_killed: Copying, KillFeed, true, 13;
    copying_feed_killed_on_the_primary: Copying, KillFeed, false, 14;
    copying_target_full: Copying, TargetFull, false, 15;
    caught_up_target_flushed: BeforeHold, FlushTarget, false, 16;
    copying_late_writes: Copying, LateWrites, false, 44;
    caught_up_target_silent: BeforeHold, SilentTarget, false, 46;
    caught_up_other_cut_off: BeforeHold, CutOther, false, 45;
    copying_source_rewrites_its_file: Copying, Rewrite, false, 17;
    copying_paused: Copying, Pause, true, 18;
    copying_target_half_open: Copying, HalfOpenTarget, false, 19;
    caught_up_other_killed: BeforeHold, KillOther, false, 20;
    caught_up_source_stopped: BeforeHold, StopSource, true, 21;
    caught_up_target_read_only: BeforeHold, TargetReadOnly, false, 22;
    caught_up_cancelled: BeforeHold, Cancel, true, 23;
    held_leader_killed: Held, KillLeader, false, 24;
    held_leader_cut_off: Held, CutLeader, false, 25;
    held_leader_muted: Held, MuteLeader, true, 26;
    held_other_stopped: Held, StopOther, false, 27;
    held_source_reset: Held, ResetSource, false, 28;
    acked_by_some_leader_killed: BeforeAck, KillLeader, false, 29;
    acked_by_some_other_killed: BeforeAck, KillOther, true, 30;
    barrier_passed_mover_node_stopped: BarrierPassed, StopMoverNode, false, 31;
    barrier_passed_source_killed: BarrierPassed, KillSource, false, 32;
    finished_leader_stopped: Finished, StopLeader, false, 33;
    finished_target_stopped: Finished, StopTarget, true, 34;
    finished_mover_node_killed: Finished, KillMoverNode, false, 35;
    before_switch_leader_killed: BeforeSwitch, KillLeader, true, 36;
    before_switch_leader_stopped: BeforeSwitch, StopLeader, false, 37;
    before_switch_target_killed: BeforeSwitch, KillTarget, false, 38;
    switched_leader_leaves: Switched, LeaderLeaves, false, 39;
    switched_other_stopped: Switched, StopOther, true, 40;
    cleaning_source_mover_node_killed: CleaningSource, KillMoverNode, false, 41;
    cleaning_source_source_killed: CleaningSource, KillSource, false, 42;
    cleaning_source_leader_cut_off: CleaningSource, CutLeader, false, 43;
    held_all_nodes_killed: Held, KillNodes, false, 47;
    before_switch_everything_killed: BeforeSwitch, KillAll, true, 48;
}
