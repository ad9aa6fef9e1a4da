//! One case of the fault matrix of migrations. A migration runs under all workloads and pauses at a fault point. A
//! fault is injected there and healed later. Then the migration must end, and no checker may find a violation. The
//! cases are chosen by tests/migration_faults.rs and `make chaos`.

mod fault;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use pontoon::faults::{Point, Rule};
use serde_json::Value;

use crate::{
    cluster::Cluster,
    link::Link,
    redis::RedisOptions,
    wait::{GENEROUS, let_pass, wait_for},
    workload::{Mix, Noticed},
};
use fault::A_WHILE;
pub use fault::{FAULTS, Fault};

/// All fault points, in the order of a migration.
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

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The point at which the fault is injected.
    pub point: Point,
    /// The fault.
    pub fault: Fault,
    /// Whether the source has a replica, which then serves feed and values.
    pub replica: bool,
    /// Determines the number of keys, and which follower pauses.
    pub seed: u64,
    /// The rules that every node leaves out.
    pub without: Vec<Rule>,
}

/// If the leader pauses for longer, clients of every node may receive errors: their requests wait for at most five
/// seconds, which includes the time until the point is reached and the time for the release.
const STOPPED_MAX: Duration = Duration::from_millis(4_000);
/// A migration of a few thousand keys takes a second; with a fault in it, a lease, an election and some back-off more.
const ENDS_WITHIN: Duration = Duration::from_secs(90);
/// The slots that move. Group 1 has all slots, and gives these to group 2.
const MOVING: &str = "0-511";

/// The environment of a case.
struct Run {
    cluster: Cluster,
    source: usize,
    target: usize,
    replica: Option<usize>,
    to_source: Link,
    to_target: Link,
    random: fastrand::Rng,
    /// Nodes whose clients may receive errors.
    hit: BTreeSet<u16>,
    /// Clients of every node may receive errors, because a server was hit.
    all_hit: bool,
}

/// Runs a case.
///
/// # Panics
/// When the migration does not end, when a client receives an error that the fault does not explain, or when a checker
/// finds a violation.
#[track_caller]
pub fn run(case: &Case) {
    // The environment is dropped by the panic, not before it: it then keeps and prints its logs.
    let (_run, found) = execute(case);
    match found {
        Ok(_) => {}
        Err(wrong) => panic!("{case:?}: violations:\n{}", wrong.join("\n")),
    }
}

/// Runs a case and returns the violations: for cases that leave out a rule.
///
/// # Errors
/// Returns the violations and the unexplained errors of clients, as texts.
///
/// # Panics
/// When the migration does not end.
#[track_caller]
pub fn verdict(case: &Case) -> Result<Noticed, Vec<String>> {
    execute(case).1
}

#[track_caller]
fn execute(case: &Case) -> (Run, Result<Noticed, Vec<String>>) {
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
    // The harness has kept the leader from releasing its hold: beyond the request deadline, clients of all nodes get
    // errors.
    run.all_hit |= reached.elapsed() > STOPPED_MAX;
    run.heal(case);
    run.wait_done(id);
    if case.fault == Fault::LateWrites {
        run.to_target.deliver_late();
        let_pass(A_WHILE);
    }
    mix.wait_more(200);
    let found = check(&run, mix, case);
    (run, found)
}

fn check(run: &Run, mix: Mix, case: &Case) -> Result<Noticed, Vec<String>> {
    let noticed = mix.verdict(&run.cluster).map_err(|mut wrong| {
        wrong.extend(run.events());
        wrong
    })?;
    let unexplained: Vec<String> = noticed
        .errors
        .iter()
        .filter(|(_, error)| !(within_hold(case.point) && error.contains("held for too long")))
        .filter(|(port, _)| !run.all_hit && !run.hit.iter().any(|id| run.cluster.node(*id).client_port == *port))
        .map(|(port, error)| format!("a client of port {port}, whose node was not hit, received: {error}"))
        .collect();
    if unexplained.is_empty() { Ok(noticed) } else { Err(unexplained) }
}

