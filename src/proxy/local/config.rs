//! CONFIG: the settings that clients ask for. Values that belong to the servers come from them; nothing of a client is sent
//! there. Knows nothing of how servers are asked.

mod glob;

use std::collections::BTreeMap;

pub(super) use glob::matches;

use super::{QUOTED_MAX, info::clients_max};
use crate::{
    commands::Args,
    model::route::ProductRoutes,
    proxy::{dispatch::CallContext, own_settings::OwnSetting, session::Session, worker::Worker},
    resp::{limits::BULK_MAX, write},
};

/// Settings that a node answers by itself.
const OF_NODE: [&str; 10] = [
    "bind-source-addr",
    "cluster-enabled",
    "databases",
    "maxclients",
    "notify-keyspace-events",
    "proto-max-bulk-len",
    "slowlog-log-slower-than",
    "slowlog-max-len",
    "tcp-keepalive",
    "timeout",
];

/// Settings of the servers that clients may see: none of them is a secret or says where a server is.
const OF_SERVERS: [&str; 68] = [
    "active-defrag-cycle-max",
    "active-defrag-cycle-min",
    "active-defrag-ignore-bytes",
    "active-defrag-max-scan-fields",
    "active-defrag-threshold-lower",
    "active-defrag-threshold-upper",
    "active-expire-effort",
    "activedefrag",
    "activerehashing",
    "aof-load-truncated",
    "aof-rewrite-incremental-fsync",
    "aof-timestamp-enabled",
    "aof-use-rdb-preamble",
    "appendfsync",
    "appendonly",
    "auto-aof-rewrite-min-size",
    "auto-aof-rewrite-percentage",
    "busy-reply-threshold",
    "close-on-replica-write",
    "dynamic-hz",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "hash-max-ziplist-entries",
    "hash-max-ziplist-value",
    "hll-sparse-max-bytes",
    "hz",
    "io-threads",
    "jemalloc-bg-thread",
    "latency-monitor-threshold",
    "latency-tracking",
    "latency-tracking-info-percentiles",
    "lazyfree-lazy-eviction",
    "lazyfree-lazy-expire",
    "lazyfree-lazy-server-del",
    "lazyfree-lazy-user-del",
    "lazyfree-lazy-user-flush",
    "lfu-decay-time",
    "lfu-log-factor",
    "list-compress-depth",
    "list-max-listpack-size",
    "list-max-ziplist-size",
    "lua-time-limit",
    "maxmemory",
    "maxmemory-clients",
    "maxmemory-eviction-tenacity",
    "maxmemory-policy",
    "maxmemory-samples",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "no-appendfsync-on-rewrite",
    "rdb-save-incremental-fsync",
    "rdbchecksum",
    "rdbcompression",
    "repl-backlog-size",
    "replica-lazy-flush",
    "replica-read-only",
    "sanitize-dump-payload",
    "save",
    "set-max-intset-entries",
    "set-max-listpack-entries",
    "set-max-listpack-value",
    "stop-writes-on-bgsave-error",
    "stream-node-max-bytes",
    "stream-node-max-entries",
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
    "zset-max-ziplist-entries",
    "zset-max-ziplist-value",
];

/// Those that clients never change, even where the operator lets them change others: they decide whether writes of a group are
/// kept, and Pontoon relies on them.
const FIXED: [&str; 3] = ["min-replicas-max-lag", "min-replicas-to-write", "replica-read-only"];

/// Settings that are sums over the groups.
const SUMS: [&str; 1] = ["maxmemory"];

/// Values by name.
pub(in crate::proxy) type Settings = BTreeMap<String, String>;

