//! One run of the promotion matrix: a group under a mix of workloads, its primary hit or replaced, something else hit in the
//! middle, everything healed; then the group has to be well, and the checkers content.
//! Knows nothing of which runs are made: tests/failover_faults.rs and `make chaos` choose.

mod bed;
mod fault;
mod watch;

use std::time::{Duration, Instant};

use pontoon::faults::Point;
use serde_json::Value;

use self::bed::{Bed, DOWN_AFTER};
pub use self::fault::{BEFORE, Before, Case, Expected, POINTS, SECONDS, Second, TRIGGERS, Trigger};
use crate::{
    callers::Caller,
    client::Reply,
    link::Mode,
    wait::{GENEROUS, let_pass, wait_for},
    workload::{Mix, Noticed},
};

/// Longer than a lease (3 s) and the leader's allowance for clocks.
const LONGER_THAN_A_LEASE: Duration = Duration::from_millis(3_500);
/// How long something lasts that is short.
const A_WHILE: Duration = Duration::from_millis(700);
/// How long a replica gets nothing, or executes a command.
const LAG: Duration = Duration::from_millis(1_000);
/// What a slow replica gets is so late.
const SLOW: Duration = Duration::from_millis(150);
/// A failover that is hit in its middle: a hold or two, a lease, an election, some back-off more.
const PROMOTED_WITHIN: Duration = Duration::from_secs(60);
/// A migration that has to begin anew behind a promotion.
const MIGRATED_WITHIN: Duration = Duration::from_secs(90);
/// Slots that a migration takes from the group, or brings to it.
const FROM_IT: &str = "0-255";
const TO_IT: &str = "768-1023";
/// What fits on the full disk of a replica beside what is there: the next write does not.
const ROOM: u64 = 0;

/// A run.
struct Run {
    bed: Bed,
    random: fastrand::Rng,
    /// The node that still reaches a primary that is cut from some.
    reaches: u16,
    migration: Option<u64>,
    /// The additional lag of a replica that the harness delays.
    lag: Duration,
}

/// Runs a case.
///
/// # Panics
/// When the group does not heal, another primary is there than has to be, or a checker objects.
#[track_caller]
pub fn run(case: &Case) {
    // Dropped by the panic, not before it: what it worked with then keeps and shows its logs.
    let (_run, found) = play(case);
    match found {
        Ok(noticed) => eprintln!("{} answers, {} acknowledged elements lost", noticed.answered, noticed.lost),
        Err(wrong) => panic!("{case:?}: what must never be seen:\n{}", wrong.join("\n")),
    }
}

/// The same, with the checkers' objections as a value: for the runs that leave out a rule.
///
/// # Errors
/// What was seen that must not be.
///
/// # Panics
/// When the group does not heal.
#[track_caller]
pub fn verdict(case: &Case) -> Result<Noticed, Vec<String>> {
    play(case).1
}

