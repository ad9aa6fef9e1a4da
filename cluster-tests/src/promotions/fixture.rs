//! The environment of the promotion matrix: three nodes and two groups, with a relay in front of each server. Reads the
//! state of the groups and the outcome of their promotions. Knows nothing of faults.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use pontoon::faults::Rule;
use serde_json::Value;

use super::watch::Watch;
use crate::{
    callers::{Caller, Callers},
    client::Client,
    cluster::Cluster,
    gate::Gate,
    loss::{LossWindow, Losses},
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
};

/// `down-after` of both groups. It is shorter than the default, because tests wait for it.
pub const DOWN_AFTER: Duration = Duration::from_millis(1500);
/// The time window of the writes that a failover may lose without additional lag. Replication takes a millisecond, but
/// on a busy machine a replica is scheduled later.
pub const REPL_WINDOW: Duration = Duration::from_millis(2500);
/// Maximum time until a group is healthy again: a lease, an election, a hold that was released, a full copy.
const HEALS_WITHIN: Duration = Duration::from_secs(90);

/// The environment of a case.
#[derive(Debug)]
pub struct Fixture {
    /// Nodes and servers.
    pub cluster: Cluster,
    /// The relay in front of each server.
    pub gates: Vec<Gate>,
    /// The servers of group 1 and of group 2 at the begin: the primary, then its replicas.
    pub groups: [Vec<usize>; 2],
    watch: Watch,
    /// The owner of each slot at the begin.
    first_owners: Vec<u64>,
}

/// A change of primary.
#[derive(Clone, Debug)]
struct Change {
    group: usize,
    from: usize,
    to: usize,
    failover: bool,
    at: Instant,
}

impl Fixture {
    /// Starts the environment. Each group has this number of replicas. Group 1 owns slots 0-511, group 2 owns the rest.
    #[must_use]
    pub fn prepare(replicas: [usize; 2], min_acks: u8, without: &[Rule]) -> Self {
        let mut cluster = Cluster::prepared_with_mesh(3);
        for node in &cluster.nodes {
            without.iter().for_each(|rule| node.faults.without(*rule));
        }
        cluster.start_all();
        let callers = Callers::default();
        cluster.nodes.iter().for_each(|node| callers.register(&node.data_dir, node.pid(), Caller::Node(node.id)));
        let mut gates = Vec::new();
        let mut groups = [Vec::new(), Vec::new()];
        for (group, replicas) in groups.iter_mut().zip(replicas) {
            for _ in 0..=replicas {
                let n = gates.len();
                let port = cluster.ports.server(20 + u16::try_from(n).expect("few servers"));
                group.push(cluster.add_server(&options(port)));
                callers.register(cluster.servers[n].home(), cluster.servers[n].pid(), Caller::Server(n));
                gates.push(Gate::start(port, cluster.servers[n].port, &callers));
            }
        }
        let watch = Watch::start(&cluster.servers.iter().map(|s| s.port).collect::<Vec<_>>());
        let fixture = Self { cluster, gates, groups, watch, first_owners: Vec::new() };
        fixture.create_groups(min_acks)
    }

    fn create_groups(mut self, min_acks: u8) -> Self {
        let cli = self.cluster.cli();
        // On a busy machine, a hold needs more time than the default. Benchmarks measure the duration of holds.
        cli.ok(&["cluster", "set", "hold-max=1s", "--timeout", "40s"]);
        let down_after = format!("down-after={}ms", DOWN_AFTER.as_millis());
        for (n, group) in self.groups.iter().enumerate() {
            let gid = (n + 1).to_string();
            let addrs: Vec<String> = group.iter().map(|server| self.gates[*server].addr()).collect();
            let mut create = vec!["group", "create", &gid, "--primary", &addrs[0]];
            addrs[1..].iter().for_each(|addr| create.extend(["--replica", addr]));
            create.extend(["--timeout", "40s"]);
            cli.ok(&create);
            cli.ok(&["group", "set", &gid, &down_after, "--timeout", "40s"]);
            let slots = ["0-511", "512-1023"][n];
            cli.ok(&["slot", "assign", slots, &gid, "--wait", "--timeout", "40s"]);
        }
        if min_acks > 0 {
            let min_acks = format!("min-acks={min_acks}");
            cli.ok(&["product", "set", "default", &min_acks, "--wait", "--timeout", "40s"]);
        }
        (1..=3).for_each(|id| self.cluster.wait_answers(id));
        self.wait_healthy();
        self.first_owners = self.owners();
        self
    }

