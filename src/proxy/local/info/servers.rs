//! What the primaries of a product say in INFO, merged: sums where a sum means something. What is not listed here is not
//! shown. Knows nothing of how they are asked.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
};

use crate::{
    model::ids::GroupId,
    resp::number::{Header, header},
};

/// What the servers said.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct ServerFigures {
    /// The text of INFO of each primary that has answered.
    pub(in crate::proxy) texts: Vec<String>,
    /// The groups whose primary has not answered.
    pub(in crate::proxy) unanswered: Vec<GroupId>,
    /// Keys of the product by database, where it is known how many of the servers' keys are its own.
    pub(in crate::proxy) own_keys: BTreeMap<u32, u64>,
}

/// The text in the reply to INFO; `None`: the reply is another one.
pub(in crate::proxy) fn text_of(reply: &[u8]) -> Option<String> {
    let Header::Number(len, from) = header(reply, 1) else { return None };
    let text = reply.get(from..from.checked_add(usize::try_from(len).ok()?)?)?;
    (reply.first() == Some(&b'$')).then(|| String::from_utf8_lossy(text).into_owned())
}

/// How the values of servers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merge {
    Sum,
    Max,
    Min,
    /// The sum; 0, which means no limit, if one of them is 0.
    Limit,
    /// `ok`, or the first other value.
    Ok,
    /// The value of all, or `mixed`.
    Same,
    /// Bytes of another field for people.
    Human(&'static str),
    /// The first field divided by the second.
    Ratio(&'static str, &'static str),
    /// The first field in percent of the second.
    Percent(&'static str, &'static str),
    /// The first field less the second.
    Difference(&'static str, &'static str),
}
use Merge::{Difference, Human, Limit, Max, Min, Ok as AllOk, Percent, Ratio, Same, Sum};

const MEMORY: &[(&str, Merge)] = &[
    ("used_memory", Sum),
    ("used_memory_human", Human("used_memory")),
    ("used_memory_rss", Sum),
    ("used_memory_rss_human", Human("used_memory_rss")),
    ("used_memory_peak", Sum),
    ("used_memory_peak_human", Human("used_memory_peak")),
    ("used_memory_peak_perc", Percent("used_memory", "used_memory_peak")),
    ("used_memory_overhead", Sum),
    ("used_memory_startup", Sum),
    ("used_memory_dataset", Sum),
    ("used_memory_dataset_perc", Percent("used_memory_dataset", "used_memory")),
    ("allocator_allocated", Sum),
    ("allocator_active", Sum),
    ("allocator_resident", Sum),
    // Servers may share a machine.
    ("total_system_memory", Max),
    ("total_system_memory_human", Human("total_system_memory")),
    ("used_memory_lua", Sum),
    ("used_memory_vm_eval", Sum),
    ("used_memory_lua_human", Human("used_memory_lua")),
    ("used_memory_scripts_eval", Sum),
    ("number_of_cached_scripts", Max),
    ("number_of_functions", Max),
    ("number_of_libraries", Max),
    ("used_memory_vm_functions", Sum),
    ("used_memory_vm_total", Sum),
    ("used_memory_vm_total_human", Human("used_memory_vm_total")),
    ("used_memory_functions", Sum),
    ("used_memory_scripts", Sum),
    ("used_memory_scripts_human", Human("used_memory_scripts")),
    ("maxmemory", Limit),
    ("maxmemory_human", Human("maxmemory")),
    ("maxmemory_policy", Same),
    ("allocator_frag_ratio", Ratio("allocator_active", "allocator_allocated")),
    ("allocator_frag_bytes", Difference("allocator_active", "allocator_allocated")),
    ("allocator_rss_ratio", Ratio("allocator_resident", "allocator_active")),
    ("allocator_rss_bytes", Difference("allocator_resident", "allocator_active")),
    ("rss_overhead_ratio", Ratio("used_memory_rss", "allocator_resident")),
    ("rss_overhead_bytes", Difference("used_memory_rss", "allocator_resident")),
    ("mem_fragmentation_ratio", Ratio("used_memory_rss", "used_memory")),
    ("mem_fragmentation_bytes", Difference("used_memory_rss", "used_memory")),
    ("mem_not_counted_for_evict", Sum),
    ("mem_replication_backlog", Sum),
    ("mem_total_replication_buffers", Sum),
    ("mem_clients_slaves", Sum),
    ("mem_clients_normal", Sum),
    ("mem_cluster_links", Sum),
    ("mem_aof_buffer", Sum),
    ("mem_allocator", Same),
    ("active_defrag_running", Max),
    ("lazyfree_pending_objects", Sum),
    ("lazyfreed_objects", Sum),
];

