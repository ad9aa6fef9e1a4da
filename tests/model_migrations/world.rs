//! A small cluster for the tests, and the steps of a migration in it.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::model::{
    apply::apply,
    change::{
        AssignFree, Bootstrap, CancelMigration, Change, Cleaned, CreateGroup, MigrationProgress, NewMember, OpenHold,
        PauseMigration, PlanMigration, StartMigration, StartRun, Switch,
    },
    check::check,
    ids::{Epoch, GroupId, HostPort, MigrationId, NodeId, ProductId, SlotId, Term, Uuid},
    migration::{Counters, Job, Migration, MigrationOptions, MigrationPhase, ProgressPhase},
    outcome::Outcome,
    promotion::ReplicationOffset,
    route::HoldKind,
    state::{Cause, ClusterState, Entry, Position, Server},
};

pub const PRODUCT: ProductId = ProductId(1);
pub const TERM: Term = Term(1);

/// Groups 1 to 4; slots 0 to 99 are group 1's, 100 to 199 group 2's, 200 to 299 group 4's.
pub struct World {
    pub state: ClusterState,
}

impl World {
    pub fn new() -> Self {
        let mut world = Self { state: ClusterState::default() };
        let member = |id: u64| NewMember {
            id: NodeId(id),
            uuid: Uuid(u128::from(id)),
            admin: HostPort::parse(&format!("10.0.0.{id}:19101")).unwrap(),
            advertise: format!("n{id}"),
            port_offset: 0,
        };
        world.does(Change::Bootstrap(Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 }));
        for group in 1..=4 {
            let server = |n: u32| Server::new(addr(group, n), format!("{group}-{n}"), 0);
            let servers = vec![server(1), server(2)];
            world.does(Change::CreateGroup(CreateGroup {
                product: PRODUCT,
                group: GroupId(group),
                servers,
                credentials: None,
                data_user: None,
            }));
        }
        for (first, last, to) in [(0, 99, 1), (100, 199, 2), (200, 299, 4)] {
            world.does(Change::AssignFree(AssignFree { product: PRODUCT, slots: slots(first, last), to: GroupId(to) }));
        }
        world
    }

    pub fn act_in(&mut self, change: Change, term: Term) -> Result<Outcome, String> {
        let index = self.state.applied.0 + 1;
        let before = self.state.clone();
        let entry = Entry {
            id: Uuid(u128::from(index)),
            request_hash: 0,
            at_ms: 1000 * index,
            author: Default::default(),
            change,
        };
        let result = apply(&mut self.state, &entry, Position { index: Epoch(index), term });
        assert_eq!(check(&self.state), [], "after {entry:?}");
        if result.is_err() || result == Ok(Outcome::Unchanged) {
            assert_eq!(decided(&self.state), decided(&before), "changed nothing: {entry:?}");
        }
        result.map_err(|reject| reject.to_string())
    }

    pub fn act(&mut self, change: Change) -> Result<Outcome, String> {
        self.act_in(change, TERM)
    }

    pub fn does(&mut self, change: Change) -> Outcome {
        let label = format!("{change:?}");
        self.act(change).unwrap_or_else(|why| panic!("{label}: {why}"))
    }

    #[track_caller]
    pub fn refuses(&mut self, change: Change, sentence: &str) {
        let label = format!("{change:?}");
        let why = self.act(change).expect_err(&label);
        assert!(why.contains(sentence), "{label}: {why}");
    }

    pub fn plan(&mut self, first: u16, last: u16, from: u32, to: u32) -> MigrationId {
        match self.does(plan(first, last, from, to)) {
            Outcome::Migration(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn migration(&self, id: MigrationId) -> &Migration {
        &self.state.migrations[&id]
    }

    pub fn epochs(&self, id: MigrationId) -> BTreeMap<GroupId, Epoch> {
        let m = self.migration(id);
        [m.from, m.to].map(|g| (g, self.state.products[&PRODUCT].groups[&g].epoch)).into()
    }

    pub fn start(&self, id: MigrationId) -> Change {
        let m = self.migration(id);
        Change::StartMigration(StartMigration {
            migration: id,
            attempt: m.attempt + 1,
            node: NodeId(2),
            feed: addr(m.from.0, 2),
            target: addr(m.to.0, 1),
            group_epochs: self.epochs(id),
            term: TERM,
        })
    }

    pub fn progress(&self, id: MigrationId, phase: ProgressPhase) -> Change {
        let counters = Counters { keys: 5, bytes: 50, ..Counters::default() };
        Change::MigrationProgress(MigrationProgress {
            migration: id,
            attempt: self.migration(id).attempt,
            phase,
            counters,
            verified: None,
        })
    }

    pub fn hold(&self, id: MigrationId) -> Change {
        let attempt = self.migration(id).attempt;
        Change::OpenHold(OpenHold {
            cause: Cause::Migration(id),
            attempt,
            kind: HoldKind::Wait,
            reason: "cut-over".into(),
        })
    }

    pub fn switch(&self, id: MigrationId) -> Change {
        let (attempt, hold) = (self.migration(id).attempt, self.migration(id).hold().unwrap_or_default());
        let target_offset = ReplicationOffset { replid: "ab".into(), offset: 7 };
        Change::Switch(Switch {
            migration: id,
            attempt,
            hold,
            term: TERM,
            group_epochs: self.epochs(id),
            target_offset,
        })
    }

    pub fn clean(&self, id: MigrationId, server: HostPort) -> Change {
        let job = Job::Migration(id);
        Change::StartRun(StartRun { job, run: self.state.next_run(job).unwrap(), node: NodeId(3), server, term: TERM })
    }

    pub fn cleaned(&self, job: Job) -> Change {
        Change::Cleaned(Cleaned { job, run: self.state.current_run(job).unwrap().run, term: TERM, deleted: 9 })
    }

    /// Makes the steps of the migration until it is in this phase.
    pub fn reach(&mut self, id: MigrationId, phase: &str) {
        for _ in 0..10 {
            let now = self.migration(id).phase;
            if now.name() == phase {
                return;
            }
            let step = match now {
                MigrationPhase::Planned => self.start(id),
                MigrationPhase::CleaningTarget => self.progress(id, ProgressPhase::Copying),
                MigrationPhase::Copying => self.progress(id, ProgressPhase::CaughtUp),
                MigrationPhase::CaughtUp => self.hold(id),
                MigrationPhase::Held(_) => self.switch(id),
                MigrationPhase::Switched | MigrationPhase::Cancelling | MigrationPhase::Paused => {
                    panic!("{now:?} is behind {phase}")
                }
            };
            self.does(step);
        }
        panic!("{phase} was not reached");
    }

    /// A migration of slots 0 to 9 from group 1 to group 2, in this phase.
    pub fn at(phase: &str) -> (Self, MigrationId) {
        let mut world = Self::new();
        let id = world.plan(0, 9, 1, 2);
        match phase {
            "cancelling" => {
                world.reach(id, "copying");
                world.does(Change::CancelMigration(CancelMigration { migration: id, why: "test".into() }));
            }
            "paused" => {
                world.reach(id, "copying");
                world.does(Change::PauseMigration(PauseMigration { migration: id, why: "test".into() }));
            }
            _ => world.reach(id, phase),
        }
        (world, id)
    }

    pub fn owner(&self, slot: u16) -> GroupId {
        self.state.products[&PRODUCT].slots[usize::from(slot)].owner.unwrap()
    }

    pub fn given_away(&self, group: u32) -> &BTreeSet<SlotId> {
        &self.state.products[&PRODUCT].groups[&GroupId(group)].given_away
    }
}

pub fn decided(state: &ClusterState) -> ClusterState {
    ClusterState { applied: Epoch(0), results: BTreeMap::new(), results_order: Default::default(), ..state.clone() }
}

pub fn addr(group: u32, n: u32) -> HostPort {
    HostPort::parse(&format!("10.1.{group}.{n}:6379")).unwrap()
}

pub fn slots(first: u16, last: u16) -> BTreeSet<SlotId> {
    (first..=last).map(SlotId).collect()
}

pub fn plan(first: u16, last: u16, from: u32, to: u32) -> Change {
    let (from, to, options) = (GroupId(from), GroupId(to), MigrationOptions::default());
    Change::PlanMigration(PlanMigration { product: PRODUCT, slots: slots(first, last), from, to, options })
}

pub fn sweep(group: u32) -> Job {
    Job::Sweep { product: PRODUCT, group: GroupId(group) }
}

pub fn sweep_start(world: &World, group: u32) -> Change {
    let (job, node, server) = (sweep(group), NodeId(1), addr(group, 1));
    Change::StartRun(StartRun { job, run: world.state.next_run(job).unwrap(), node, server, term: TERM })
}
