//! One case of the promotion matrix. A group runs under all workloads. Its primary is hit by a fault or replaced by a
//! command, a second fault hits while the promotion is open, and everything is healed. Then the group must become
//! healthy, and no checker may find a violation.
//! The cases are chosen by tests/failover_faults.rs and `make chaos`.

mod fault;
mod fixture;
mod watch;

use std::time::{Duration, Instant};

use pontoon::faults::Point;
use serde_json::Value;

pub use self::fault::{BEFORE, Before, Case, Expected, POINTS, SECONDS, Second, TRIGGERS, Trigger};
use self::fixture::{DOWN_AFTER, Fixture};
use crate::{
    callers::Caller,
    link::Mode,
    redis::RedisServer,
    wait::{GENEROUS, let_pass, wait_for},
    workload::{Mix, Noticed},
};

/// Longer than a lease (3 s) and the leader's allowance for clocks.
const LONGER_THAN_A_LEASE: Duration = Duration::from_millis(3_500);
/// Duration of a short fault.
const A_WHILE: Duration = Duration::from_millis(700);
/// The time during which a replica receives nothing, or executes one command.
const LAG: Duration = Duration::from_millis(1_000);
/// The delay of the replication stream of a slow replica.
const SLOW: Duration = Duration::from_millis(150);
/// Maximum time of a promotion that is hit by a second fault: one or two holds, a lease, an election, and back-off.
const PROMOTED_WITHIN: Duration = Duration::from_secs(60);
/// Maximum time of a migration that restarts after a promotion.
const MIGRATED_WITHIN: Duration = Duration::from_secs(90);
/// Slots that a migration moves from group 1 to group 2.
const FROM_IT: &str = "0-255";
/// Slots that a migration moves from group 2 to group 1.
const TO_IT: &str = "768-1023";
/// The file size limit that stands for a full disk, in bytes: every further write fails.
const ROOM: u64 = 0;

/// The environment and the state of a case.
struct Run {
    fixture: Fixture,
    random: fastrand::Rng,
    /// The node that still reaches the primary, if the primary is cut from some nodes.
    reaches: u16,
    migration: Option<u64>,
    /// The additional lag that the harness causes at a replica.
    lag: Duration,
}

/// Runs a case.
///
/// # Panics
/// When the group does not become healthy, when it has another primary than expected, or when a checker finds a
/// violation.
#[track_caller]
pub fn run(case: &Case) {
    // The environment is dropped by the panic, not before it: it then keeps and prints its logs.
    let (_run, found) = execute(case);
    match found {
        Ok(noticed) => eprintln!("{} replies, {} acknowledged elements lost", noticed.answered, noticed.lost),
        Err(wrong) => panic!("{case:?}: violations:\n{}", wrong.join("\n")),
    }
}

/// Runs a case and returns the violations: for cases that leave out a rule.
///
/// # Errors
/// Returns the violations, as texts.
///
/// # Panics
/// When the group does not become healthy.
#[track_caller]
pub fn verdict(case: &Case) -> Result<Noticed, Vec<String>> {
    execute(case).1
}

#[track_caller]
fn execute(case: &Case) -> (Run, Result<Noticed, Vec<String>>) {
    let mut run = Run::prepare(case);
    let ports: Vec<u16> = run.fixture.cluster.nodes.iter().map(|n| n.client_port).collect();
    let mix = Mix::start(&ports, run.random.usize(500..1_500));
    mix.wait_more(100);
    run.wait_replicated();
    run.set_up(case);
    if let Some((point, _)) = case.hit {
        run.fixture.cluster.pause_at(point);
    }
    run.trigger(case);
    run.continue_migration(case);
    if let Some((point, second)) = case.hit {
        run.wait_reached(point);
        run.second(case, point, second);
        run.fixture.cluster.go_on(point);
    }
    run.wait_outcome(case);
    run.heal();
    run.fixture.wait_healthy();
    run.wait_migrated(case);
    mix.wait_more(200);
    let (losses, mut wrong) = run.fixture.losses(run.lag, case.min_acks);
    run.fixture.wait_healthy();
    let quiet = case.trigger == Trigger::Switchover && case.before == Before::Nothing && case.hit.is_none();
    let found = match mix.verdict_after(&run.fixture.cluster, &losses) {
        Ok(noticed) if wrong.is_empty() => match noticed.errors.first() {
            Some((port, error)) if quiet => {
                Err(vec![format!("during a switchover, a client of port {port} received: {error}")])
            }
            _ => Ok(noticed),
        },
        Ok(_) => Err(wrong),
        Err(more) => {
            wrong.extend(more);
            Err(wrong)
        }
    };
    (run, found)
}

