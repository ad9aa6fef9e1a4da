//! The parts of a case of the promotion matrix: the trigger of the promotion, the condition before it, and the second
//! fault that hits while the promotion is open. Knows nothing of how faults are injected.

use pontoon::faults::{Point, Rule};

/// A fault or command that starts a promotion of group 1, or a similar fault that must not start one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The operator's command `group promote`.
    Switchover,
    /// The primary is killed with SIGKILL. It returns, with its append-only file, after it has been replaced.
    Kill,
    /// The primary is stopped with SIGSTOP until it has been replaced. It then continues as a primary.
    Stop,
    /// The primary is stopped with SIGSTOP for less than down-after.
    StopBriefly,
    /// Nothing passes between the primary and any other process.
    CutFromAll,
    /// Nothing passes between the primary and two of the three nodes. The third node and the replicas still reach it.
    CutFromSome,
    /// Nothing passes between the primary and one node.
    CutFromOne,
    /// Replies of the primary do not reach the nodes. The primary executes their requests.
    RepliesWithheld,
    /// Requests of the nodes do not reach the primary.
    RequestsWithheld,
    /// The primary is killed with SIGKILL and restarted at once, several times.
    Flap,
    /// Both servers are killed, and the primary returns first.
    BothPrimaryFirst,
    /// Both servers are killed, and the replica returns first.
    BothReplicaFirst,
    /// The primaries of two groups are killed at the same time.
    TwoGroups,
}

/// All triggers, for a random choice.
pub const TRIGGERS: &[Trigger] = &[
    Trigger::Switchover,
    Trigger::Kill,
    Trigger::Stop,
    Trigger::StopBriefly,
    Trigger::CutFromAll,
    Trigger::CutFromSome,
    Trigger::CutFromOne,
    Trigger::RepliesWithheld,
    Trigger::RequestsWithheld,
    Trigger::Flap,
    Trigger::BothPrimaryFirst,
    Trigger::BothReplicaFirst,
    Trigger::TwoGroups,
];

/// The condition before the trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// No special condition.
    Nothing,
    /// The last replica receives nothing for a second, although its link is up.
    Lag,
    /// The last replica receives the replication stream with a delay.
    Slow,
    /// The last replica executes one command for a second.
    Busy,
    /// The last replica's disk is full.
    DiskFull,
    /// Nothing passes between the last replica and the leader.
    OutOfReach,
    /// A migration from the group pauses at this point.
    MigrationFrom(Point),
    /// A migration to the group pauses at this point.
    MigrationTo(Point),
}

/// All conditions, for a random choice. `Nothing` is more frequent.
pub const BEFORE: &[Before] = &[
    Before::Nothing,
    Before::Nothing,
    Before::Nothing,
    Before::Nothing,
    Before::Lag,
    Before::Slow,
    Before::Busy,
    Before::DiskFull,
    Before::OutOfReach,
    Before::MigrationFrom(Point::Copying),
    Before::MigrationFrom(Point::BeforeHold),
    Before::MigrationFrom(Point::Held),
    Before::MigrationFrom(Point::CleaningSource),
    Before::MigrationTo(Point::Copying),
    Before::MigrationTo(Point::BeforeHold),
    Before::MigrationTo(Point::Finished),
    Before::MigrationTo(Point::CleaningSource),
];

/// The second fault, which is injected when the promotion has reached its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// No fault: the promotion only pauses at the point for a while.
    Nothing,
    /// The leader is killed with SIGKILL.
    KillLeader,
    /// The leader is stopped with SIGSTOP for longer than a lease.
    StopLeader,
    /// The leader is cut from both other nodes.
    CutLeader,
    /// The leader gets SIGTERM.
    LeaderLeaves,
    /// A follower is killed with SIGKILL.
    KillOther,
    /// A follower is cut from the other nodes for less than a lease. If the primary is cut from some nodes, it is the
    /// follower that still reaches the primary.
    CutOther,
    /// The candidate that is being promoted is killed with SIGKILL.
    KillCandidate,
    /// The candidate is stopped with SIGSTOP.
    StopCandidate,
    /// The connections of the nodes to the candidate are closed.
    ResetCandidate,
    /// The old primary returns.
    PrimaryBack,
    /// All nodes and all servers are killed with SIGKILL.
    KillAll,
}