    /// Returns the JSON output of a command, from the first node that answers.
    #[must_use]
    pub fn json(&self, args: &[&str]) -> Option<Value> {
        let args = [args, &["--timeout", "3s"]].concat();
        self.cluster.nodes.iter().find_map(|n| n.cli().try_json(&args).ok())
    }

    /// Runs a command through the first node that accepts it.
    ///
    /// # Errors
    /// If no node accepts it, returns the error output of the last one.
    pub fn any_cli(&self, args: &[&str]) -> Result<(), String> {
        let args = [args, &["--timeout", "5s"]].concat();
        let mut error = String::new();
        for node in &self.cluster.nodes {
            let ran = node.cli().run(&args);
            if ran.code == 0 {
                return Ok(());
            }
            error = ran.err;
        }
        Err(error)
    }

    /// Returns the server whose relay has this address.
    #[must_use]
    pub fn server_at(&self, addr: &str) -> Option<usize> {
        self.gates.iter().position(|gate| gate.addr() == addr)
    }

    /// Returns the state of group 1 or 2 in the log: its servers, the primary first, and its open promotion, if there
    /// is one.
    #[must_use]
    pub fn group(&self, gid: usize) -> Option<(Vec<usize>, Option<Value>)> {
        let all = self.json(&["group", "ls"])?;
        let group = all.as_array()?.iter().find(|g| g["id"] == gid)?;
        let servers = group["servers"].as_array()?;
        let servers = servers.iter().filter_map(|s| self.server_at(s["address"].as_str()?)).collect();
        Some((servers, Some(group["promotion"].clone()).filter(|p| !p.is_null())))
    }

    /// Returns the candidate of group 1's open promotion.
    #[must_use]
    pub fn candidate(&self) -> Option<usize> {
        self.group(1)?.1.and_then(|promotion| self.server_at(promotion["to"].as_str()?))
    }

    /// Waits until both groups are healthy: no promotion is open, the primary accepts writes, the replicas are in sync
    /// with it, and no server is marked as diverged.
    #[track_caller]
    pub fn wait_healthy(&self) {
        for gid in 1..=2 {
            wait_for(&format!("group {gid} to be healthy"), HEALS_WITHIN, || self.is_healthy(gid));
        }
    }

    fn is_healthy(&self, gid: usize) -> Result<(), String> {
        let (servers, promotion) = self.group(gid).ok_or("no node answers")?;
        let shown = || self.json(&["group", "show", &gid.to_string()]).map(|g| g.to_string()).unwrap_or_default();
        if let Some(promotion) = promotion {
            return Err(format!("a promotion is open: {promotion}\n{}", shown()));
        }
        let (primary, replicas) = servers.split_first().ok_or("no servers")?;
        let info = |server: usize| {
            let mut client = Client::connect_within(self.cluster.servers[server].port, Duration::from_secs(1))?;
            client.call(&["INFO", "replication"]).map(|reply| reply.text())
        };
        let of_primary = info(*primary).map_err(|e| format!("the primary, server {primary}: {e}"))?;
        if !of_primary.contains("role:master") {
            return Err(format!("server {primary} should be the primary, but is a replica: {of_primary}\n{}", shown()));
        }
        // A primary gets a new replication id when its first replica connects. The nodes see it in their next probes.
        let known = self.json(&["group", "show", &gid.to_string()]).ok_or("no node answers")?;
        let replid = known["replid"].as_str().unwrap_or_default();
        let unseen = |s: &Value| s["role"] == "replica" && s["observed"]["link"] != "up";
        let behind = known["servers"].as_array().is_none_or(|all| all.iter().any(unseen));
        if behind || !of_primary.contains(&format!("master_replid:{replid}\r")) {
            return Err(format!("the nodes do not register the current replication state yet: {known}"));
        }
        let port = format!("master_port:{}\r", self.gates[*primary].port);
        for replica in replicas {
            let info = info(*replica).map_err(|e| format!("server {replica}: {e}"))?;
            if !info.contains(&port) || !info.contains("master_link_status:up") {
                return Err(format!("server {replica} is not in sync with server {primary}: {info}\n{}", shown()));
            }
        }
        let all = self.json(&["group", "ls"]).ok_or("no node answers")?;
        let diverged = |s: &Value| s["diverged"] == true;
        let group = all.as_array().and_then(|all| all.iter().find(|g| g["id"] == gid)).cloned().unwrap_or_default();
        match group["servers"].as_array().and_then(|all| all.iter().find(|s| diverged(s))) {
            Some(server) => Err(format!("{server} is still marked as diverged\n{}", shown())),
            None => Ok(()),
        }
    }

