//! The new primary is killed in each step of a promotion around the moment at which it becomes the primary, and started
//! again with its data and its configuration. The group must have a primary again without an operator, with every
//! write that was acknowledged.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use cluster_tests::{
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
    workload::Written,
};
use pontoon::faults::Point;

/// Servers that have written everything to disk that they have answered.
fn durable(config_file: bool) -> RedisOptions {
    let more = ["--appendonly", "yes", "--appendfsync", "no"];
    RedisOptions { more: more.map(str::to_owned).to_vec(), config_file, ..RedisOptions::default() }
}

struct Fixture {
    cluster: Cluster,
    /// The old primary, the server that replaces it, and another replica.
    servers: [usize; 3],
    written: Written,
}

impl Fixture {
    /// Starts three nodes, a group of three servers, and a writer at each node. `config_file`: the servers can save
    /// their configuration; otherwise they restart with the roles of their first start.
    fn start(config_file: bool, down_after: &str) -> Self {
        let mut cluster = Cluster::start(3);
        let servers = cluster.add_group_with_replicas(1, "0-1023", 2, &durable(config_file));
        cluster.cli().ok(&["group", "set", "1", down_after]);
        (1..=3).for_each(|id| cluster.wait_answers(id));
        let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
        let written = Written::start(&ports, "w");
        written.wait_acknowledged(|_| true);
        Self { cluster, servers: servers.try_into().unwrap(), written }
    }

    /// Starts a switchover that pauses at this point.
    fn switch_over_to(&self, point: Point) {
        self.cluster.pause_at(point);
        let addr = self.cluster.servers[self.servers[1]].addr();
        self.cluster.cli().ok(&["group", "promote", "1", &addr]);
        self.cluster.wait_reached(point);
    }