const PERSISTENCE: &[(&str, Merge)] = &[
    ("loading", Max),
    ("async_loading", Max),
    ("current_cow_peak", Sum),
    ("current_cow_size", Sum),
    ("current_cow_size_age", Max),
    ("current_fork_perc", Max),
    ("current_save_keys_processed", Sum),
    ("current_save_keys_total", Sum),
    ("rdb_changes_since_last_save", Sum),
    ("rdb_bgsave_in_progress", Max),
    ("rdb_last_save_time", Min),
    ("rdb_last_bgsave_status", AllOk),
    ("rdb_last_bgsave_time_sec", Max),
    ("rdb_current_bgsave_time_sec", Max),
    ("rdb_saves", Sum),
    ("rdb_last_cow_size", Sum),
    ("rdb_last_load_keys_expired", Sum),
    ("rdb_last_load_keys_loaded", Sum),
    ("aof_enabled", Min),
    ("aof_rewrite_in_progress", Max),
    ("aof_rewrite_scheduled", Max),
    ("aof_last_rewrite_time_sec", Max),
    ("aof_current_rewrite_time_sec", Max),
    ("aof_last_bgrewrite_status", AllOk),
    ("aof_rewrites", Sum),
    ("aof_rewrites_consecutive_failures", Max),
    ("aof_last_write_status", AllOk),
    ("aof_last_cow_size", Sum),
    ("module_fork_in_progress", Max),
    ("module_fork_last_cow_size", Sum),
    ("aof_current_size", Sum),
    ("aof_base_size", Sum),
    ("aof_pending_rewrite", Max),
    ("aof_buffer_length", Sum),
    ("aof_pending_bio_fsync", Sum),
    ("aof_delayed_fsync", Sum),
];

const STATS: &[(&str, Merge)] = &[
    ("expired_subkeys", Sum),
    ("expired_keys", Sum),
    ("expired_stale_perc", Max),
    ("expired_time_cap_reached_count", Sum),
    ("expire_cycle_cpu_milliseconds", Sum),
    ("evicted_keys", Sum),
    ("evicted_scripts", Sum),
    ("total_eviction_exceeded_time", Sum),
    ("current_eviction_exceeded_time", Max),
    ("keyspace_hits", Sum),
    ("keyspace_misses", Sum),
    ("latest_fork_usec", Max),
    ("total_forks", Sum),
    ("active_defrag_hits", Sum),
    ("active_defrag_misses", Sum),
    ("active_defrag_key_hits", Sum),
    ("active_defrag_key_misses", Sum),
    ("total_active_defrag_time", Sum),
    ("current_active_defrag_time", Max),
];

/// Calls of one command at the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ServerCalls {
    calls: u64,
    usec: u64,
}

impl ServerCalls {
    /// Microseconds of one call on average.
    pub(super) fn usec_per_call(self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.usec as f64 / self.calls as f64 }
    }
}

/// Fields of the servers, read once.
pub(super) struct Fields<'a>(Vec<BTreeMap<&'a str, &'a str>>);

impl<'a> Fields<'a> {
    pub(super) fn of(figures: &'a ServerFigures) -> Self {
        let fields = |text: &'a String| text.lines().filter_map(|line| line.split_once(':')).collect();
        Self(figures.texts.iter().map(fields).collect())
    }

    pub(super) fn memory(&self, out: &mut String) {
        self.write(MEMORY, out);
    }

    pub(super) fn persistence(&self, out: &mut String) {
        self.write(PERSISTENCE, out);
    }

    pub(super) fn stats(&self, out: &mut String) {
        self.write(STATS, out);
    }

