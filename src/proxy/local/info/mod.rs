//! INFO: what the node knows of itself and of the product, and what the servers say, in the form of Redis.
//! Knows nothing of how servers are asked.

mod process;
mod section;
mod servers;

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use process::{CpuTimes, EXECUTABLE, OS};
pub(in crate::proxy) use section::{Section, Sections};
use servers::{Fields, line};
pub(in crate::proxy) use servers::{ServerFigures, text_of};

use super::version::{Software, software};
use crate::{
    commands::CommandNumber,
    model::route::ProductRoutes,
    proxy::{check::ServeCheck, session::Session, usage::UsageTotal, worker::Worker},
};

/// How often a node does its regular work, per second: ten ticks, as Redis does by default.
const HZ: u32 = 10;

/// The databases below `databases` that have keys at the servers.
pub(in crate::proxy) fn databases_with_keys(figures: &ServerFigures, databases: u32) -> Vec<u32> {
    Fields::of(figures).databases(databases)
}

/// Where the figures of INFO come from.
struct Info<'a> {
    worker: &'a Worker,
    session: &'a Session,
    routes: &'a ProductRoutes,
    /// `None`: no server was asked.
    servers: Option<&'a ServerFigures>,
    fields: Fields<'a>,
    usage: UsageTotal,
}

/// The text of INFO. `servers`: what the servers say, if they were asked.
pub(in crate::proxy) fn info(
    worker: &Worker,
    session: &Session,
    routes: &ProductRoutes,
    sections: Sections,
    servers: Option<&ServerFigures>,
) -> String {
    let nothing = ServerFigures::default();
    let fields = Fields::of(servers.unwrap_or(&nothing));
    let usage = worker.shared.usage.total(routes.id);
    let info = Info { worker, session, routes, servers, fields, usage };
    let mut out = String::new();
    for section in Section::ALL.into_iter().filter(|section| sections.has(*section)) {
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        let _ = write!(out, "# {}\r\n", section.title());
        info.section(section, &mut out);
    }
    // Sums without a group say so, whichever sections are asked for.
    if !sections.has(Section::Pontoon) && servers.is_some_and(|servers| !servers.unanswered.is_empty()) {
        let _ = write!(out, "\r\n# {}\r\n", Section::Pontoon.title());
        info.groups_unanswered(&mut out);
    }
    out
}