impl Run {
    fn prepare(case: &Case) -> Self {
        // If writes must be confirmed, each group needs a replica that confirms them.
        let of_second = usize::from(case.trigger == Trigger::TwoGroups || case.min_acks > 0);
        let fixture = Fixture::prepare([case.replicas, of_second], case.min_acks, &case.without);
        Self { fixture, random: fastrand::Rng::with_seed(case.seed), reaches: 1, migration: None, lag: Duration::ZERO }
    }

    fn primary(&self) -> usize {
        self.fixture.groups[0][0]
    }

    /// The replica that the condition before the trigger concerns.
    fn last_replica(&self) -> usize {
        self.fixture.groups[0][self.fixture.groups[0].len() - 1]
    }

    /// Waits until the keys that no client changes any more are at all replicas: none of these keys may be lost.
    #[track_caller]
    fn wait_replicated(&self) {
        for group in &self.fixture.groups {
            self.fixture.cluster.wait_replicated(group);
        }
    }

    /// Establishes the condition before the trigger.
    fn set_up(&mut self, case: &Case) {
        let (primary, last) = (self.primary(), self.last_replica());
        match case.before {
            Before::Nothing => {}
            Before::Lag => {
                self.lag = LAG;
                self.fixture.gates[primary].set(Caller::Server(last), Mode::HalfOpen);
                let_pass(LAG);
            }
            Before::Slow => {
                self.lag = SLOW * 10;
                self.fixture.gates[primary].set(Caller::Server(last), Mode::Delay(SLOW));
                let_pass(LAG);
            }
            Before::Busy => {
                self.lag = LAG;
                let mut client = self.fixture.cluster.servers[last].client();
                client.send(&crate::client::request(&["DEBUG", "SLEEP", "1"])).expect("the replica accepts a command");
            }
            Before::DiskFull => {
                self.fixture.cluster.servers[last].limit_files(Some(ROOM));
                let_pass(LAG);
            }
            Before::OutOfReach => {
                let leader = self.fixture.cluster.leader();
                self.fixture.gates[last].set(Caller::Node(leader), Mode::Silent);
            }
            Before::MigrationFrom(point) => self.start_migration(point, FROM_IT, "2"),
            Before::MigrationTo(point) => self.start_migration(point, TO_IT, "1"),
        }
    }

    fn start_migration(&mut self, point: Point, slots: &str, to: &str) {
        self.fixture.cluster.pause_at(point);
        let id = wait_for("the migration to be accepted", GENEROUS, || {
            let result = self.fixture.any_cli(&["migrate", "start", slots, "--to", to, "--hold-max", "1s"]);
            let all = self.fixture.json(&["migrate", "ls"]);
            all.as_ref().and_then(|all| all[0]["id"].as_u64()).ok_or_else(|| format!("{result:?} {all:?}"))
        });
        self.migration = Some(id);
        self.wait_reached(point);
    }

    /// Lets the paused migration continue after a while: its hold may keep the promotion from starting.
    fn continue_migration(&self, case: &Case) {
        let (Before::MigrationFrom(point) | Before::MigrationTo(point)) = case.before else { return };
        let_pass(A_WHILE);
        self.fixture.cluster.go_on(point);
    }

    #[track_caller]
    fn wait_reached(&self, point: Point) {
        wait_for(&format!("a node to reach {}", point.name()), PROMOTED_WITHIN, || {
            if self.fixture.cluster.paused_node(point).is_some() {
                return Ok(());
            }
            self.resume_migration();
            Err(self.shown())
        });
    }

    fn shown(&self) -> String {
        let of = |args: &[&str]| self.fixture.json(args).map(|v| v.to_string()).unwrap_or_default();
        format!("{}\n{}\n{}", of(&["group", "show", "1"]), of(&["migrate", "ls"]), of(&["events"]))
    }