/// The settings of servers for which a call asks.
pub(in crate::proxy) fn of_servers(call: &CallContext<'_>) -> Vec<&'static str> {
    OF_SERVERS.into_iter().filter(|name| is_asked(call, name)).collect()
}

/// Whether CONFIG GET asks for a setting, or CONFIG SET sets it.
fn is_asked(call: &CallContext<'_>, name: &str) -> bool {
    let sets = call.get(1).eq_ignore_ascii_case(b"set");
    let mut words = (2..call.args.len()).step_by(if sets { 2 } else { 1 });
    words.any(|i| match sets {
        true => call.get(i).eq_ignore_ascii_case(name.as_bytes()),
        false => matches(&call.get(i).to_ascii_lowercase(), name.as_bytes()),
    })
}

/// The value of a setting of several servers.
pub(in crate::proxy) fn merge(settings: &mut Settings, of_server: Settings) {
    for (name, value) in of_server {
        match settings.get_mut(&name) {
            None => {
                settings.insert(name, value);
            }
            Some(sum) if SUMS.contains(&name.as_str()) => {
                let numbers = (sum.parse::<u64>().unwrap_or_default(), value.parse::<u64>().unwrap_or_default());
                // 0 is no limit.
                *sum = match numbers {
                    (0, _) | (_, 0) => "0".to_owned(),
                    (a, b) => a.saturating_add(b).to_string(),
                };
            }
            // The servers of a product are alike; if not, the first one counts.
            Some(_) => {}
        }
    }
}

fn of_node(worker: &Worker, session: &Session, routes: &ProductRoutes, name: &str) -> String {
    if let Some(setting) = OwnSetting::named(name) {
        let slow_request = worker.config.limits.slow_request;
        return session.product.own_settings.shown(setting, slow_request, routes.rules.idle_ms).to_string();
    }
    match name {
        "cluster-enabled" => "no".to_owned(),
        "databases" => routes.databases.to_string(),
        "maxclients" => clients_max(worker, routes).to_string(),
        "proto-max-bulk-len" => BULK_MAX.to_string(),
        "tcp-keepalive" => "300".to_owned(),
        // Publish and subscribe is not offered; a node binds to no address of its own.
        _ => String::new(),
    }
}

/// The settings for which a call asks, by name.
fn asked(
    worker: &Worker,
    session: &Session,
    routes: &ProductRoutes,
    call: &CallContext<'_>,
    servers: &Settings,
) -> Settings {
    let of_node = OF_NODE.into_iter().filter(|name| is_asked(call, name));
    let value = |name: &str| self::of_node(worker, session, routes, name);
    let mut settings: Settings = of_node.map(|name| (name.to_owned(), value(name))).collect();
    let of_servers = servers.iter().filter(|(name, _)| is_asked(call, name));
    settings.extend(of_servers.map(|(name, value)| (name.clone(), value.clone())));
    settings
}

/// Writes the reply to CONFIG GET. `servers`: the settings of the servers.
pub(in crate::proxy) fn get(
    worker: &Worker,
    session: &Session,
    routes: &ProductRoutes,
    call: &CallContext<'_>,
    servers: &Settings,
    out: &mut Vec<u8>,
) {
    let version = session.client.borrow().version;
    let found = asked(worker, session, routes, call, servers);
    write::map(out, found.len(), version);
    for (name, value) in found {
        write::bulk(out, name.as_bytes());
        write::bulk(out, value.as_bytes());
    }
}

/// What a CONFIG SET changes: nothing where everything is as the call wants it already.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Changes {
    /// For the clients of the product at this node.
    pub(in crate::proxy) own: Vec<(OwnSetting, i64)>,
    /// Names and values, alternating, for each of the primaries.
    pub(in crate::proxy) at_servers: Vec<Vec<u8>>,
}

/// What CONFIG SET changes. `servers`: the present settings of the servers.
///
/// # Errors
/// Returns the text for the client if it names a setting that does not exist, or wants something that clients may not change.
pub(in crate::proxy) fn changes(
    worker: &Worker,
    session: &Session,
    routes: &ProductRoutes,
    call: &CallContext<'_>,
    servers: &Settings,
) -> Result<Changes, String> {
    check_names(call)?;
    let present = asked(worker, session, routes, call, servers);
    let mut changes = Changes::default();
    for (name, value) in pairs(call) {
        if let Some(setting) = OwnSetting::named(&name) {
            changes.own.push((setting, setting.parse(value, routes.rules.idle_ms)?));
            continue;
        }
        let is_fixed = FIXED.contains(&name.as_str());
        let may_change = routes.rules.debug_commands && OF_SERVERS.contains(&name.as_str());
        if may_change && !is_fixed {
            let share = share(&name, value, routes.groups.len());
            changes.at_servers.extend([name.into_bytes(), share]);
            continue;
        }
        match present.get(&name) {
            Some(present) if is_same(present, value) => {}
            None => return Err(format!("ERR CONFIG SET '{name}': its server does not answer, not executed")),
            Some(_) if may_change => {
                return Err(format!(
                    "ERR CONFIG SET '{name}': it decides whether writes are kept, so clients of this proxy do not change \
                     it, not executed. The operator sets it at the servers"
                ));
            }
            Some(present) => return Err(not_changed(&name, present)),
        }
    }
    Ok(changes)
}

/// Whether CONFIG SET names a setting that it can change, which all workers must do.
pub(super) fn may_change(call: &CallContext<'_>) -> bool {
    pairs(call).any(|(name, _)| OwnSetting::named(&name).is_some())
}

