//! The fault matrix of promotions (`cluster_tests::promotions`): each fault at least once.
//! Without `min-acks`, the lost writes are measured: they must be the last ones that were acknowledged. With
//! `min-acks`, no acknowledged write may be lost. Not included: reads at replicas, which need other checkers
//! (replica_reads.rs).
//!
//! To run one case and to show the measured losses: `cargo test -p cluster-tests --test failover_faults NAME --
//! --nocapture`. To run random cases: `make chaos`.

use cluster_tests::promotions::{Before, Case, Second, Trigger, run};
use pontoon::faults::Point;

/// `min-acks`; then name: trigger, condition before, [point, second fault], replicas, seed.
macro_rules! matrix {
    ($min_acks:literal; $($name:ident: $trigger:ident, $before:ident $(($at:ident))?, [$($point:ident, $second:ident)?], $replicas:literal, $seed:literal;)*) => {
        $(
            #[test]
            fn $name() {
                run(&Case {
                    trigger: Trigger::$trigger,
                    before: Before::$before $((Point::$at))?,
                    hit: [$((Point::$point, Second::$second))?].first().copied(),
                    replicas: $replicas,
                    min_acks: $min_acks,
                    seed: $seed,
                    without: Vec::new(),
                });
            }
        )*
    };
}

matrix! {
    0;
    switchover: Switchover, Nothing, [], 1, 1;
    switchover_of_three: Switchover, Nothing, [PromotionHeld, Nothing], 2, 2;
    switchover_lagging: Switchover, Slow, [], 1, 3;
    switchover_begun_leader_killed: Switchover, Nothing, [PromotionBegun, KillLeader], 1, 4;
    switchover_held_leader_killed: Switchover, Nothing, [PromotionHeld, KillLeader], 1, 5;
    switchover_after_the_barrier_leader_cut_off: Switchover, Nothing, [PromotionBarrier, CutLeader], 1, 6;
    switchover_promoted_leader_killed: Switchover, Nothing, [Promoted, KillLeader], 1, 7;
    switchover_held_replica_killed: Switchover, Nothing, [PromotionHeld, KillCandidate], 1, 8;
    switchover_while_copying: Switchover, MigrationFrom(Copying), [], 1, 9;
    switchover_while_caught_up: Switchover, MigrationFrom(BeforeHold), [], 1, 10;
    switchover_while_slots_are_held: Switchover, MigrationFrom(Held), [], 1, 11;
    switchover_while_the_source_is_cleaned: Switchover, MigrationFrom(CleaningSource), [], 1, 12;
    switchover_of_a_target: Switchover, MigrationTo(Copying), [], 1, 13;
    killed: Kill, Nothing, [], 1, 20;
    killed_begun_leader_killed: Kill, Nothing, [PromotionBegun, KillLeader], 1, 21;
    killed_held_leader_killed: Kill, Nothing, [PromotionHeld, KillLeader], 1, 22;
    killed_held_leader_stopped: Kill, Nothing, [PromotionHeld, StopLeader], 1, 23;
    killed_after_the_barrier_leader_killed: Kill, Nothing, [PromotionBarrier, KillLeader], 1, 24;
    killed_after_the_barrier_leader_cut_off: Kill, Nothing, [PromotionBarrier, CutLeader], 1, 25;
    killed_promoted_leader_killed: Kill, Nothing, [Promoted, KillLeader], 1, 26;
    killed_promoted_leader_leaves: Kill, Nothing, [Promoted, LeaderLeaves], 2, 27;
    killed_held_other_killed: Kill, Nothing, [PromotionHeld, KillOther], 1, 28;
    killed_begun_replica_killed: Kill, Nothing, [PromotionBegun, KillCandidate], 2, 29;
    killed_held_replica_killed: Kill, Nothing, [PromotionHeld, KillCandidate], 1, 30;
    killed_after_the_barrier_replica_stopped: Kill, Nothing, [PromotionBarrier, StopCandidate], 2, 31;
    killed_promoted_replica_killed: Kill, Nothing, [Promoted, KillCandidate], 1, 32;
    killed_after_the_barrier_replica_reset: Kill, Nothing, [PromotionBarrier, ResetCandidate], 1, 33;
    killed_held_primary_back: Kill, Nothing, [PromotionHeld, PrimaryBack], 1, 34;
    killed_promoted_primary_back: Kill, Nothing, [Promoted, PrimaryBack], 1, 35;
    killed_with_a_replica_that_lags: Kill, Lag, [], 2, 36;
    killed_with_only_a_replica_that_lags: Kill, Lag, [], 1, 37;
    killed_with_a_busy_replica: Kill, Busy, [], 2, 38;
    killed_with_a_full_disk_at_a_replica: Kill, DiskFull, [], 2, 39;
    killed_with_a_replica_out_of_the_leaders_reach: Kill, OutOfReach, [], 1, 49;
    killed_while_copying: Kill, MigrationFrom(Copying), [], 1, 40;
    killed_while_slots_are_held: Kill, MigrationFrom(Held), [], 1, 41;
    killed_target_after_the_switch: Kill, MigrationTo(CleaningSource), [], 1, 42;
    killed_source_before_the_switch: Kill, MigrationFrom(BeforeSwitch), [], 1, 43;
    killed_source_while_it_is_cleaned: Kill, MigrationFrom(CleaningSource), [], 1, 44;
    killed_target_while_copying: Kill, MigrationTo(Copying), [], 1, 45;
    killed_target_while_slots_are_held: Kill, MigrationTo(Held), [], 1, 46;
    killed_target_before_the_switch: Kill, MigrationTo(BeforeSwitch), [], 1, 47;
    killed_source_and_target_while_copying: TwoGroups, MigrationFrom(Copying), [], 1, 48;
    stopped_source_while_copying: Stop, MigrationFrom(Copying), [], 1, 55;
    stopped_target_while_copying: Stop, MigrationTo(Copying), [], 1, 56;
    stopped: Stop, Nothing, [], 1, 50;
    stopped_held_wakes: Stop, Nothing, [PromotionHeld, PrimaryBack], 1, 51;
    stopped_promoted_wakes: Stop, Nothing, [Promoted, PrimaryBack], 1, 52;
    stopped_briefly: StopBriefly, Nothing, [], 1, 53;
    cut_from_all: CutFromAll, Nothing, [], 1, 60;
    cut_from_some: CutFromSome, Nothing, [], 1, 61;
    cut_from_some_and_the_other_from_its_peers: CutFromSome, Nothing, [PromotionBegun, CutOther], 1, 62;
    cut_from_one: CutFromOne, Nothing, [], 1, 63;
    replies_withheld: RepliesWithheld, Nothing, [], 1, 64;
    requests_withheld: RequestsWithheld, Nothing, [], 1, 65;
    flapping: Flap, Nothing, [], 1, 70;
    both_die_primary_first: BothPrimaryFirst, Nothing, [], 1, 71;
    both_die_replica_first: BothReplicaFirst, Nothing, [], 1, 72;
    two_groups: TwoGroups, Nothing, [], 1, 73;
    full_disk_at_the_only_replica: StopBriefly, DiskFull, [], 1, 74;
    switchover_saved_everything_killed: Switchover, Nothing, [PromotionSaved, KillAll], 1, 75;
    killed_promoted_everything_killed: Kill, Nothing, [Promoted, KillAll], 2, 76;
}