#[track_caller]
fn play(case: &Case) -> (Run, Result<Noticed, Vec<String>>) {
    let mut run = Run::prepare(case);
    let ports: Vec<u16> = run.bed.cluster.nodes.iter().map(|n| n.client_port).collect();
    let mix = Mix::start(&ports, run.random.usize(500..1_500));
    mix.wait_more(100);
    run.wait_replicated();
    run.before(case);
    if let Some((point, _)) = case.hit {
        run.bed.cluster.pause_at(point);
    }
    run.trigger(case);
    run.let_migration_go(case);
    if let Some((point, second)) = case.hit {
        run.wait_reached(point);
        run.second(case, point, second);
        run.bed.cluster.go_on(point);
    }
    run.come_to_an_end(case);
    run.heal();
    run.bed.wait_well();
    run.wait_migrated(case);
    mix.wait_more(200);
    let (losses, mut wrong) = match case.min_acks {
        0 => run.bed.losses(run.lag),
        _ => Default::default(),
    };
    run.bed.wait_well();
    let quiet = case.trigger == Trigger::Switchover && case.before == Before::Nothing && case.hit.is_none();
    let found = match mix.verdict_after(&run.bed.cluster, &losses) {
        Ok(noticed) if wrong.is_empty() => match noticed.errors.first() {
            Some((port, error)) if quiet => Err(vec![format!("a switchover showed a client of port {port}: {error}")]),
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
        // Where writes have to be confirmed, each group needs somebody who confirms.
        let of_second = usize::from(case.trigger == Trigger::TwoGroups || case.min_acks > 0);
        let bed = Bed::prepare([case.replicas, of_second], case.min_acks, &case.without);
        Self { bed, random: fastrand::Rng::with_seed(case.seed), reaches: 1, migration: None, lag: Duration::ZERO }
    }

    fn primary(&self) -> usize {
        self.bed.groups[0][0]
    }

    /// The one that a fault before hits.
    fn last_replica(&self) -> usize {
        self.bed.groups[0][self.bed.groups[0].len() - 1]
    }

    /// The keys that nobody touches any more are everywhere: none of them may be lost.
    #[track_caller]
    fn wait_replicated(&self) {
        for group in &self.bed.groups {
            let replicas = (group.len() - 1).to_string();
            wait_for("everything to be replicated", GENEROUS, || {
                let mut client = self.bed.cluster.servers[group[0]].client();
                // A WAIT on a connection that has written nothing answers at once.
                let asked =
                    client.call(&["PUBLISH", "harness", "x"]).and_then(|_| client.call(&["WAIT", &replicas, "1000"]));
                match asked {
                    Ok(Reply::Integer(n)) if n.to_string() == replicas => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        }
    }

    fn before(&mut self, case: &Case) {
        let (primary, last) = (self.primary(), self.last_replica());
        match case.before {
            Before::Nothing => {}
            Before::Lag => {
                self.lag = LAG;
                self.bed.gates[primary].set(Caller::Server(last), Mode::HalfOpen);
                let_pass(LAG);
            }
            Before::Slow => {
                self.lag = SLOW * 10;
                self.bed.gates[primary].set(Caller::Server(last), Mode::Delay(SLOW));
                let_pass(LAG);
            }
            Before::Busy => {
                self.lag = LAG;
                let mut client = self.bed.cluster.servers[last].client();
                client.send(&crate::client::request(&["DEBUG", "SLEEP", "1"])).expect("the replica takes a command");
            }
            Before::DiskFull => {
                self.bed.cluster.servers[last].limit_files(Some(ROOM));
                let_pass(LAG);
            }
            Before::OutOfReach => {
                let leader = self.bed.cluster.leader();
                self.bed.gates[last].set(Caller::Node(leader), Mode::Silent);
            }
            Before::MigrationFrom(point) => self.start_migration(point, FROM_IT, "2"),
            Before::MigrationTo(point) => self.start_migration(point, TO_IT, "1"),
        }
    }

    fn start_migration(&mut self, point: Point, slots: &str, to: &str) {
        self.bed.cluster.pause_at(point);
        let id = wait_for("the migration to be taken", GENEROUS, || {
            let said = self.bed.any_cli(&["migrate", "start", slots, "--to", to, "--hold-max", "1s"]);
            let all = self.bed.json(&["migrate", "ls"]);
            all.as_ref().and_then(|all| all[0]["id"].as_u64()).ok_or_else(|| format!("{said:?} {all:?}"))
        });
        self.migration = Some(id);
        self.wait_reached(point);
    }

    /// A promotion that a migration's hold keeps from beginning is not waited for with that migration held.
    fn let_migration_go(&self, case: &Case) {
        let (Before::MigrationFrom(point) | Before::MigrationTo(point)) = case.before else { return };
        let_pass(A_WHILE);
        self.bed.cluster.go_on(point);
    }

    #[track_caller]
    fn wait_reached(&self, point: Point) {
        wait_for(&format!("a node to reach {}", point.name()), PROMOTED_WITHIN, || {
            if self.bed.cluster.stands_at(point).is_some() {
                return Ok(());
            }
            self.resume_migration();
            Err(self.shown())
        });
    }

    fn shown(&self) -> String {
        let of = |args: &[&str]| self.bed.json(args).map(|v| v.to_string()).unwrap_or_default();
        format!("{}\n{}\n{}", of(&["group", "show", "1"]), of(&["migrate", "ls"]), of(&["events"]))
    }

    fn trigger(&mut self, case: &Case) {
        let primary = self.primary();
        match case.trigger {
            Trigger::Switchover => self.promote(self.bed.groups[0][1]),
            Trigger::Kill => self.bed.cluster.servers[primary].kill9(),
            Trigger::Stop => self.bed.cluster.servers[primary].pause(),
            Trigger::StopBriefly => {
                self.bed.cluster.servers[primary].pause();
                let_pass(DOWN_AFTER / 2);
                self.bed.cluster.servers[primary].resume();
            }
            Trigger::CutFromAll => {
                let all = (1..=3).map(Caller::Node).chain((0..self.bed.gates.len()).map(Caller::Server));
                all.for_each(|caller| self.bed.gates[primary].set(caller, Mode::Silent));
            }
            Trigger::CutFromSome => {
                // Not the leader, so that it can be cut from its peers, too.
                self.reaches = self.bed.cluster.follower();
                (1..=3).filter(|id| *id != self.reaches).for_each(|id| self.cut(id, Mode::Silent));
            }
            Trigger::CutFromOne => {
                let one = self.random.u16(1..4);
                self.cut(one, Mode::Silent);
                let_pass(DOWN_AFTER * 3);
            }
            Trigger::NotHeard => (1..=3).for_each(|id| self.cut(id, Mode::HalfOpen)),
            Trigger::Deaf => (1..=3).for_each(|id| self.cut(id, Mode::Unheard)),
            Trigger::Flap => {
                for _ in 0..4 {
                    self.bed.cluster.servers[primary].kill9();
                    let_pass(DOWN_AFTER.mul_f64(self.random.f64() / 2.0));
                    self.bed.cluster.servers[primary].start_again();
                    let_pass(DOWN_AFTER / 2);
                }
            }
            Trigger::BothPrimaryFirst | Trigger::BothReplicaFirst => {
                let group = self.bed.groups[0].clone();
                group.iter().rev().for_each(|server| self.bed.cluster.servers[*server].kill9());
                let_pass(DOWN_AFTER * 2);
                let mut order = group;
                if case.trigger == Trigger::BothReplicaFirst {
                    order.reverse();
                }
                for server in order {
                    self.bed.cluster.servers[server].start_again();
                    let_pass(DOWN_AFTER * 2);
                }
            }
            Trigger::TwoGroups => {
                let other = self.bed.groups[1][0];
                self.bed.cluster.servers[primary].kill9();
                self.bed.cluster.servers[other].kill9();
            }
        }
    }

    fn cut(&self, node: u16, mode: Mode) {
        self.bed.gates[self.primary()].set(Caller::Node(node), mode);
    }

    /// An operator asks until it is taken: while a migration switches, a replica lags or the leader does not reach it, it is
    /// refused, with the reason.
    #[track_caller]
    fn promote(&self, to: usize) {
        let addr = self.bed.gates[to].addr();
        wait_for("the promotion to be taken", PROMOTED_WITHIN, || {
            self.bed.any_cli(&["group", "promote", "1", &addr]).inspect_err(|_| {
                // Whoever stands at a migration's hold keeps it from being taken.
                for node in &self.bed.cluster.nodes {
                    [Point::Held, Point::Finished].iter().for_each(|point| node.faults.go_on(*point));
                }
                // A leader hands over for a primary that is dead, not for one that can wait until the replica is reached.
                (1..=3).for_each(|id| self.bed.gates[to].set(Caller::Node(id), Mode::Open));
            })
        });
    }

    fn second(&mut self, case: &Case, point: Point, second: Second) {
        let leader = self.bed.cluster.leader();
        let others: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
        let other = match case.trigger {
            Trigger::CutFromSome => self.reaches,
            _ => others[self.random.usize(0..others.len())],
        };
        let chosen = self.bed.chosen().unwrap_or(self.bed.groups[0][1]);
        let lasts = match second {
            Second::Nothing => A_WHILE,
            Second::KillLeader => {
                self.bed.cluster.node_mut(leader).kill9();
                A_WHILE
            }
            Second::StopLeader => {
                self.bed.cluster.node(leader).pause();
                LONGER_THAN_A_LEASE
            }
            Second::CutLeader => {
                self.bed.cluster.mesh().isolate(leader);
                LONGER_THAN_A_LEASE
            }
            Second::LeaderLeaves => {
                self.bed.cluster.go_on(point);
                let _ = self.bed.cluster.node_mut(leader).terminate(GENEROUS);
                Duration::ZERO
            }
            Second::KillOther => {
                self.bed.cluster.node_mut(other).kill9();
                A_WHILE
            }
            Second::CutOther => {
                self.bed.cluster.mesh().isolate(other);
                // What it does while it knows nothing is what this is for.
                self.bed.cluster.go_on(point);
                A_WHILE * 3
            }
            Second::KillChosen => {
                self.bed.cluster.servers[chosen].kill9();
                A_WHILE
            }
            Second::StopChosen => {
                self.bed.cluster.servers[chosen].pause();
                DOWN_AFTER * 2
            }
            Second::ResetChosen => {
                (1..=3).for_each(|id| self.bed.gates[chosen].set(Caller::Node(id), Mode::Cut));
                A_WHILE
            }
            Second::PrimaryBack => {
                self.bring_servers_back();
                DOWN_AFTER
            }
        };
        let_pass(lasts);
    }

    /// Until there is another primary, if there has to be; else for a while.
    #[track_caller]
    fn come_to_an_end(&mut self, case: &Case) {
        let interfered = case.hit.is_some_and(|(_, second)| second != Second::Nothing);
        if interfered {
            // Everything but the primary is healed: now it can go on.
            self.heal_nodes();
            let chosen: Vec<usize> = self.bed.groups[0][1..].to_vec();
            for server in chosen {
                self.bed.cluster.servers[server].resume();
                (1..=3).for_each(|id| self.bed.gates[server].set(Caller::Node(id), Mode::Open));
                if !self.bed.cluster.servers[server].runs() {
                    self.bed.cluster.servers[server].start_again();
                }
            }
        }
        match case.expected() {
            Expected::Promoted => {
                let groups = if case.trigger == Trigger::TwoGroups { 2 } else { 1 };
                for gid in 1..=groups {
                    wait_for(&format!("group {gid} to have another primary"), PROMOTED_WITHIN, || {
                        self.resume_migration();
                        if self.bed.promoted(gid) > 0 {
                            return Ok(());
                        }
                        if case.trigger == Trigger::Switchover
                            && self.bed.group(1).is_some_and(|(_, open)| open.is_none())
                        {
                            // It was given up, and says why: the operator tries again.
                            let _ = self.bed.any_cli(&[
                                "group",
                                "promote",
                                "1",
                                &self.bed.gates[self.bed.groups[0][1]].addr(),
                            ]);
                        }
                        Err(self.shown())
                    });
                }
            }
            Expected::Stays => {
                let_pass(DOWN_AFTER);
                assert_eq!(self.bed.promoted(1), 0, "the primary was replaced: {}", self.shown());
            }
            Expected::Either => {
                let until = Instant::now() + DOWN_AFTER * 4;
                while self.bed.promoted(1) == 0 && Instant::now() < until {
                    let_pass(DOWN_AFTER / 4);
                }
            }
        }
    }

    fn heal_nodes(&mut self) {
        self.bed.cluster.mesh().heal();
        for id in 1..=3 {
            if self.bed.cluster.node_mut(id).runs() {
                self.bed.cluster.node(id).resume();
            } else {
                self.bed.cluster.node_mut(id).start();
            }
        }
    }

    fn heal(&mut self) {
        self.heal_nodes();
        self.bed.gates.iter().for_each(super::gate::Gate::heal);
        self.bring_servers_back();
    }

    fn bring_servers_back(&mut self) {
        for server in &mut self.bed.cluster.servers {
            if server.runs() {
                server.limit_files(None);
                server.resume();
            } else {
                server.start_again();
            }
        }
    }

    fn resume_migration(&self) {
        let Some(id) = self.migration else { return };
        let id_text = id.to_string();
        let paused = |m: &Value| m["id"] == id && m["state"] == "paused";
        if self.bed.json(&["migrate", "ls"]).is_some_and(|all| all.as_array().is_some_and(|all| all.iter().any(paused)))
        {
            let _ = self.bed.any_cli(&["migrate", "resume", &id_text]);
        }
    }

    #[track_caller]
    fn wait_migrated(&self, case: &Case) {
        let Some(id) = self.migration else { return };
        wait_for("the migration to be done", MIGRATED_WITHIN, || {
            self.resume_migration();
            let all = self.bed.json(&["migrate", "ls"]).ok_or("no node answers")?;
            let mine = all.as_array().and_then(|all| all.iter().find(|m| m["id"] == id)).cloned();
            if mine.as_ref().is_some_and(|m| m["state"] == "done") {
                Ok(())
            } else {
                Err(format!("{case:?}: {mine:?}"))
            }
        });
    }
}
