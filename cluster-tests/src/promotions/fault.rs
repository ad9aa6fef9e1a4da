//! What a run of the promotion matrix is made of: what begins a promotion, what happens before, and what hits in the middle.
//! Knows nothing of how it is done.

use pontoon::faults::{Point, Rule};

/// A fault that begins a promotion of group 1, or that must not begin one although it resembles such a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// An operator: `group promote`.
    Switchover,
    /// kill -9 of the primary; it returns, with its append-only file, when another has replaced it.
    Kill,
    /// SIGSTOP of the primary until another has replaced it: it wakes as a primary.
    Stop,
    /// SIGSTOP for less than down-after.
    StopBriefly,
    /// Nothing passes between the primary and anybody.
    CutFromAll,
    /// Nothing passes between the primary and two of three nodes; its replicas and the third still reach it.
    CutFromSome,
    /// Nothing passes between the primary and one node.
    CutFromOne,
    /// What the primary says does not reach the nodes; what they send is executed.
    NotHeard,
    /// What nodes send does not reach the primary.
    Deaf,
    /// kill -9, started again at once, several times.
    Flap,
    /// Both servers die; the primary returns first.
    BothPrimaryFirst,
    /// Both servers die; the replica returns first.
    BothReplicaFirst,
    /// The primaries of two groups are killed at once.
    TwoGroups,
}

/// All, for choosing one by chance.
pub const TRIGGERS: &[Trigger] = &[
    Trigger::Switchover,
    Trigger::Kill,
    Trigger::Stop,
    Trigger::StopBriefly,
    Trigger::CutFromAll,
    Trigger::CutFromSome,
    Trigger::CutFromOne,
    Trigger::NotHeard,
    Trigger::Deaf,
    Trigger::Flap,
    Trigger::BothPrimaryFirst,
    Trigger::BothReplicaFirst,
    Trigger::TwoGroups,
];

/// What is so before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// The last replica gets nothing for a second, with its link up.
    Lag,
    /// What the last replica gets, it gets late.
    Slow,
    /// The last replica executes a command for a second.
    Busy,
    /// The last replica's disk is full.
    DiskFull,
    /// Nothing passes between the last replica and the leader.
    OutOfReach,
    /// A migration from the group stands here.
    MigrationFrom(Point),
    /// A migration to the group stands here.
    MigrationTo(Point),
}

/// All, for choosing one by chance; the first ones more often.
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

/// What hits when the promotion has come to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// Nothing: it only stands there for a while.
    Nothing,
    /// kill -9 of the leader.
    KillLeader,
    /// SIGSTOP for longer than a lease.
    StopLeader,
    /// It is cut from both other nodes.
    CutLeader,
    /// SIGTERM.
    LeaderLeaves,
    /// A node that does not lead is killed.
    KillOther,
    /// A node that does not lead is cut from the others for less than a lease; where the primary is cut from some nodes, it is
    /// the one that still reaches it.
    CutOther,
    /// kill -9 of the replica that was chosen.
    KillChosen,
    /// SIGSTOP of it.
    StopChosen,
    /// Its connections are reset.
    ResetChosen,
    /// The old primary is there again.
    PrimaryBack,
}

/// All, for choosing one by chance.
pub const SECONDS: &[Second] = &[
    Second::Nothing,
    Second::KillLeader,
    Second::StopLeader,
    Second::CutLeader,
    Second::LeaderLeaves,
    Second::KillOther,
    Second::CutOther,
    Second::KillChosen,
    Second::StopChosen,
    Second::ResetChosen,
    Second::PrimaryBack,
];

/// Where a promotion can be made to stand, in their order.
pub const POINTS: &[Point] =
    &[Point::PromotionBegun, Point::PromotionHeld, Point::PromotionBarrier, Point::PromotionSent, Point::Promoted];

/// One run.
#[derive(Clone, Debug)]
pub struct Case {
    /// What begins it.
    pub trigger: Trigger,
    /// What is so before.
    pub before: Before,
    /// Where the promotion stands when it is hit, and by what.
    pub hit: Option<(Point, Second)>,
    /// Replicas of group 1, 1 or 2.
    pub replicas: usize,
    /// `min-acks` of the product, 0 or 1: with 1, nothing acknowledged may be lost.
    pub min_acks: u8,
    /// Chooses how many keys there are, and which nodes are hit.
    pub seed: u64,
    /// Rules that every node leaves out.
    pub without: Vec<Rule>,
}

/// What has to come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The group has another primary.
    Promoted,
    /// It has the one it had.
    Stays,
    /// Either.
    Either,
}

impl Case {
    /// The run of a seed.
    #[must_use]
    pub fn by_chance(seed: u64) -> Self {
        fn one<T: Copy>(of: &[T], random: &mut fastrand::Rng) -> T {
            of[random.usize(0..of.len())]
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let trigger = one(TRIGGERS, &mut random);
        let before = one(BEFORE, &mut random);
        let point = random.bool().then(|| one(POINTS, &mut random)).filter(|_| trigger.surely_begins());
        let hit = point.map(|point| (point, one(SECONDS, &mut random)));
        let drawn = random.usize(1..3);
        let min_acks = u8::from(random.bool());
        let full = before == Before::DiskFull;
        // Redis ends a replica that cannot write: nobody can switch over to it, and where it is needed no promotion gets anywhere.
        let replicas = if full && trigger == Trigger::Switchover { 2 } else { drawn };
        let hit = hit.filter(|_| !full || (replicas == 2 && min_acks == 0));
        Self { trigger, before, hit, replicas, min_acks, seed, without: Vec::new() }
    }

    /// What has to come of it.
    #[must_use]
    pub fn expected(&self) -> Expected {
        // With min-acks 1, all replicas have to answer.
        let needed = self.replicas == 1 || self.min_acks > 0;
        let last_replica_may_be_gone = needed && matches!(self.before, Before::DiskFull | Before::Busy);
        match self.trigger {
            Trigger::BothPrimaryFirst | Trigger::BothReplicaFirst if self.replicas == 1 => Expected::Stays,
            Trigger::CutFromOne => Expected::Stays,
            trigger if trigger.surely_begins() && !last_replica_may_be_gone => match self.hit.map(|(_, second)| second)
            {
                None | Some(Second::Nothing | Second::KillLeader | Second::LeaderLeaves | Second::KillOther) => {
                    Expected::Promoted
                }
                Some(_) => Expected::Either,
            },
            _ => Expected::Either,
        }
    }
}

impl Trigger {
    /// A promotion of group 1 begins for sure, if there is somebody to promote.
    #[must_use]
    pub fn surely_begins(self) -> bool {
        match self {
            Self::Switchover
            | Self::Kill
            | Self::Stop
            | Self::CutFromAll
            | Self::CutFromSome
            | Self::NotHeard
            | Self::Deaf
            | Self::TwoGroups => true,
            Self::StopBriefly | Self::CutFromOne | Self::Flap | Self::BothPrimaryFirst | Self::BothReplicaFirst => {
                false
            }
        }
    }
}
