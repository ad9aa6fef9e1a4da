//! INFO and CONFIG GET: what a node says about itself.
//! Knows nothing of servers.

use super::SERVER_VERSION;
use crate::{
    commands::Args,
    model::route::ProductRoutes,
    proxy::{check::ServeCheck, dispatch::CallContext, session::Session, worker::Worker},
    resp::write::{self, Version},
};

pub(super) fn info(worker: &Worker, session: &Session, routes: &ProductRoutes, call: &CallContext<'_>) -> String {
    let report = worker.shared.latest();
    let serve_check = if worker.serve_check_for(routes.isolated) == ServeCheck::Open { "ok" } else { "none" };
    let sections = [
        (
            "server",
            format!(
                "# Server\r\nredis_version:{SERVER_VERSION}\r\nredis_mode:standalone\r\npontoon_version:{}\r\n\
                    process_id:{}\r\ntcp_port:{}\r\n",
                worker.config.version,
                std::process::id(),
                routes.port.saturating_add(worker.config.port_offset)
            ),
        ),
        (
            "clients",
            format!(
                "# Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:{}\r\n",
                worker.shared.clients.connected(),
                worker.config.limits.clients_max,
                report.blocked
            ),
        ),
        ("memory", "# Memory\r\nmaxmemory:0\r\n".to_owned()),
        ("persistence", "# Persistence\r\nloading:0\r\n".to_owned()),
        (
            "stats",
            format!(
                "# Stats\r\ntotal_connections_received:{}\r\ntotal_commands_processed:{}\r\n",
                report.stats.accepted, report.stats.requests
            ),
        ),
        ("replication", "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("cluster", "# Cluster\r\ncluster_enabled:0\r\n".to_owned()),
        ("keyspace", "# Keyspace\r\n".to_owned()),
        (
            "pontoon",
            format!(
                "# Pontoon\r\nnode_id:{}\r\nproduct:{}\r\nroute_epoch:{}\r\nlease:{serve_check}\r\nclient_id:{}\r\n\
                    forwarded:{}\r\nrefused:{}\r\nunknown:{}\r\nparked:{}\r\nreplica_reads:{}\r\nreplica_repeats:{}\r\n",
                worker.config.node,
                routes.name,
                worker.routes.epoch(),
                session.id,
                report.stats.forwarded,
                report.stats.refused,
                report.stats.unknown,
                report.stats.parked,
                report.stats.replica_reads,
                report.stats.replica_repeats
            ),
        ),
    ];
    let asked: Vec<&[u8]> = (1..call.args.len()).map(|i| call.get(i)).collect();
    let all = asked.is_empty()
        || asked.iter().any(|a| [&b"all"[..], b"default", b"everything"].iter().any(|w| a.eq_ignore_ascii_case(w)));
    let wanted = |name: &str| all || asked.iter().any(|a| a.eq_ignore_ascii_case(name.as_bytes()));
    let texts: Vec<String> = sections.into_iter().filter(|(name, _)| wanted(name)).map(|(_, text)| text).collect();
    texts.join("\r\n")
}

pub(super) fn config_get(
    worker: &Worker,
    routes: &ProductRoutes,
    call: &CallContext<'_>,
    version: Version,
    out: &mut Vec<u8>,
) {
    let known = [
        ("appendonly", "no".to_owned()),
        ("databases", routes.databases.to_string()),
        ("maxclients", worker.config.limits.clients_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", crate::resp::limits::BULK_MAX.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ];
    // Supports only the patterns that people type: a prefix and a star.
    let fits = |pattern: &[u8], name: &[u8]| match pattern.strip_suffix(b"*") {
        Some(start) => name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
        None => pattern.eq_ignore_ascii_case(name),
    };
    let asked = |name: &str| (2..call.args.len()).any(|i| fits(call.get(i), name.as_bytes()));
    let found: Vec<_> = known.iter().filter(|(name, _)| asked(name)).collect();
    write::map(out, found.len(), version);
    for (name, value) in found {
        write::bulk(out, name.as_bytes());
        write::bulk(out, value.as_bytes());
    }
}