impl Info<'_> {
    fn section(&self, section: Section, out: &mut String) {
        match section {
            Section::Server => self.server(out),
            Section::Clients => self.clients(out),
            Section::Memory => self.fields.memory(out),
            Section::Persistence => self.persistence(out),
            Section::Stats => self.stats(out),
            Section::Replication => self.replication(out),
            Section::Cpu => cpu(out),
            Section::Modules => self.modules(out),
            Section::Commandstats => self.command_stats(out),
            Section::Errorstats => {
                for (kind, count) in &self.usage.errors {
                    let _ = write!(out, "errorstat_{kind}:count={count}\r\n");
                }
            }
            Section::Latencystats => self.latency_stats(out),
            Section::Cluster => line(out, "cluster_enabled", 0),
            Section::Keyspace => self.keyspace(out),
            Section::Pontoon => self.pontoon(out),
        }
    }

    fn software(&self) -> Software {
        software(self.worker, &self.session.product, self.routes)
    }

    fn server(&self, out: &mut String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let up = self.worker.shared.started.elapsed().as_secs();
        line(out, "redis_version", self.software().version);
        line(out, "redis_git_sha1", "00000000");
        line(out, "redis_git_dirty", 0);
        line(out, "redis_build_id", "0000000000000000");
        line(out, "redis_mode", "standalone");
        line(out, "pontoon_version", &self.worker.config.version);
        line(out, "os", &*OS);
        line(out, "arch_bits", usize::BITS);
        line(out, "monotonic_clock", "POSIX clock_gettime");
        line(out, "multiplexing_api", "epoll");
        line(out, "process_id", std::process::id());
        line(out, "process_supervised", "no");
        line(out, "run_id", &self.worker.shared.run_id);
        line(out, "tcp_port", self.routes.port.saturating_add(self.worker.config.port_offset));
        line(out, "server_time_usec", now.as_micros());
        line(out, "uptime_in_seconds", up);
        line(out, "uptime_in_days", up / (24 * 60 * 60));
        line(out, "hz", HZ);
        line(out, "configured_hz", HZ);
        // Seconds, of which Redis keeps 24 bits.
        line(out, "lru_clock", now.as_secs() & 0x00ff_ffff);
        line(out, "executable", &*EXECUTABLE);
        // The configuration of a node names secrets, and does not concern clients.
        line(out, "config_file", "");
        line(out, "io_threads_active", 0);
    }

    fn clients(&self, out: &mut String) {
        let clients = self.worker.shared.clients.of(self.routes.id);
        line(out, "connected_clients", clients.connected);
        line(out, "cluster_connections", 0);
        line(out, "maxclients", clients_max(self.worker, self.routes));
        line(out, "blocked_clients", self.usage.blocked);
        line(out, "tracking_clients", 0);
        line(out, "pubsub_clients", 0);
        line(out, "clients_in_timeout_table", 0);
    }

    fn persistence(&self, out: &mut String) {
        if self.fields_are_missing() {
            // Client libraries wait until a server has loaded its data.
            line(out, "loading", 0);
        }
        self.fields.persistence(out);
    }

    fn fields_are_missing(&self) -> bool {
        self.servers.is_none_or(|servers| servers.texts.is_empty())
    }

    fn stats(&self, out: &mut String) {
        let clients = self.worker.shared.clients.of(self.routes.id);
        let rates = self.worker.shared.usage.rates(self.routes.id);
        line(out, "total_connections_received", clients.accepted);
        line(out, "total_commands_processed", self.usage.calls);
        line(out, "instantaneous_ops_per_sec", format_args!("{:.0}", rates.calls));
        line(out, "total_net_input_bytes", self.usage.received);
        line(out, "total_net_output_bytes", self.usage.sent);
        // Nobody replicates from a node.
        line(out, "total_net_repl_input_bytes", 0);
        line(out, "total_net_repl_output_bytes", 0);
        line(out, "instantaneous_input_kbps", format_args!("{:.2}", rates.received / 1024.0));
        line(out, "instantaneous_output_kbps", format_args!("{:.2}", rates.sent / 1024.0));
        line(out, "instantaneous_input_repl_kbps", "0.00");
        line(out, "instantaneous_output_repl_kbps", "0.00");
        line(out, "rejected_connections", clients.refused.iter().sum::<u64>());
        for name in ["sync_full", "sync_partial_ok", "sync_partial_err"] {
            line(out, name, 0);
        }
        self.fields.stats(out);
        // Not offered, so there are none.
        for name in ["pubsub_channels", "pubsub_patterns", "pubsubshard_channels"] {
            line(out, name, 0);
        }
        for name in ["migrate_cached_sockets", "slave_expires_tracked_keys", "tracking_total_keys"] {
            line(out, name, 0);
        }
        line(out, "total_error_replies", self.usage.errors_sum());
        line(out, "acl_access_denied_auth", clients.failed_logins);
    }

    /// A node is a primary without replicas: those of the servers are not for clients.
    fn replication(&self, out: &mut String) {
        line(out, "role", "master");
        line(out, "connected_slaves", 0);
        line(out, "master_failover_state", "no-failover");
        line(out, "master_replid", &self.worker.shared.run_id);
        line(out, "master_replid2", "0".repeat(self.worker.shared.run_id.len()));
        line(out, "master_repl_offset", 0);
        line(out, "second_repl_offset", -1);
        line(out, "repl_backlog_active", 0);
        line(out, "repl_backlog_size", 0);
        line(out, "repl_backlog_first_byte_offset", 0);
        line(out, "repl_backlog_histlen", 0);
    }

    fn modules(&self, out: &mut String) {
        for (name, version) in &self.software().modules {
            let _ = write!(out, "module:name={name},ver={version},api=1,filters=0,usedby=[],using=[],options=[]\r\n");
        }
    }

    fn command_stats(&self, out: &mut String) {
        for (spec, calls) in CommandNumber::all().zip(&self.usage.commands) {
            if *calls == Default::default() {
                continue;
            }
            let usec_per_call = self.fields.calls(spec.name).usec_per_call();
            let _ = write!(
                out,
                "cmdstat_{}:calls={},usec={:.0},usec_per_call={usec_per_call:.2},rejected_calls={},failed_calls={}\r\n",
                spec.name,
                calls.calls,
                usec_per_call * calls.calls as f64,
                calls.rejected,
                calls.failed
            );
        }
    }

    fn latency_stats(&self, out: &mut String) {
        for (spec, calls) in CommandNumber::all().zip(&self.usage.commands) {
            if calls.calls == 0 {
                continue;
            }
            if let Some(percentiles) = self.fields.percentiles(spec.name) {
                line(out, &format!("latency_percentiles_usec_{}", spec.name), percentiles);
            }
        }
    }

    fn keyspace(&self, out: &mut String) {
        let Some(servers) = self.servers else { return };
        for db in self.fields.databases(self.routes.databases) {
            if let Some(text) = self.fields.keyspace(db, servers.own_keys.get(&db).copied()) {
                out.push_str(&text);
            }
        }
    }

    fn pontoon(&self, out: &mut String) {
        let (worker, report) = (self.worker, self.worker.shared.latest());
        let serve_check = if worker.serve_check_for(self.routes.isolated) == ServeCheck::Open { "ok" } else { "none" };
        line(out, "node_id", worker.config.node);
        line(out, "product", &self.routes.name);
        line(out, "route_epoch", worker.routes.epoch());
        line(out, "lease", serve_check);
        line(out, "client_id", self.session.id);
        line(out, "groups", self.routes.groups.len());
        self.groups_unanswered(out);
        line(out, "forwarded", report.stats.forwarded);
        line(out, "refused", report.stats.refused);
        line(out, "unknown", report.stats.unknown);
        line(out, "parked", report.stats.parked);
        line(out, "replica_reads", report.stats.replica_reads);
        line(out, "replica_repeats", report.stats.replica_repeats);
    }

    /// The groups that the sums lack.
    fn groups_unanswered(&self, out: &mut String) {
        if let Some(servers) = self.servers {
            let groups: Vec<String> = servers.unanswered.iter().map(ToString::to_string).collect();
            line(out, "groups_unanswered", groups.join(","));
        }
    }
}

/// Clients that the node accepts for a product.
pub(super) fn clients_max(worker: &Worker, routes: &ProductRoutes) -> usize {
    let of_node = worker.config.limits.clients_max;
    match routes.clients_max {
        0 => of_node,
        of_product => of_node.min(of_product as usize),
    }
}

/// Of the node, whose products share its threads.
fn cpu(out: &mut String) {
    let (process, thread) = (CpuTimes::of_process(), CpuTimes::of_thread());
    for (name, seconds) in [
        ("used_cpu_sys", process.sys),
        ("used_cpu_user", process.user),
        ("used_cpu_sys_children", process.sys_children),
        ("used_cpu_user_children", process.user_children),
        ("used_cpu_sys_main_thread", thread.sys),
        ("used_cpu_user_main_thread", thread.user),
    ] {
        line(out, name, format_args!("{seconds:.6}"));
    }
}