/// Returns whether slots are held while a node pauses at the point. The harness may hold them for longer than the
/// product does.
fn within_hold(point: Point) -> bool {
    match point {
        Point::Held | Point::BeforeAck | Point::BarrierPassed | Point::Finished | Point::BeforeSwitch => true,
        Point::CleaningTarget | Point::Copying | Point::BeforeHold | Point::Switched | Point::CleaningSource => false,
        // Points of other things than migrations, which these cases do not contain.
        Point::PromotionBegun
        | Point::PromotionHeld
        | Point::PromotionBarrier
        | Point::BeforePromote
        | Point::Promoted
        | Point::PromotionSaved
        | Point::PromotionFinished
        | Point::Reconciliation
        | Point::Reinstating
        | Point::FormerCredentials
        | Point::DataUserChanged => false,
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
            more: ["--appendonly", "yes", "--appendfsync", "no", "--enable-debug-command", "yes"]
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
        // Failovers have a separate matrix (`promotions`), whose checkers account for writes that are not replicated.
        cli.ok(&["group", "set", "1", "down-after=60s"]);
        cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
        (1..=3).for_each(|id| cluster.wait_answers(id));
        let random = fastrand::Rng::with_seed(case.seed);
        let hit = BTreeSet::new();
        Self { cluster, source, target, replica, to_source, to_target, random, hit, all_hit: false }
    }

    /// Makes all nodes pause at the point; at `BeforeAck` only one of them.
    fn stop_at(&mut self, point: Point) {
        if point == Point::BeforeAck {
            let leader = self.cluster.leader();
            let followers: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
            let one = followers[self.random.usize(0..followers.len())];
            // The node sends no heartbeats while it pauses.
            self.hit.insert(one);
            self.cluster.node(one).faults.pause_at(point);
        } else {
            self.cluster.pause_at(point);
        }
    }

    fn start_migration(&self) -> u64 {
        wait_for("the migration to be accepted", GENEROUS, || {
            // On a busy machine, a hold needs more time than the default. Benchmarks measure the duration of holds.
            let start = ["migrate", "start", MOVING, "--to", "2", "--hold-max", "1s", "--timeout", "10s"];
            let ran = self.cluster.cli().run(&start);
            match self.open() {
                Some(open) => Ok(open["id"].as_u64().unwrap_or(0)),
                None => Err(ran.err),
            }
        })
    }

    /// Returns all migrations, from the first node that answers.
    fn migrations(&self) -> Option<Vec<Value>> {
        let list = |n: &crate::node::Node| n.cli().try_json(&["migrate", "ls", "--timeout", "2s"]).ok();
        let all = self.cluster.nodes.iter().find_map(list)?;
        all.as_array().cloned()
    }

    /// Returns the events of the cluster, for the message of a case that fails.
    fn events(&self) -> Option<String> {
        self.cluster.nodes.iter().find_map(|n| n.cli().try_json(&["events"]).ok()).map(|all| all.to_string())
    }

    fn open(&self) -> Option<Value> {
        self.migrations()?.into_iter().find(|m| m["state"] != "done" && m["state"] != "cancelled")
    }

    fn migration(&self, id: u64) -> Option<Value> {
        self.migrations()?.into_iter().find(|m| m["id"] == id)
    }

    /// Waits until a node pauses at the point.
    #[track_caller]
    fn wait_reached(&self, point: Point) {
        wait_for(&format!("a node to reach {}", point.name()), ENDS_WITHIN, || {
            if self.cluster.paused_node(point).is_some() {
                return Ok(());
            }
            let open = self.open();
            if let Some(paused) = open.as_ref().filter(|m| m["state"] == "paused") {
                self.any_cli(&["migrate", "resume", &paused["id"].to_string()]);
            }
            Err(format!("{open:?}"))
        });
    }

    fn mover_node(&self, id: u64) -> u16 {
        let migration = self.migration(id);
        let node = migration.map(|m| m.get("node").expect("a migration names its node or null").as_u64());
        let node = node.flatten().unwrap_or(0);
        u16::try_from(node).ok().filter(|id| (1..=3).contains(id)).unwrap_or(1)
    }

    fn other(&self, id: u64) -> u16 {
        let (leader, mover_node) = (self.cluster.leader(), self.mover_node(id));
        (1..=3).find(|n| *n != leader && *n != mover_node).unwrap_or(1)
    }

    /// Runs a command through the first node that accepts it. Returns whether a node did.
    fn any_cli(&self, args: &[&str]) -> bool {
        self.cluster.nodes.iter().any(|n| n.cli().run(&[args, &["--timeout", "5s"]].concat()).code == 0)
    }

    /// Waits until the migration is done. If it has paused, the operator resumes it.
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
