//! BullMQ, a job queue of npm, works through three nodes while slots move and primaries change: every job is done, and as often as
//! on one Redis. Its keys are used together by scripts and have the tag of the queue's prefix.

#![allow(clippy::unwrap_used)]

use std::{
    io::Read,
    process::{Child, Command, Stdio},
};

use cluster_tests::{
    cluster::Cluster,
    ports::Ports,
    process::Scratch,
    redis::{RedisOptions, RedisServer},
    stock,
    wait::{GENEROUS, wait_for},
};
use serde_json::Value;

/// Jobs of a run. A tenth of them fails once and is done again.
const JOBS: u64 = 1_000;

/// The program clients/bullmq.js on its way.
struct Queue(Child);

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Queue {
    fn start(ports: &[u16]) -> Self {
        let mut command = Command::new("node");
        command.env("NODE_PATH", stock::node_modules()).arg(stock::script("bullmq.js")).arg(JOBS.to_string());
        command.args(ports.iter().map(u16::to_string)).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Waits for its end. Returns what it says about the jobs.
    #[track_caller]
    fn finish(mut self) -> Value {
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert!(self.0.wait().unwrap().success(), "{out}\n{err}");
        serde_json::from_str(&out).unwrap()
    }
}

/// Waits until `share` hundredths of the jobs have begun.
#[track_caller]
fn wait_begun(cluster: &Cluster, share: u64) {
    wait_for("jobs to be done", GENEROUS, || {
        let mut client = cluster.node(1).client();
        let begun = client.call(&["HLEN", "{bull}:runs"]).map(|reply| reply.text()).unwrap_or_default();
        let is_enough = begun.parse::<u64>().is_ok_and(|n| n * 100 >= share * JOBS);
        if is_enough { Ok(()) } else { Err(begun) }
    });
}

fn ports(cluster: &Cluster) -> Vec<u16> {
    cluster.nodes.iter().map(|node| node.client_port).collect()
}

/// How often one Redis does them.
fn of_one_redis() -> Value {
    let (ports, dir) = (Ports::take(), Scratch::new());
    let server = RedisServer::start(ports.server(0), dir.path());
    Queue::start(&[server.port]).finish()
}

#[test]
fn jobs_are_done_as_often_as_on_one_redis_while_slots_move_and_primaries_change() {
    let mut cluster = Cluster::start(3);
    let first = cluster.add_group_with_replicas(1, "0-511", 1, &RedisOptions::default());
    cluster.add_group_with_replicas(2, "512-1023", 1, &RedisOptions::default());
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let cli = cluster.cli();
    cli.ok(&["cluster", "set", "hold-max=1s", "--timeout", "40s"]);
    let queue = Queue::start(&ports(&cluster));
    wait_begun(&cluster, 10);
    let home = cluster.locate("{bull}")["group"].to_string();
    let (slots, away) = if home == "1" { ("0-511", "2") } else { ("512-1023", "1") };
    cli.ok(&["migrate", "start", slots, "--to", away, "--wait", "--timeout", "90s"]);
    wait_begun(&cluster, 40);
    cli.ok(&["migrate", "start", slots, "--to", &home, "--wait", "--timeout", "90s"]);
    wait_begun(&cluster, 60);
    cluster.wait_candidates("default", "1");
    cli.ok(&["group", "promote", "1", &cluster.servers[first[1]].addr(), "--wait", "--timeout", "60s"]);
    let done = queue.finish();
    assert_eq!(done, of_one_redis());
    assert_eq!(done["completed"], JOBS);
}

/// With a failover the outcome of some calls is unknown, so a job may be done again, as when a Redis is lost and restored. None is
/// lost.
#[test]
fn no_job_is_lost_when_a_primary_dies() {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 2, &RedisOptions::default());
    let cli = cluster.cli();
    cli.ok(&["group", "set", "1", "down-after=800ms"]);
    // What is acknowledged survives a failover.
    cli.ok(&["product", "set", "default", "min-acks=1", "min-acks-timeout=2s", "--wait", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let queue = Queue::start(&ports(&cluster));
    wait_begun(&cluster, 20);
    cluster.wait_candidates("default", "1");
    cluster.servers[servers[0]].kill9();
    let done = queue.finish();
    assert_eq!(done["completed"], JOBS);
}
