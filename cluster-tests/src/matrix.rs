//! One run of the fault matrix: a migration under a mix of workloads, stopped at a point, hit by a fault there, healed;
//! then it has to end, and the checkers have to be content.
//! Knows nothing of which pairs are run: tests/migration_faults.rs and `make chaos` choose.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use pontoon::faults::{Point, Rule};
use serde_json::Value;

use crate::{
    client::Reply,
    cluster::Cluster,
    link::{Link, Mode},
    redis::RedisOptions,
    wait::{GENEROUS, let_pass, wait_for},
    workload::{Mix, Noticed},
};

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the point is only passed slowly.
    None,
    /// kill -9 of the leader, started again later.
    KillLeader,
    /// kill -9 of the node whose mover copies.
    KillWorker,
    /// kill -9 of a node that is neither, if there is one.
    KillOther,
    /// SIGSTOP for longer than a lease.
    StopLeader,
    /// The same.
    StopWorker,
    /// The same.
    StopOther,
    /// SIGTERM of the leader: it transfers the leadership.
    LeaderLeaves,
    /// The leader is cut from both others, in both directions.
    CutLeader,
    /// Nothing that the leader says reaches the others.
    DeafenFromLeader,
    /// The mover's node is cut from the others, and still reaches servers and clients.
    CutWorker,
    /// kill -9 of the source's primary, which has everything in its append-only file; started again.
    KillSource,
    /// The same of the target's.
    KillTarget,
    /// SIGSTOP of the source's primary for longer than a lease.
    StopSource,
    /// The same of the target's.
    StopTarget,
    /// kill -9 of the replica that may serve the feed; started again.
    KillReplica,
    /// Connections to the source are reset.
    ResetSource,
    /// Connections to the target are reset.
    ResetTarget,
    /// Answers of the target do not come back for a while.
    HalfOpenTarget,
    /// The target has no memory left for a while.
    TargetFull,
    /// The target is made read-only for a while (replica of nobody who answers).
    TargetReadOnly,
    /// The server closes the feed, as it does when its output buffer is full.
    KillFeed,
    /// Someone empties the target.
    FlushTarget,
    /// The operator cancels it, and starts it again when it is cancelled.
    Cancel,
    /// The operator pauses it and lets it go on.
    Pause,
    /// The source rewrites its append-only file.
    Rewrite,
    /// A node that is neither is cut from the others for less than a lease, and still reaches servers and clients.
    CutOther,
    /// Nothing passes between the target and anybody for longer than a session's time to live.
    SilentTarget,
    /// The mover's requests to the target arrive twenty seconds late; its node is killed meanwhile.
    LateWrites,
}

/// All faults, for choosing one by chance.
pub const FAULTS: &[Fault] = &[
    Fault::None,
    Fault::KillLeader,
    Fault::KillWorker,
    Fault::KillOther,
    Fault::StopLeader,
    Fault::StopWorker,
    Fault::StopOther,
    Fault::LeaderLeaves,
    Fault::CutLeader,
    Fault::DeafenFromLeader,
    Fault::CutWorker,
    Fault::KillSource,
    Fault::KillTarget,
    Fault::StopSource,
    Fault::StopTarget,
    Fault::KillReplica,
    Fault::ResetSource,
    Fault::ResetTarget,
    Fault::HalfOpenTarget,
    Fault::TargetFull,
    Fault::TargetReadOnly,
    Fault::KillFeed,
    Fault::FlushTarget,
    Fault::Cancel,
    Fault::Pause,
    Fault::Rewrite,
    Fault::CutOther,
    Fault::SilentTarget,
    Fault::LateWrites,
];

/// All points, in the order of a migration.
pub const POINTS: &[Point] = &[
    Point::CleaningTarget,
    Point::Copying,
    Point::BeforeHold,
    Point::Held,
    Point::BeforeAck,
    Point::BarrierPassed,
    Point::Finished,
    Point::BeforeSwitch,
    Point::Switched,
    Point::CleaningSource,
];

/// One run.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where it happens.
    pub point: Point,
    /// What.
    pub fault: Fault,
    /// The source has a replica, which then serves feed and copy.
    pub replica: bool,
    /// Chooses which nodes are followers to be hit, and how many keys there are.
    pub seed: u64,
    /// Rules that every node leaves out.
    pub without: Vec<Rule>,
}

