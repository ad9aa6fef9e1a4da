//! The faults of the matrix: how each begins and how it ends.

use std::time::Duration;

use pontoon::faults::Point;

use super::{Case, ENDS_WITHIN, Run};
use crate::{
    client::Reply,
    link::Mode,
    redis::RedisServer,
    wait::{GENEROUS, let_pass, wait_for},
};

/// A fault. The "mover node" is the node whose mover copies. The "other" node is neither the leader nor the mover node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault: the migration only pauses at the point for a while.
    None,
    /// The leader is killed with SIGKILL and restarted later.
    KillLeader,
    /// The mover node is killed with SIGKILL and restarted later.
    KillMoverNode,
    /// The other node is killed with SIGKILL and restarted later.
    KillOther,
    /// The leader is stopped with SIGSTOP for longer than a lease.
    StopLeader,
    /// The mover node is stopped with SIGSTOP for longer than a lease.
    StopMoverNode,
    /// The other node is stopped with SIGSTOP for longer than a lease.
    StopOther,
    /// The leader gets SIGTERM: it transfers the leadership.
    LeaderLeaves,
    /// The leader is cut from both other nodes, in both directions.
    CutLeader,
    /// Bytes of the leader do not reach the other nodes. The other direction is open.
    MuteLeader,
    /// The mover node is cut from the other nodes, and still reaches servers and clients.
    CutMoverNode,
    /// The source's primary, which has all its data in its append-only file, is killed with SIGKILL and restarted.
    KillSource,
    /// The target's primary, which has all its data in its append-only file, is killed with SIGKILL and restarted.
    KillTarget,
    /// The source's primary is stopped with SIGSTOP for longer than a lease.
    StopSource,
    /// The target's primary is stopped with SIGSTOP for longer than a lease.
    StopTarget,
    /// The replica that may serve the feed is killed with SIGKILL and restarted.
    KillReplica,
    /// Connections to the source are closed.
    ResetSource,
    /// Connections to the target are closed.
    ResetTarget,
    /// Replies of the target are withheld for a while.
    HalfOpenTarget,
    /// The target has no free memory for a while.
    TargetFull,
    /// The target rejects writes for a while, because it has too few replicas.
    TargetReadOnly,
    /// The server closes the feed, as it does when its output buffer is full.
    KillFeed,
    /// The target is flushed.
    FlushTarget,
    /// The operator cancels the migration and starts it again when it is cancelled.
    Cancel,
    /// The operator pauses the migration and resumes it.
    Pause,
    /// The source rewrites its append-only file.
    Rewrite,
    /// The other node is cut from the nodes for less than a lease, and still reaches servers and clients.
    CutOther,
    /// Nothing passes between the target and its clients for longer than the time to live of a session key.
    SilentTarget,
    /// What the mover has sent to the target arrives after the migration. The mover node is killed meanwhile.
    LateWrites,
    /// All nodes are killed with SIGKILL, and start again.
    KillNodes,
    /// All nodes and all servers are killed with SIGKILL, and start again.
    KillAll,
}

/// All faults, for a random choice.
pub const FAULTS: &[Fault] = &[
    Fault::None,
    Fault::KillLeader,
    Fault::KillMoverNode,
    Fault::KillOther,
    Fault::StopLeader,
    Fault::StopMoverNode,
    Fault::StopOther,
    Fault::LeaderLeaves,
    Fault::CutLeader,
    Fault::MuteLeader,
    Fault::CutMoverNode,
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
    Fault::KillNodes,
    Fault::KillAll,
];

/// Longer than a lease (3 s) and the leader's allowance for clocks.
const LONGER_THAN_A_LEASE: Duration = Duration::from_millis(3_500);
/// Duration of a fault of a server or a link: longer than a hold, shorter than a test.
pub(super) const A_WHILE: Duration = Duration::from_millis(700);

impl Run {
    /// Injects the fault, and lets it last for a while. `id` is the migration, also of one that replaces it.
    pub(super) fn inject(&mut self, case: &Case, id: &mut u64) {
        let leader = self.cluster.leader();
        match case.fault {
            Fault::None => let_pass(A_WHILE),
            Fault::KillLeader => self.kill(leader),
            Fault::KillMoverNode => self.kill(self.mover_node(*id)),
            Fault::KillOther => self.kill(self.other(*id)),
            Fault::StopLeader => self.pause(leader),
            Fault::StopMoverNode => self.pause(self.mover_node(*id)),
            Fault::StopOther => self.pause(self.other(*id)),
            Fault::LeaderLeaves => {
                self.hit.insert(leader);
                let _ = self.cluster.node_mut(leader).terminate(GENEROUS);
            }
            Fault::CutLeader => self.cut(leader, false),
            Fault::MuteLeader => self.cut(leader, true),
            Fault::CutMoverNode => self.cut(self.mover_node(*id), false),
            Fault::KillNodes => {
                self.all_hit = true;
                (1..=3).for_each(|id| self.kill(id));
            }
            Fault::KillAll => {
                self.all_hit = true;
                (1..=3).for_each(|id| self.kill(id));
                self.cluster.servers.iter_mut().for_each(RedisServer::kill9);
            }
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
                // The mover looks for a flush until it confirms the copy. After that, as at an owner, the data is gone.
                let confirmed = [Point::Finished, Point::BeforeSwitch, Point::Switched, Point::CleaningSource];
                if !confirmed.contains(&case.point) {
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
                let mover_node = self.mover_node(*id);
                // From the switch on, clients use the target, too.
                self.all_hit |= !matches!(case.point, Point::CleaningTarget | Point::Copying);
                self.to_target.set(Mode::Late);
                self.cluster.go_on(case.point);
                let_pass(A_WHILE);
                // Bytes that are on their way stay late. Bytes that are sent from now on are not.
                self.to_target.set(Mode::Open);
                self.kill(mover_node);
            }
            Fault::Rewrite => {
                let _ = self.cluster.servers[self.source].call(&["BGREWRITEAOF"]);
            }
        }
        let lasts = match case.fault {
            Fault::StopLeader
            | Fault::StopMoverNode
            | Fault::StopOther
            | Fault::StopSource
            | Fault::StopTarget
            | Fault::SilentTarget
            | Fault::CutLeader
            | Fault::MuteLeader
            | Fault::CutMoverNode => LONGER_THAN_A_LEASE,
            // Shorter than a lease: the node serves all the time.
            Fault::CutOther => A_WHILE * 2,
            _ => A_WHILE,
        };
        let_pass(lasts);
    }

    /// Ends the fault, except that late bytes stay late.
    pub(super) fn heal(&mut self, case: &Case) {
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
            Fault::KillAll => self.cluster.servers.iter_mut().for_each(RedisServer::restart),
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

    /// Cancels the migration, in any phase before Switch, and starts it again. After Switch, the cancel is rejected.
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
}