/// All second faults, for a random choice.
pub const SECONDS: &[Second] = &[
    Second::Nothing,
    Second::KillLeader,
    Second::StopLeader,
    Second::CutLeader,
    Second::LeaderLeaves,
    Second::KillOther,
    Second::CutOther,
    Second::KillCandidate,
    Second::StopCandidate,
    Second::ResetCandidate,
    Second::PrimaryBack,
    Second::KillAll,
];

/// The points at which a promotion can pause, in their order.
pub const POINTS: &[Point] = &[
    Point::PromotionBegun,
    Point::PromotionHeld,
    Point::PromotionBarrier,
    Point::BeforePromote,
    Point::Promoted,
    Point::PromotionSaved,
    Point::PromotionFinished,
];

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The trigger of the promotion.
    pub trigger: Trigger,
    /// The condition before the trigger.
    pub before: Before,
    /// The point at which the promotion pauses, and the fault that is injected there.
    pub hit: Option<(Point, Second)>,
    /// Number of replicas of group 1: 1 or 2.
    pub replicas: usize,
    /// `min-acks` of the product: 0 or 1. With 1, no acknowledged write may be lost.
    pub min_acks: u8,
    /// Determines the number of keys, and which nodes are hit.
    pub seed: u64,
    /// The rules that every node leaves out.
    pub without: Vec<Rule>,
}

/// The required outcome of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The group has another primary.
    Promoted,
    /// The group has the same primary as before.
    Unchanged,
    /// Both outcomes are permitted.
    Either,
}

impl Case {
    /// Returns the random case of a seed.
    #[must_use]
    pub fn by_chance(seed: u64) -> Self {
        fn one<T: Copy>(of: &[T], random: &mut fastrand::Rng) -> T {
            of[random.usize(0..of.len())]
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let trigger = one(TRIGGERS, &mut random);
        let before = one(BEFORE, &mut random);
        let point = random.bool().then(|| one(POINTS, &mut random)).filter(|_| trigger.always_promotes());
        let hit = point.map(|point| (point, one(SECONDS, &mut random)));
        let drawn = random.usize(1..3);
        let min_acks = u8::from(random.bool());
        let full = before == Before::DiskFull;
        // Redis ends a replica that cannot write to its disk. A switchover to this replica, or to one that receives
        // nothing, is impossible, and a promotion that needs this replica cannot proceed.
        let unfit = full || matches!(before, Before::Lag | Before::Slow);
        let replicas = if unfit && trigger == Trigger::Switchover { 2 } else { drawn };
        let hit = hit.filter(|_| !full || (replicas == 2 && min_acks == 0));
        Self { trigger, before, hit, replicas, min_acks, seed, without: Vec::new() }
    }

    /// Returns the required outcome.
    #[must_use]
    pub fn expected(&self) -> Expected {
        // With min-acks 1, all replicas must answer.
        let needed = self.replicas == 1 || self.min_acks > 0;
        let last_replica_may_be_gone = needed && matches!(self.before, Before::DiskFull | Before::Busy);
        match self.trigger {
            Trigger::BothPrimaryFirst | Trigger::BothReplicaFirst if self.replicas == 1 => Expected::Unchanged,
            Trigger::CutFromOne => Expected::Unchanged,
            trigger if trigger.always_promotes() && !last_replica_may_be_gone => {
                match self.hit.map(|(_, second)| second) {
                    None | Some(Second::Nothing | Second::KillLeader | Second::LeaderLeaves | Second::KillOther) => {
                        Expected::Promoted
                    }
                    Some(_) => Expected::Either,
                }
            }
            _ => Expected::Either,
        }
    }
}

impl Trigger {
    /// Returns whether the trigger always starts a promotion of group 1, provided that there is a candidate.
    #[must_use]
    pub fn always_promotes(self) -> bool {
        match self {
            Self::Switchover
            | Self::Kill
            | Self::Stop
            | Self::CutFromAll
            | Self::CutFromSome
            | Self::RepliesWithheld
            | Self::RequestsWithheld
            | Self::TwoGroups => true,
            Self::StopBriefly | Self::CutFromOne | Self::Flap | Self::BothPrimaryFirst | Self::BothReplicaFirst => {
                false
            }
        }
    }
}