    fn write(&self, fields: &[(&'static str, Merge)], out: &mut String) {
        for (name, merge) in fields {
            if let Some(value) = self.merged(fields, name, *merge) {
                line(out, name, value);
            }
        }
    }

    /// The value of a field; `None`: no server has it.
    fn merged(&self, fields: &[(&'static str, Merge)], name: &str, merge: Merge) -> Option<String> {
        let of_other = |name: &str| {
            let merge = fields.iter().find(|(other, _)| *other == name)?.1;
            self.number(name, merge)
        };
        match merge {
            Sum | Max | Min | Limit => self.number(name, merge).map(shown),
            AllOk => {
                let mut values = self.values(name);
                let first = values.next()?;
                let bad = std::iter::once(first).chain(values).find(|value| *value != "ok");
                Some(bad.unwrap_or("ok").to_owned())
            }
            Same => {
                let mut values = self.values(name);
                let first = values.next()?;
                Some(if values.all(|value| value == first) { first } else { "mixed" }.to_owned())
            }
            Human(of) => of_other(of).map(human),
            Ratio(a, b) => Some(format!("{:.2}", ratio(of_other(a)?, of_other(b)?))),
            Percent(a, b) => Some(format!("{:.2}%", 100.0 * ratio(of_other(a)?, of_other(b)?))),
            Difference(a, b) => Some(shown(of_other(a)? - of_other(b)?)),
        }
    }

    fn number(&self, name: &str, merge: Merge) -> Option<f64> {
        let values = self.values(name).filter_map(|value| value.parse::<f64>().ok()).filter(|value| value.is_finite());
        let (mut has, mut unlimited) = (false, false);
        let merged = values.fold(0.0, |merged: f64, value| {
            let first = !std::mem::replace(&mut has, true);
            unlimited |= value == 0.0;
            match merge {
                Max if !first => merged.max(value),
                Min if !first => merged.min(value),
                Max | Min => value,
                _ => merged + value,
            }
        });
        has.then_some(if unlimited && merge == Limit { 0.0 } else { merged })
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |fields| fields.get(name).copied())
    }

    /// How often servers executed the command with this name, and for how long.
    pub(super) fn calls(&self, name: &str) -> ServerCalls {
        let mut total = ServerCalls::default();
        for value in self.values(&format!("cmdstat_{name}")) {
            total.calls += part::<u64>(value, "calls").unwrap_or_default();
            total.usec += part::<u64>(value, "usec").unwrap_or_default();
        }
        total
    }

    /// The latency percentiles of a command at the slowest server, as Redis writes them; `None`: no server has them.
    pub(super) fn percentiles(&self, name: &str) -> Option<String> {
        let mut slowest: Vec<(&str, f64)> = Vec::new();
        for value in self.values(&format!("latency_percentiles_usec_{name}")) {
            for (percentile, usec) in value.split(',').filter_map(|pair| pair.split_once('=')) {
                let Ok(usec) = usec.parse::<f64>() else { continue };
                match slowest.iter_mut().find(|(other, _)| *other == percentile) {
                    Some((_, most)) => *most = most.max(usec),
                    None => slowest.push((percentile, usec)),
                }
            }
        }
        let shown: Vec<String> = slowest.iter().map(|(percentile, usec)| format!("{percentile}={usec:.3}")).collect();
        (!shown.is_empty()).then(|| shown.join(","))
    }

    /// The databases that have keys at the servers.
    pub(super) fn databases(&self, below: u32) -> Vec<u32> {
        let has = |db: &u32| self.values(&format!("db{db}")).any(|value| part::<u64>(value, "keys") > Some(0));
        (0..below).filter(has).collect()
    }

    /// The line of a database: its keys, those that expire, and their average time to live in milliseconds. `own`: keys of
    /// the product, where it is known.
    pub(super) fn keyspace(&self, db: u32, own: Option<u64>) -> Option<String> {
        let (mut keys, mut expires, mut ttl, mut subexpiry) = (0_u64, 0_u64, 0_u128, None);
        for value in self.values(&format!("db{db}")) {
            let expiring = part::<u64>(value, "expires").unwrap_or_default();
            keys += part::<u64>(value, "keys").unwrap_or_default();
            expires += expiring;
            ttl += u128::from(expiring) * u128::from(part::<u64>(value, "avg_ttl").unwrap_or_default());
            if let Some(more) = part::<u64>(value, "subexpiry") {
                *subexpiry.get_or_insert(0) += more;
            }
        }
        let avg_ttl = ttl.checked_div(u128::from(expires)).unwrap_or_default();
        if let Some(own) = own {
            // Copies and leftovers expire as often as other keys.
            let share = (u128::from(expires) * u128::from(own)).checked_div(u128::from(keys)).unwrap_or_default();
            expires = u64::try_from(share).unwrap_or(u64::MAX).min(own);
            keys = own;
        }
        let more = subexpiry.map(|count: u64| format!(",subexpiry={count}")).unwrap_or_default();
        (keys > 0).then(|| format!("db{db}:keys={keys},expires={expires},avg_ttl={avg_ttl}{more}\r\n"))
    }
}

/// The number behind `name=` in a list of them.
fn part<T: std::str::FromStr>(list: &str, name: &str) -> Option<T> {
    let mut pairs = list.split(',').filter_map(|pair| pair.split_once('='));
    pairs.find(|(other, _)| *other == name)?.1.parse().ok()
}

fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

fn shown(value: f64) -> String {
    // Numbers of bytes and events are whole, and exact up to 2^53.
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Bytes as Redis writes them. (Redis, `bytesToHuman`.)
pub(super) fn human(bytes: f64) -> String {
    let units = ["K", "M", "G", "T", "P"];
    if bytes < 1024.0 {
        return format!("{bytes:.0}B");
    }
    let mut value = bytes / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", units[unit])
}

/// Writes a line.
pub(super) fn line(out: &mut String, name: &str, value: impl Display) {
    // Writing to a string does not fail.
    let _ = write!(out, "{name}:{value}\r\n");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn figures(texts: &[&str]) -> ServerFigures {
        let texts = texts.iter().map(|text| text.replace(' ', "\r\n")).collect();
        ServerFigures { texts, ..ServerFigures::default() }
    }

    #[test]
    fn values_of_servers_become_one() {
        let of = figures(&[
            "used_memory:1048576 used_memory_rss:2097152 maxmemory:100 maxmemory_policy:noeviction loading:0 \
             rdb_last_save_time:50 rdb_last_bgsave_status:ok aof_enabled:1 keyspace_hits:7 expired_stale_perc:0.25 secret:1",
            "used_memory:1048576 used_memory_rss:3145728 maxmemory:0 maxmemory_policy:allkeys-lru loading:1 \
             rdb_last_save_time:40 rdb_last_bgsave_status:err aof_enabled:0 keyspace_hits:5 expired_stale_perc:0.75",
        ]);
        let fields = Fields::of(&of);
        let mut out = String::new();
        fields.memory(&mut out);
        fields.persistence(&mut out);
        fields.stats(&mut out);
        let want = "used_memory:2097152 used_memory_human:2.00M used_memory_rss:5242880 used_memory_rss_human:5.00M \
                    maxmemory:0 maxmemory_human:0B maxmemory_policy:mixed mem_fragmentation_ratio:2.50 \
                    mem_fragmentation_bytes:3145728 loading:1 rdb_last_save_time:40 rdb_last_bgsave_status:err aof_enabled:0 \
                    expired_stale_perc:0.75 keyspace_hits:12";
        assert_eq!(out.split_terminator("\r\n").collect::<Vec<_>>(), want.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_shown_that_no_server_has() {
        let mut out = String::new();
        Fields::of(&figures(&["nonsense keyspace_hits:many", ""])).stats(&mut out);
        assert_eq!(out, "");
    }

    #[test]
    fn databases_are_added() {
        let of = figures(&[
            "db0:keys=10,expires=4,avg_ttl=100 db9:keys=1,expires=0,avg_ttl=0",
            "db0:keys=30,expires=12,avg_ttl=200",
        ]);
        let fields = Fields::of(&of);
        assert_eq!(fields.databases(16), [0, 9]);
        assert_eq!(fields.databases(9), [0]);
        assert_eq!(fields.keyspace(0, None).unwrap(), "db0:keys=40,expires=16,avg_ttl=175\r\n");
        assert_eq!(fields.keyspace(0, Some(20)).unwrap(), "db0:keys=20,expires=8,avg_ttl=175\r\n");
        assert_eq!(fields.keyspace(9, Some(0)), None);
        assert_eq!(fields.keyspace(3, None), None);
    }

    #[test]
    fn calls_and_latencies_are_merged() {
        let of = figures(&[
            "cmdstat_get:calls=10,usec=20,usec_per_call=2.00 latency_percentiles_usec_get:p50=1.003,p99=2.007,p99.9=9.023",
            "cmdstat_get:calls=30,usec=20,usec_per_call=0.67 latency_percentiles_usec_get:p50=2.003,p99=1.007,p99.9=1.023",
        ]);
        let fields = Fields::of(&of);
        assert_eq!(fields.calls("get").usec_per_call(), 1.0);
        assert_eq!(fields.calls("set").usec_per_call(), 0.0);
        assert_eq!(fields.percentiles("get").unwrap(), "p50=2.003,p99=2.007,p99.9=9.023");
        assert_eq!(fields.percentiles("set"), None);
    }

    #[test]
    fn bytes_are_written_as_redis_does() {
        for (bytes, want) in
            [(0.0, "0B"), (1023.0, "1023B"), (1536.0, "1.50K"), (3.0 * 1024.0 * 1024.0 * 1024.0, "3.00G")]
        {
            assert_eq!(human(bytes), want);
        }
    }

    #[test]
    fn a_reply_that_is_no_text_is_none() {
        assert_eq!(text_of(b"$3\r\na:b\r\n").unwrap(), "a:b");
        for reply in [&b"-ERR x\r\n"[..], b"$-1\r\n", b"$9\r\na\r\n", b""] {
            assert_eq!(text_of(reply), None);
        }
    }
}