matrix! {
    1;
    confirmed_switchover: Switchover, Nothing, [], 1, 101;
    confirmed_switchover_promoted_leader_killed: Switchover, Nothing, [Promoted, KillLeader], 2, 102;
    confirmed_killed: Kill, Nothing, [], 1, 103;
    confirmed_killed_of_three: Kill, Nothing, [], 2, 104;
    confirmed_killed_begun_replica_killed: Kill, Nothing, [PromotionBegun, KillCandidate], 2, 105;
    confirmed_killed_held_leader_killed: Kill, Nothing, [PromotionHeld, KillLeader], 2, 106;
    confirmed_killed_promoted_leader_cut_off: Kill, Nothing, [Promoted, CutLeader], 1, 107;
    confirmed_killed_with_a_replica_that_lags: Kill, Lag, [], 2, 108;
    confirmed_killed_with_only_a_replica_that_lags: Kill, Lag, [], 1, 120;
    confirmed_killed_with_a_full_disk_at_a_replica: Kill, DiskFull, [], 2, 109;
    confirmed_killed_with_a_replica_out_of_the_leaders_reach: Kill, OutOfReach, [], 2, 119;
    confirmed_killed_while_slots_are_held: Kill, MigrationFrom(Held), [], 1, 110;
    confirmed_killed_target_before_the_switch: Kill, MigrationTo(BeforeSwitch), [], 1, 111;
    confirmed_killed_source_and_target_while_copying: TwoGroups, MigrationFrom(Copying), [], 1, 112;
    confirmed_stopped_held_wakes: Stop, Nothing, [PromotionHeld, PrimaryBack], 2, 113;
    confirmed_cut_from_some_and_the_other_from_its_peers: CutFromSome, Nothing, [PromotionBegun, CutOther], 1, 114;
    confirmed_cut_from_all: CutFromAll, Nothing, [], 2, 115;
    confirmed_replies_withheld: RepliesWithheld, Nothing, [], 1, 116;
    confirmed_flapping: Flap, Nothing, [], 1, 117;
    confirmed_both_die_replica_first: BothReplicaFirst, Nothing, [], 1, 118;
    confirmed_switchover_finished_candidate_killed: Switchover, Nothing, [PromotionFinished, KillCandidate], 1, 121;
    confirmed_switchover_promoted_everything_killed: Switchover, Nothing, [Promoted, KillAll], 1, 122;
}