/// The names, in lower case, and the values of CONFIG SET.
fn pairs<'a>(call: &'a CallContext<'_>) -> impl Iterator<Item = (String, &'a [u8])> {
    let name = |i| String::from_utf8_lossy(call.get(i)).to_ascii_lowercase();
    (2..call.args.len() - 1).step_by(2).map(move |i| (name(i), call.get(i + 1)))
}

/// Whether CONFIG SET names only settings that there are. Redis checks all names first.
fn check_names(call: &CallContext<'_>) -> Result<(), String> {
    if !call.args.len().is_multiple_of(2) {
        return Err("ERR syntax error".into());
    }
    let is_known = |name: &str| OF_NODE.contains(&name) || OF_SERVERS.contains(&name);
    let mut names = (2..call.args.len()).step_by(2).map(|i| String::from_utf8_lossy(call.get(i)));
    match names.find(|name| !is_known(&name.to_ascii_lowercase())) {
        Some(name) => Err(format!("ERR Unknown option or number of arguments for CONFIG SET - '{}'", quoted(&name))),
        None => Ok(()),
    }
}

/// The error for a setting that is to be changed.
fn not_changed(name: &str, present: &str) -> String {
    format!(
        "ERR CONFIG SET '{name}': clients do not change the servers of this proxy, not executed. It is '{present}'; the \
         operator sets it at the servers, or by pontoon product set"
    )
}

/// The value that each of `groups` servers gets: of a sum its share, rounded up.
fn share(name: &str, value: &[u8], groups: usize) -> Vec<u8> {
    let sum = std::str::from_utf8(value).ok().filter(|_| SUMS.contains(&name)).and_then(bytes);
    sum.map_or_else(|| value.to_vec(), |sum| sum.div_ceil(groups.max(1) as u64).to_string().into_bytes())
}

/// At most as much of a client's own text as errors repeat.
fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_MAX).collect()
}

/// Whether a value means the same as the present one.
fn is_same(present: &str, wanted: &[u8]) -> bool {
    let Ok(wanted) = std::str::from_utf8(wanted) else { return false };
    if present.eq_ignore_ascii_case(wanted) {
        return true;
    }
    match (bytes(present), bytes(wanted)) {
        (Some(present), Some(wanted)) => present == wanted,
        _ => false,
    }
}

/// A number of bytes, with a unit or without. (Redis, `memtoull`.)
fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let unit = match text[end..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1000 * 1000,
        "mb" => 1 << 20,
        "g" => 1000 * 1000 * 1000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_as_redis_reads_them() {
        for (present, wanted, same) in [
            ("yes", "YES", true),
            ("104857600", "100mb", true),
            ("104857600", "100m", false),
            ("0", "0", true),
            ("noeviction", "allkeys-lru", false),
            ("", "", true),
            ("3600 1", "3600 1", true),
            ("18446744073709551615", "18446744073709551615gb", false),
        ] {
            assert_eq!(is_same(present, wanted.as_bytes()), same, "{present} {wanted}");
        }
    }

    #[test]
    fn servers_are_merged() {
        let of = |pairs: &[(&str, &str)]| -> Settings {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let mut settings = of(&[("maxmemory", "100"), ("save", "")]);
        merge(&mut settings, of(&[("maxmemory", "50"), ("save", "3600 1"), ("hz", "10")]));
        assert_eq!(settings, of(&[("maxmemory", "150"), ("save", ""), ("hz", "10")]));
        merge(&mut settings, of(&[("maxmemory", "0")]));
        assert_eq!(settings["maxmemory"], "0");
    }

    #[test]
    fn a_sum_is_divided() {
        let of = |name, value: &str| String::from_utf8_lossy(&share(name, value.as_bytes(), 3)).into_owned();
        assert_eq!(
            (of("maxmemory", "100"), of("maxmemory", "3mb"), of("maxmemory", "0")),
            ("34".into(), "1048576".into(), "0".into())
        );
        // The server says that it is no number.
        assert_eq!((of("maxmemory", "x"), of("hz", "100")), ("x".into(), "100".into()));
    }

    #[test]
    fn what_keeps_writes_is_shown_and_fixed() {
        assert!(FIXED.iter().all(|name| OF_SERVERS.contains(name)));
    }

    #[test]
    fn no_secret_is_shown() {
        for name in OF_NODE.iter().chain(&OF_SERVERS) {
            let secret = ["pass", "auth", "masteruser", "tls", "file", "dir", "replicaof", "announce"];
            assert!(!secret.iter().any(|word| name.contains(word)), "{name}");
        }
    }
}