    fn trigger(&mut self, case: &Case) {
        let primary = self.primary();
        match case.trigger {
            Trigger::Switchover => self.promote(self.fixture.groups[0][1]),
            Trigger::Kill => self.fixture.cluster.servers[primary].kill9(),
            Trigger::Stop => self.fixture.cluster.servers[primary].pause(),
            Trigger::StopBriefly => {
                self.fixture.cluster.servers[primary].pause();
                let_pass(DOWN_AFTER / 2);
                self.fixture.cluster.servers[primary].resume();
            }
            Trigger::CutFromAll => {
                let all = (1..=3).map(Caller::Node).chain((0..self.fixture.gates.len()).map(Caller::Server));
                all.for_each(|caller| self.fixture.gates[primary].set(caller, Mode::Silent));
            }
            Trigger::CutFromSome => {
                // A follower, so that a second fault can cut it from the other nodes.
                self.reaches = self.fixture.cluster.follower();
                (1..=3).filter(|id| *id != self.reaches).for_each(|id| self.cut(id, Mode::Silent));
            }
            Trigger::CutFromOne => {
                let one = self.random.u16(1..4);
                self.cut(one, Mode::Silent);
                let_pass(DOWN_AFTER * 3);
            }
            Trigger::RepliesWithheld => (1..=3).for_each(|id| self.cut(id, Mode::HalfOpen)),
            Trigger::RequestsWithheld => (1..=3).for_each(|id| self.cut(id, Mode::RequestsWithheld)),
            Trigger::Flap => {
                for _ in 0..4 {
                    self.fixture.cluster.servers[primary].kill9();
                    let_pass(DOWN_AFTER.mul_f64(self.random.f64() / 2.0));
                    self.fixture.cluster.servers[primary].launch_again();
                    let_pass(DOWN_AFTER / 2);
                }
            }
            Trigger::BothPrimaryFirst | Trigger::BothReplicaFirst => {
                let group = self.fixture.groups[0].clone();
                group.iter().rev().for_each(|server| self.fixture.cluster.servers[*server].kill9());
                let_pass(DOWN_AFTER * 2);
                let mut order = group;
                if case.trigger == Trigger::BothReplicaFirst {
                    order.reverse();
                }
                for server in order {
                    self.fixture.cluster.servers[server].launch_again();
                    let_pass(DOWN_AFTER * 2);
                }
            }
            Trigger::TwoGroups => {
                let other = self.fixture.groups[1][0];
                self.fixture.cluster.servers[primary].kill9();
                self.fixture.cluster.servers[other].kill9();
            }
        }
    }

    fn cut(&self, node: u16, mode: Mode) {
        self.fixture.gates[self.primary()].set(Caller::Node(node), mode);
    }

    /// Repeats the operator's command until it is accepted. It is rejected, with the reason, while a migration
    /// switches, while the replica lags, and while the leader does not reach the replica.
    #[track_caller]
    fn promote(&self, to: usize) {
        let addr = self.fixture.gates[to].addr();
        wait_for("the promotion to be accepted", PROMOTED_WITHIN, || {
            self.fixture.any_cli(&["group", "promote", "1", &addr]).inspect_err(|_| {
                // A node that pauses while a migration is held keeps the command from being accepted.
                for node in &self.fixture.cluster.nodes {
                    [Point::Held, Point::Finished].iter().for_each(|point| node.faults.go_on(*point));
                }
                // A leader transfers its leadership to replace a dead primary, but not for a switchover. The replica
                // must therefore be reachable.
                (1..=3).for_each(|id| self.fixture.gates[to].set(Caller::Node(id), Mode::Open));
            })
        });
    }

    fn second(&mut self, case: &Case, point: Point, second: Second) {
        let leader = self.fixture.cluster.leader();
        let others: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
        let other = match case.trigger {
            Trigger::CutFromSome => self.reaches,
            _ => others[self.random.usize(0..others.len())],
        };
        let candidate = self.fixture.candidate().unwrap_or(self.fixture.groups[0][1]);
        let lasts = match second {
            Second::Nothing => A_WHILE,
            Second::KillLeader => {
                self.fixture.cluster.node_mut(leader).kill9();
                A_WHILE
            }
            Second::StopLeader => {
                self.fixture.cluster.node(leader).pause();
                LONGER_THAN_A_LEASE
            }
            Second::CutLeader => {
                self.fixture.cluster.mesh().isolate(leader);
                LONGER_THAN_A_LEASE
            }
            Second::LeaderLeaves => {
                self.fixture.cluster.go_on(point);
                let _ = self.fixture.cluster.node_mut(leader).terminate(GENEROUS);
                Duration::ZERO
            }
            Second::KillOther => {
                self.fixture.cluster.node_mut(other).kill9();
                A_WHILE
            }
            Second::CutOther => {
                self.fixture.cluster.mesh().isolate(other);
                // The purpose of this fault is what the node does while it does not know the latest entries.
                self.fixture.cluster.go_on(point);
                A_WHILE * 3
            }
            Second::KillCandidate => {
                self.fixture.cluster.servers[candidate].kill9();
                A_WHILE
            }
            Second::StopCandidate => {
                self.fixture.cluster.servers[candidate].pause();
                DOWN_AFTER * 2
            }
            Second::ResetCandidate => {
                (1..=3).for_each(|id| self.fixture.gates[candidate].set(Caller::Node(id), Mode::Cut));
                A_WHILE
            }
            Second::PrimaryBack => {
                self.restart_servers();
                DOWN_AFTER
            }
            Second::KillAll => {
                let cluster = &mut self.fixture.cluster;
                (1..=3).for_each(|id| cluster.node_mut(id).kill9());
                cluster.servers.iter_mut().for_each(RedisServer::kill9);
                Duration::ZERO
            }
        };
        let_pass(lasts);
    }