/// Longer than a lease (3 s) and the leader's allowance for clocks.
const LONGER_THAN_A_LEASE: Duration = Duration::from_millis(3_500);
/// How long a fault of a server or a link lasts: longer than a hold, shorter than a test.
const A_WHILE: Duration = Duration::from_millis(700);
/// A stop of the leader that is longer may be seen by clients of every node: their requests wait for five seconds at most, and
/// some of that goes into reaching the point and into the release.
const STOPPED_MAX: Duration = Duration::from_millis(4_000);
/// How late writes come: after a lease, a new attempt and a switch.
const LATE: Duration = Duration::from_secs(20);
/// A migration of a few thousand keys takes a second; with a fault in it, a lease, an election and some back-off more.
const ENDS_WITHIN: Duration = Duration::from_secs(90);
/// The groups: 1 has all slots and gives half of them to 2.
const MOVING: &str = "0-511";

/// What a run works with.
struct Run {
    cluster: Cluster,
    source: usize,
    target: usize,
    replica: Option<usize>,
    to_source: Link,
    to_target: Link,
    random: fastrand::Rng,
    /// Nodes whose clients may see errors.
    hit: BTreeSet<u16>,
    /// Clients of every node may see errors: a server was hit.
    all_hit: bool,
    /// When the last late byte arrives.
    late: Option<Instant>,
}

/// Runs a case.
///
/// # Panics
/// When the migration does not end, when a client sees an error that the fault does not explain, or a checker objects.
#[track_caller]
pub fn run(case: &Case) {
    // Dropped by the panic, not before it: what it worked with then keeps and shows its logs.
    let (_run, found) = play(case);
    match found {
        Ok(_) => {}
        Err(wrong) => panic!("{case:?}: what must never be seen:\n{}", wrong.join("\n")),
    }
}

/// The same, with the checkers' objections as a value: for the runs that leave out a rule.
///
/// # Errors
/// What was seen that must not be.
///
/// # Panics
/// When the migration does not end.
#[track_caller]
pub fn verdict(case: &Case) -> Result<Noticed, Vec<String>> {
    play(case).1
}

#[track_caller]
fn play(case: &Case) -> (Run, Result<Noticed, Vec<String>>) {
    let mut run = Run::prepare(case);
    let ports: Vec<u16> = run.cluster.nodes.iter().map(|n| n.client_port).collect();
    let mix = Mix::start(&ports, run.random.usize(1_500..4_000));
    mix.wait_more(100);
    run.stop_at(case.point);
    let mut id = run.start_migration();
    run.wait_reached(case.point);
    let reached = Instant::now();
    run.inject(case, &mut id);
    run.cluster.go_on(case.point);
    // It is this harness that kept the leader from releasing its hold: beyond the request deadline every client notices.
    run.all_hit |= reached.elapsed() > STOPPED_MAX;
    run.heal(case);
    run.wait_done(id);
    if let Some(late) = run.late {
        assert!(Instant::now() < late, "the migration took longer than the late writes");
        let_pass(late.saturating_duration_since(Instant::now()) + A_WHILE);
    }
    mix.wait_more(200);
    let found = judge(&run, mix, case);
    (run, found)
}

fn judge(run: &Run, mix: Mix, case: &Case) -> Result<Noticed, Vec<String>> {
    let noticed = mix.verdict(&run.cluster).map_err(|mut wrong| {
        wrong.extend(run.events());
        wrong
    })?;
    let unexplained: Vec<String> = noticed
        .errors
        .iter()
        .filter(|(_, error)| !(within_hold(case.point) && error.contains("held for too long")))
        .filter(|(port, _)| !run.all_hit && !run.hit.iter().any(|id| run.cluster.node(*id).client_port == *port))
        .map(|(port, error)| format!("a client of port {port}, which was not hit, saw: {error}"))
        .collect();
    if unexplained.is_empty() { Ok(noticed) } else { Err(unexplained) }
}