    /// Returns the owner group of each slot.
    #[must_use]
    pub fn owners(&self) -> Vec<u64> {
        let slots = wait_for("the slot table", GENEROUS, || self.json(&["slot", "ls"]).ok_or("no node answers"));
        crate::workload::owners_in(&slots)
    }

    /// Returns the number of promotions of the group that ended with another primary.
    #[must_use]
    pub fn promoted(&self, gid: usize) -> usize {
        self.changes().unwrap_or_default().iter().filter(|change| change.group == gid).count()
    }

    /// Returns the changes of primaries according to the events, the earliest first.
    fn changes(&self) -> Option<Vec<Change>> {
        let events = self.json(&["events"])?;
        let (now, wall) = (Instant::now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?);
        let mut failover = [false; 3];
        let mut changes = Vec::new();
        for event in events.as_array()? {
            let text = event["text"].as_str().unwrap_or_default();
            let Some(group) = event["subject"].as_str().and_then(|s| s.strip_prefix("group ")?.parse::<usize>().ok())
            else {
                continue;
            };
            let at =
                humantime::parse_rfc3339(event["at"].as_str()?).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            let at = now.checked_sub(wall.saturating_sub(at))?;
            match event["kind"].as_str() {
                Some("promotion-started") => failover[group] = text.starts_with("failover"),
                Some("promoted") => {
                    let mut words = text.split([' ', ',']);
                    let to = self.server_at(words.next()?)?;
                    let from = self.server_at(words.nth(2)?)?;
                    changes.push(Change { group, from, to, failover: failover[group], at });
                }
                _ => {}
            }
        }
        Some(changes)
    }

    /// Returns the measured loss windows of the failovers of this case, and for each failover that could not be
    /// measured the reason. `more`: the additional lag that the case has caused at replicas.
    #[must_use]
    pub fn losses(&self, more: Duration) -> (Losses, Vec<String>) {
        let (mut windows, mut wrong) = (Vec::new(), Vec::new());
        let now = self.owners();
        for change in wait_for("the events", GENEROUS, || self.changes().ok_or("no node answers")) {
            if !change.failover {
                continue;
            }
            let slots_of = |owners: &[u64]| -> BTreeSet<u16> {
                (0u16..).zip(owners).filter(|(_, owner)| **owner == change.group as u64).map(|(slot, _)| slot).collect()
            };
            let (before, after) = (slots_of(&self.first_owners), slots_of(&now));
            let others: Vec<usize> = self.groups[change.group - 1]
                .iter()
                .copied()
                .filter(|server| *server != change.from && *server != change.to)
                .collect();
            match self.watch.kept_until(change.from, change.to, &others, change.at) {
                Ok(kept) => windows.push(LossWindow {
                    kept,
                    at: change.at,
                    window: REPL_WINDOW + more,
                    slots: before.union(&after).copied().collect(),
                    steady: before.intersection(&after).copied().collect(),
                }),
                Err(why) => wrong.push(format!("the loss of {change:?} could not be measured: {why}")),
            }
        }
        (Losses::of(windows), wrong)
    }
}

fn options(announce: u16) -> RedisOptions {
    // Not everysec: with it, Redis answers before it has written if the previous fsync is still in progress, and
    // SIGKILL then loses acknowledged writes. Bytes that are written to a file survive SIGKILL, with or without an
    // fsync.
    let more = ["--appendonly", "yes", "--appendfsync", "no", "--enable-debug-command", "yes"];
    let mut more: Vec<String> = more.map(str::to_owned).to_vec();
    more.extend(["--replica-announce-port".into(), announce.to_string()]);
    RedisOptions { more, limitable: true, ..RedisOptions::default() }
}