    fn info(&self, server: usize) -> Result<String, String> {
        let info = self.cluster.servers[server].try_call(&["INFO", "replication"]);
        info.map(|reply| reply.text()).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn wait_info(&self, server: usize, wanted: &str) {
        wait_for(&format!("server {server} to report {wanted}"), GENEROUS, || match self.info(server)? {
            info if info.contains(wanted) => Ok(()),
            info => Err(info),
        });
    }

    /// Waits until one server of the group is its primary, by the log and by its own answer, and the others follow it
    /// with their links up. Returns it.
    #[track_caller]
    fn wait_healthy(&self) -> usize {
        wait_for("the group to have a primary that all others follow", GENEROUS, || {
            let groups = self.cluster.cli().try_json(&["group", "ls"])?;
            let addr = groups[0]["servers"][0]["address"].as_str().ok_or("no group")?.to_owned();
            let primary = self.servers.iter().copied().find(|server| self.cluster.servers[*server].addr() == addr);
            let primary = primary.ok_or("an unknown primary")?;
            let port = format!("master_port:{}\r", self.cluster.servers[primary].port);
            for server in self.servers {
                let info = self.info(server)?;
                let fits = match server == primary {
                    true => info.contains("role:master"),
                    false => info.contains(&port) && info.contains("master_link_status:up"),
                };
                if !fits {
                    let status = self.cluster.cli().try_json(&["status"])?;
                    return Err(format!("primary {addr}; {server}: {info}\n{status}"));
                }
            }
            Ok(primary)
        })
    }

    /// Stops the writers; no acknowledged write may be lost, except those of the last second before `died`.
    #[track_caller]
    fn check_writes(self, died: Option<Instant>) {
        self.written.wait_acknowledged(|_| true);
        let (all, lost) = self.written.finish(self.cluster.node(1).client_port);
        let second = Duration::from_secs(1);
        let explained = |at: Instant| died.is_some_and(|died| at <= died && at + second >= died);
        assert!(lost.iter().all(|write| explained(write.at)), "{} writes, lost: {lost:?}", all.len());
    }
}

/// The log does not have the new primary yet, so the old one stays the primary, or the switchover is repeated.
#[test]
fn killed_before_it_saves_its_configuration() {
    let mut fixture = Fixture::start(true, "down-after=30s");
    fixture.switch_over_to(Point::Promoted);
    let new = fixture.servers[1];
    assert!(fixture.cluster.servers[new].config().contains("replicaof "), "without it, the test proves nothing");
    fixture.cluster.servers[new].kill9();
    fixture.cluster.go_on(Point::Promoted);
    fixture.cluster.servers[new].launch_again();
    fixture.wait_healthy();
    fixture.check_writes(None);
}

/// The leader dies together with the new primary. The next one finds a replica that was sent REPLICAOF NO ONE.
#[test]
fn killed_together_with_the_leader() {
    let mut fixture = Fixture::start(true, "down-after=30s");
    fixture.switch_over_to(Point::Promoted);
    let (new, leader) = (fixture.servers[1], fixture.cluster.paused_node(Point::Promoted).unwrap());
    fixture.cluster.servers[new].kill9();
    fixture.cluster.node_mut(leader).kill9();
    fixture.cluster.go_on(Point::Promoted);
    fixture.cluster.servers[new].launch_again();
    fixture.cluster.node_mut(leader).start();
    fixture.wait_healthy();
    fixture.check_writes(None);
}

/// It has saved its role before the log names it, so that it has this role after a restart in every later step.
#[test]
fn killed_before_the_log_knows_that_it_is_the_primary() {
    let mut fixture = Fixture::start(true, "down-after=30s");
    fixture.switch_over_to(Point::PromotionSaved);
    let new = fixture.servers[1];
    let config = fixture.cluster.servers[new].config();
    assert!(!config.contains("replicaof "), "{config}");
    fixture.cluster.servers[new].kill9();
    fixture.cluster.go_on(Point::PromotionSaved);
    fixture.cluster.servers[new].launch_again();
    fixture.wait_healthy();
    fixture.check_writes(None);
}

/// The old primary does not follow the new one yet, and is a primary. Had the new one not saved its configuration, it
/// would copy the data of the old one, without the writes that it has acknowledged.
#[test]
fn killed_before_the_others_follow_it() {
    let mut fixture = Fixture::start(true, "down-after=30s");
    fixture.switch_over_to(Point::PromotionFinished);
    let [old, new, _] = fixture.servers;
    fixture.written.wait_acknowledged(|_| true);
    fixture.cluster.servers[new].kill9();
    assert!(fixture.info(old).unwrap().contains("role:master"), "without it, the test proves nothing");
    fixture.cluster.servers[new].launch_again();
    fixture.wait_info(new, "role:master");
    fixture.written.wait_acknowledged(|_| true);
    fixture.cluster.go_on(Point::PromotionFinished);
    assert_eq!(fixture.wait_healthy(), new);
    fixture.check_writes(None);
}

/// As above, in a failover: the old primary returns before the others follow the new one.
#[test]
fn killed_after_a_failover_while_the_old_primary_returns() {
    let mut fixture = Fixture::start(true, "down-after=800ms");
    fixture.cluster.pause_at(Point::PromotionFinished);
    let old = fixture.servers[0];
    fixture.cluster.servers[old].kill9();
    let died = Instant::now();
    fixture.cluster.wait_reached(Point::PromotionFinished);
    fixture.cluster.cli().ok(&["group", "set", "1", "down-after=30s"]);
    fixture.written.wait_acknowledged(|_| true);
    let groups = fixture.cluster.cli().json(&["group", "ls"]);
    let is_new =
        |server: &usize| groups[0]["servers"][0]["address"] == fixture.cluster.servers[*server].addr().as_str();
    let new = fixture.servers.iter().copied().find(is_new).unwrap();
    fixture.cluster.servers[new].kill9();
    fixture.cluster.servers[old].launch_again();
    fixture.wait_info(old, "role:master");
    fixture.cluster.servers[new].launch_again();
    fixture.wait_info(new, "role:master");
    fixture.cluster.go_on(Point::PromotionFinished);
    assert_eq!(fixture.wait_healthy(), new);
    fixture.check_writes(Some(died));
}

/// The new primary cannot save its configuration, and restarts as a replica of the old primary, which follows it. The
/// third server has the data from before the promotion. The new primary has an append-only file, so it has everything.
#[test]
fn a_cycle_of_servers_that_cannot_save_their_configuration_is_resolved() {
    let mut fixture = Fixture::start(false, "down-after=30s");
    fixture.switch_over_to(Point::PromotionFinished);
    let [old, new, other] = fixture.servers;
    fixture.written.wait_acknowledged(|_| true);
    fixture.cluster.servers[new].kill9();
    fixture.cluster.go_on(Point::PromotionFinished);
    let port = fixture.cluster.servers[new].port;
    [old, other].iter().for_each(|server| fixture.wait_info(*server, &format!("master_port:{port}\r")));
    fixture.cluster.servers[new].launch_again();
    fixture.wait_info(new, &format!("master_port:{}\r", fixture.cluster.servers[old].port));
    assert_eq!(fixture.wait_healthy(), new);
    fixture.check_writes(None);
}