/// Whether clients wait while a node pauses at the point. A test may make them wait longer than the product does.
fn within_hold(point: Point) -> bool {
    match point {
        Point::Held | Point::BeforeAck | Point::BarrierPassed | Point::Finished | Point::BeforeSwitch => true,
        Point::CleaningTarget | Point::Copying | Point::BeforeHold | Point::Switched | Point::CleaningSource => false,
        // Of promotions, which these cells have none of.
        Point::PromotionBegun
        | Point::PromotionHeld
        | Point::PromotionBarrier
        | Point::PromotionSent
        | Point::Promoted
        | Point::Reconciliation
        | Point::Returning => false,
    }
}

impl Run {
    fn prepare(case: &Case) -> Self {
        let mut cluster = Cluster::prepared_with_mesh(3);
        for node in &cluster.nodes {
            case.without.iter().for_each(|rule| node.faults.without(*rule));
        }
        cluster.start_all();
        let keeps = RedisOptions {
            more: ["--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "yes"]
                .map(str::to_owned)
                .to_vec(),
            ..RedisOptions::default()
        };
        let (source, target) = (cluster.add_server(&keeps), cluster.add_server(&keeps));
        let to_source = Link::start(cluster.ports.server(20), cluster.servers[source].port);
        let to_target = Link::start(cluster.ports.server(21), cluster.servers[target].port);
        let cli = cluster.cli();
        let replica = case.replica.then(|| {
            let primary = Some(to_source.port);
            cluster.add_server(&RedisOptions { primary, ..RedisOptions::default() })
        });
        let mut create = vec!["group", "create", "1", "--primary"];
        let (source_addr, target_addr) = (to_source.addr(), to_target.addr());
        create.push(&source_addr);
        let replica_addr = replica.map(|r| cluster.servers[r].addr());
        if let Some(addr) = &replica_addr {
            create.extend(["--replica", addr]);
        }
        cli.ok(&create);
        cli.ok(&["group", "create", "2", "--primary", &target_addr]);
        // Failovers have a matrix of their own (`promotions`), with checkers that know of writes that are not replicated.
        cli.ok(&["group", "set", "1", "down-after=60s"]);
        cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
        (1..=3).for_each(|id| cluster.wait_answers(id));
        let random = fastrand::Rng::with_seed(case.seed);
        let hit = BTreeSet::new();
        Self { cluster, source, target, replica, to_source, to_target, random, hit, all_hit: false, late: None }
    }

    /// All nodes stop at the point; at `BeforeAck` one of them.
    fn stop_at(&mut self, point: Point) {
        if point == Point::BeforeAck {
            let leader = self.cluster.leader();
            let followers: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
            let one = followers[self.random.usize(0..followers.len())];
            // Its heartbeats stand still, too.
            self.hit.insert(one);
            self.cluster.node(one).faults.pause_at(point);
        } else {
            self.cluster.pause_at(point);
        }
    }

    fn start_migration(&self) -> u64 {
        wait_for("the migration to be taken", GENEROUS, || {
            // A machine that does much else needs longer for a hold than the default; how long one takes is for the benchmark.
            let start = ["migrate", "start", MOVING, "--to", "2", "--hold-max", "1s", "--timeout", "10s"];
            let ran = self.cluster.cli().run(&start);
            match self.open() {
                Some(open) => Ok(open["id"].as_u64().unwrap_or(0)),
                None => Err(ran.err),
            }
        })
    }

    /// Through whichever node answers.
    fn migrations(&self) -> Option<Vec<Value>> {
        let list = |n: &crate::node::Node| n.cli().try_json(&["migrate", "ls", "--timeout", "2s"]).ok();
        let all = self.cluster.nodes.iter().find_map(list)?;
        all.as_array().cloned()
    }

    /// The cluster's automatic and requested actions, for the message of a run that fails.
    fn events(&self) -> Option<String> {
        self.cluster.nodes.iter().find_map(|n| n.cli().try_json(&["events"]).ok()).map(|all| all.to_string())
    }

    fn open(&self) -> Option<Value> {
        self.migrations()?.into_iter().find(|m| m["state"] != "done" && m["state"] != "cancelled")
    }

    fn migration(&self, id: u64) -> Option<Value> {
        self.migrations()?.into_iter().find(|m| m["id"] == id)
    }

    /// Until somebody stands at the point.
    #[track_caller]
    fn wait_reached(&self, point: Point) {
        wait_for(&format!("a node to reach {}", point.name()), ENDS_WITHIN, || {
            if self.cluster.stands_at(point).is_some() {
                return Ok(());
            }
            let open = self.open();
            if let Some(paused) = open.as_ref().filter(|m| m["state"] == "paused") {
                self.any_cli(&["migrate", "resume", &paused["id"].to_string()]);
            }
            Err(format!("{open:?}"))
        });
    }

    fn worker(&self, id: u64) -> u16 {
        let worker = self.migration(id).and_then(|m| m["worker"].as_u64()).unwrap_or(0);
        u16::try_from(worker).ok().filter(|id| (1..=3).contains(id)).unwrap_or(1)
    }

    fn other(&self, id: u64) -> u16 {
        let (leader, worker) = (self.cluster.leader(), self.worker(id));
        (1..=3).find(|n| *n != leader && *n != worker).unwrap_or(1)
    }

    fn inject(&mut self, case: &Case, id: &mut u64) {
        let leader = self.cluster.leader();
        match case.fault {
            Fault::None => let_pass(A_WHILE),
            Fault::KillLeader => self.kill(leader),
            Fault::KillWorker => self.kill(self.worker(*id)),
            Fault::KillOther => self.kill(self.other(*id)),
            Fault::StopLeader => self.pause(leader),
            Fault::StopWorker => self.pause(self.worker(*id)),
            Fault::StopOther => self.pause(self.other(*id)),
            Fault::LeaderLeaves => {
                self.hit.insert(leader);
                let _ = self.cluster.node_mut(leader).terminate(GENEROUS);
            }
            Fault::CutLeader => self.cut(leader, false),
            Fault::DeafenFromLeader => self.cut(leader, true),
            Fault::CutWorker => self.cut(self.worker(*id), false),
            Fault::KillSource => {
                self.all_hit = true;
                self.cluster.servers[self.source].kill9();
            }
            Fault::KillTarget => {
                self.all_hit = true;
                self.cluster.servers[self.target].kill9();
            }
            Fault::StopSource => {
                self.all_hit = true;
                self.cluster.servers[self.source].pause();
            }
            Fault::StopTarget => {
                self.all_hit = true;
                self.cluster.servers[self.target].pause();
            }
            Fault::KillReplica => {
                if let Some(replica) = self.replica {
                    self.cluster.servers[replica].kill9();
                }
            }
            Fault::ResetSource => {
                self.all_hit = true;
                self.to_source.set(Mode::Cut);
            }
            Fault::ResetTarget => {
                self.all_hit = true;
                self.to_target.set(Mode::Cut);
            }
            Fault::HalfOpenTarget => {
                self.all_hit = true;
                self.to_target.set(Mode::HalfOpen);
            }
            Fault::TargetFull => {
                self.all_hit = true;
                let _ = self.cluster.servers[self.target].call(&["CONFIG", "SET", "maxmemory", "1mb"]);
            }
            Fault::TargetReadOnly => {
                self.all_hit = true;
                let _ = self.cluster.servers[self.target].call(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
            }
            Fault::KillFeed => {
                let server = self.replica.unwrap_or(self.source);
                let _ = self.cluster.servers[server].call(&["CLIENT", "KILL", "TYPE", "replica"]);
            }
            Fault::FlushTarget => {
                // Behind the switch the target's data is the data.
                if !matches!(case.point, Point::Switched | Point::CleaningSource) {
                    let _ = self.cluster.servers[self.target].call(&["FLUSHALL"]);
                }
            }
            Fault::Cancel => self.cancel(case, id),
            Fault::Pause => {
                let text = id.to_string();
                let paused = self.any_cli(&["migrate", "pause", &text]);
                let_pass(A_WHILE);
                if paused {
                    self.any_cli(&["migrate", "resume", &text]);
                }
            }
            Fault::CutOther => {
                self.cut(self.other(*id), false);
                self.cluster.go_on(case.point);
            }
            Fault::SilentTarget => {
                self.all_hit = true;
                self.to_target.set(Mode::Silent);
            }
            Fault::LateWrites => {
                // Behind the switch clients use this link, too.
                self.all_hit |= matches!(
                    case.point,
                    Point::Finished | Point::BeforeSwitch | Point::Switched | Point::CleaningSource
                );
                let worker = self.worker(*id);
                // Clients use the target, too, from the switch on.
                self.all_hit = !matches!(case.point, Point::CleaningTarget | Point::Copying);
                self.to_target.set(Mode::Delay(LATE));
                self.cluster.go_on(case.point);
                let_pass(A_WHILE);
                // What is on its way is late; what is sent from now on is not.
                self.to_target.set(Mode::Open);
                self.kill(worker);
                self.late = Some(Instant::now() + LATE);
            }
            Fault::Rewrite => {
                let _ = self.cluster.servers[self.source].call(&["BGREWRITEAOF"]);
            }
        }
        let lasts = match case.fault {
            Fault::StopLeader
            | Fault::StopWorker
            | Fault::StopOther
            | Fault::StopSource
            | Fault::StopTarget
            | Fault::SilentTarget
            | Fault::CutLeader
            | Fault::DeafenFromLeader
            | Fault::CutWorker => LONGER_THAN_A_LEASE,
            // Shorter than a lease: it serves all the time.
            Fault::CutOther => A_WHILE * 2,
            _ => A_WHILE,
        };
        let_pass(lasts);
    }

    fn heal(&mut self, case: &Case) {
        self.cluster.mesh().heal();
        self.to_source.set(Mode::Open);
        self.to_target.set(Mode::Open);
        for id in 1..=3 {
            if self.cluster.node_mut(id).runs() {
                self.cluster.node(id).resume();
            } else {
                self.cluster.node_mut(id).start();
            }
        }
        match case.fault {
            Fault::KillSource => self.cluster.servers[self.source].restart(),
            Fault::KillTarget => self.cluster.servers[self.target].restart(),
            Fault::StopSource => self.cluster.servers[self.source].resume(),
            Fault::StopTarget => self.cluster.servers[self.target].resume(),
            Fault::KillReplica => {
                if let Some(replica) = self.replica {
                    self.cluster.servers[replica].restart();
                }
            }
            Fault::TargetFull => {
                let _ = self.cluster.servers[self.target].call(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::TargetReadOnly => {
                let _ = self.cluster.servers[self.target].call(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
            }
            _ => {}
        }
    }

    /// Cancelled from any state before Switch; behind it the cancel is refused. A cancelled one is started again.
    fn cancel(&self, case: &Case, id: &mut u64) {
        if !self.any_cli(&["migrate", "cancel", &id.to_string()]) {
            return;
        }
        self.cluster.go_on(case.point);
        let cancelled = *id;
        wait_for("the migration to be cancelled", ENDS_WITHIN, || match self.migration(cancelled) {
            Some(m) if m["state"] == "cancelled" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let left = self.cluster.servers[self.target].call(&["DBSIZE"]);
        assert_eq!(left, Reply::Integer(0), "a cancelled migration has left keys at the target");
        *id = self.start_migration();
    }

    /// Runs a command through whichever node takes it.
    fn any_cli(&self, args: &[&str]) -> bool {
        self.cluster.nodes.iter().any(|n| n.cli().run(&[args, &["--timeout", "5s"]].concat()).code == 0)
    }

    fn kill(&mut self, id: u16) {
        self.hit.insert(id);
        self.cluster.node_mut(id).kill9();
    }

    fn pause(&mut self, id: u16) {
        self.hit.insert(id);
        self.cluster.node(id).pause();
    }

    fn cut(&mut self, id: u16, one_way: bool) {
        self.hit.insert(id);
        for other in (1..=3).filter(|other| *other != id) {
            if one_way {
                self.cluster.mesh().cut_one_way(id, other);
            } else {
                self.cluster.mesh().cut(id, other);
            }
        }
    }

    /// Waits for Done. A migration that has paused says why, and an operator lets it go on.
    #[track_caller]
    fn wait_done(&self, id: u64) {
        wait_for("the migration to be done", ENDS_WITHIN, || {
            let now = self.migration(id).ok_or("no node answers")?;
            match now["state"].as_str() {
                Some("done") => Ok(()),
                Some("paused") => {
                    self.any_cli(&["migrate", "resume", &id.to_string()]);
                    Err(format!("it was paused: {now}"))
                }
                _ => Err(now.to_string()),
            }
        });
    }
}