    /// Waits until there is another primary, if one is expected. Otherwise it waits for a while.
    #[track_caller]
    fn wait_outcome(&mut self, case: &Case) {
        let interfered = case.hit.is_some_and(|(_, second)| second != Second::Nothing);
        if interfered {
            // Everything except the primary is healed, so that the promotion can proceed.
            self.heal_nodes();
            let replicas: Vec<usize> = self.fixture.groups[0][1..].to_vec();
            for server in replicas {
                self.fixture.cluster.servers[server].resume();
                (1..=3).for_each(|id| self.fixture.gates[server].set(Caller::Node(id), Mode::Open));
                if !self.fixture.cluster.servers[server].runs() {
                    self.fixture.cluster.servers[server].launch_again();
                }
            }
        }
        match case.expected() {
            Expected::Promoted => {
                let groups = if case.trigger == Trigger::TwoGroups { 2 } else { 1 };
                for gid in 1..=groups {
                    wait_for(&format!("group {gid} to have another primary"), PROMOTED_WITHIN, || {
                        self.resume_migration();
                        if self.fixture.promoted(gid) > 0 {
                            return Ok(());
                        }
                        if case.trigger == Trigger::Switchover
                            && self.fixture.group(1).is_some_and(|(_, open)| open.is_none())
                        {
                            // The promotion was given up, with an event that gives the reason. The operator tries
                            // again.
                            let _ = self.fixture.any_cli(&[
                                "group",
                                "promote",
                                "1",
                                &self.fixture.gates[self.fixture.groups[0][1]].addr(),
                            ]);
                        }
                        Err(self.shown())
                    });
                }
            }
            Expected::Unchanged => {
                let_pass(DOWN_AFTER);
                assert_eq!(self.fixture.promoted(1), 0, "the primary was replaced: {}", self.shown());
            }
            Expected::Either => {
                let until = Instant::now() + DOWN_AFTER * 4;
                while self.fixture.promoted(1) == 0 && Instant::now() < until {
                    let_pass(DOWN_AFTER / 4);
                }
            }
        }
    }

    fn heal_nodes(&mut self) {
        self.fixture.cluster.mesh().heal();
        for id in 1..=3 {
            if self.fixture.cluster.node_mut(id).runs() {
                self.fixture.cluster.node(id).resume();
            } else {
                self.fixture.cluster.node_mut(id).start();
            }
        }
    }

    fn heal(&mut self) {
        self.heal_nodes();
        self.fixture.gates.iter().for_each(super::gate::Gate::heal);
        self.restart_servers();
    }

    fn restart_servers(&mut self) {
        for server in &mut self.fixture.cluster.servers {
            if server.runs() {
                server.limit_files(None);
                server.resume();
            } else {
                server.launch_again();
            }
        }
    }

    fn resume_migration(&self) {
        let Some(id) = self.migration else { return };
        let id_text = id.to_string();
        let paused = |m: &Value| m["id"] == id && m["state"] == "paused";
        if self
            .fixture
            .json(&["migrate", "ls"])
            .is_some_and(|all| all.as_array().is_some_and(|all| all.iter().any(paused)))
        {
            let _ = self.fixture.any_cli(&["migrate", "resume", &id_text]);
        }
    }

    #[track_caller]
    fn wait_migrated(&self, case: &Case) {
        let Some(id) = self.migration else { return };
        wait_for("the migration to be done", MIGRATED_WITHIN, || {
            self.resume_migration();
            let all = self.fixture.json(&["migrate", "ls"]).ok_or("no node answers")?;
            let mine = all.as_array().and_then(|all| all.iter().find(|m| m["id"] == id)).cloned();
            if mine.as_ref().is_some_and(|m| m["state"] == "done") {
                Ok(())
            } else {
                Err(format!("{case:?}: {mine:?}"))
            }
        });
    }
}
