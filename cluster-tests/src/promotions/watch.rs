//! Polls the replication offsets of servers many times a second, directly and not through their relays. From the
//! offsets, the harness determines which writes a failover may have lost. Knows nothing of groups and promotions.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Reply},
    wait::let_pass,
};

/// The interval between two polls of a server.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The deadline of a poll. After it, the watcher reconnects.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// A replica could have been promoted if it answered a poll no longer than this before the promotion.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// The replication state of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReplicationState {
    primary: bool,
    replid: String,
    offset: u64,
    /// The replication id before the server's promotion, and the first offset that does not belong to it.
    former: (String, u64),
}

/// A time span in which the state did not change: the moments just before the first and the last poll that returned it.
#[derive(Clone, Debug)]
struct Span {
    first: Instant,
    last: Instant,
    state: ReplicationState,
}

/// The watchers, one thread per server. They end when this value is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Vec<Span>>>>,
}

impl Watch {
    /// Starts to watch the servers at these ports. A server is then identified by its index in the list.
    #[must_use]
    pub fn start(ports: &[u16]) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::new(Mutex::new(vec![Vec::new(); ports.len()])));
        for (place, port) in ports.iter().copied().enumerate() {
            let (stop, seen) = (stop.clone(), seen.clone());
            std::thread::spawn(move || {
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    if let Some(state) = poll(&mut client, port) {
                        record(&mut seen.lock().unwrap_or_else(PoisonError::into_inner)[place], began, state);
                    }
                    let_pass(POLL_INTERVAL);
                }
            });
        }
        Self { stop, seen }
    }

    /// Returns the time up to which acknowledged writes were kept when `to` replaced `from` at `at`: the most advanced
    /// replica had them. `others` are the replicas that could have been promoted instead.
    ///
    /// # Errors
    /// Returns which observation is missing or contradicts the promotion, as text.
    pub fn kept_until(&self, from: usize, to: usize, others: &[usize], at: Instant) -> Result<Instant, String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let promoted =
            seen[to].iter().find(|s| s.state.primary && !s.state.former.0.is_empty() && s.last + SEEN_WITHIN >= at);
        let (replid, reached) =
            promoted.map(|s| (s.state.former.0.clone(), s.state.former.1.saturating_sub(1))).ok_or_else(|| {
                format!("server {to} was never observed as a primary with a former history: {:?}", seen[to].last())
            })?;
        let best = others.iter().filter_map(|other| {
            let of_history =
                seen[*other].iter().filter(|s| s.first <= at && s.state.replid == replid && !s.state.primary);
            of_history.filter(|s| s.last + SEEN_WITHIN >= at).map(|s| s.state.offset).max()
        });
        let best = best.max().unwrap_or(0).max(reached);
        let of_primary = || seen[from].iter().filter(|s| s.first <= at && s.state.primary && s.state.replid == replid);
        let kept = of_primary().filter(|s| s.state.offset <= best).map(|s| s.last).max();
        kept.map(|kept| kept.min(at)).ok_or_else(|| {
            format!(
                "server {to} was promoted with a history ({replid}, up to {best}) that was never observed at \
                 the primary {from}: {:?}",
                seen[from].last()
            )
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn record(spans: &mut Vec<Span>, began: Instant, state: ReplicationState) {
    match spans.last_mut() {
        Some(last) if last.state == state => last.last = began,
        _ => spans.push(Span { first: began, last: began, state }),
    }
}

fn poll(client: &mut Option<Client>, port: u16) -> Option<ReplicationState> {
    let mut open = client.take().or_else(|| Client::connect_within(port, ANSWER_WITHIN).ok())?;
    let Ok(Reply::Bulk(text)) = open.call(&["INFO", "replication"]) else { return None };
    *client = Some(open);
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Option<ReplicationState> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let primary = field("role")? == "master";
    let offset = if primary { "master_repl_offset" } else { "slave_repl_offset" };
    let former = field("master_replid2")?.trim_matches('0').to_owned();
    Some(ReplicationState {
        primary,
        replid: field("master_replid")?.to_owned(),
        offset: field(offset)?.parse().ok()?,
        former: (
            if former.is_empty() { former } else { field("master_replid2")?.to_owned() },
            field("second_repl_offset")?.parse().unwrap_or(0),
        ),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn info_replication_is_parsed() {
        let text = "# Replication\r\nrole:slave\r\nmaster_host:127.0.0.1\r\nslave_repl_offset:42\r\n\
                    master_replid:aaaa\r\nmaster_replid2:0000000000000000000000000000000000000000\r\n\
                    master_repl_offset:43\r\nsecond_repl_offset:-1\r\n";
        let replica =
            ReplicationState { primary: false, replid: "aaaa".into(), offset: 42, former: (String::new(), 0) };
        assert_eq!(parse(text), Some(replica));
        let text = text
            .replace("slave\r", "master\r")
            .replace(":0000000000000000000000000000000000000000", ":a0")
            .replace("-1", "43");
        let primary = ReplicationState { primary: true, replid: "aaaa".into(), offset: 43, former: ("a0".into(), 43) };
        assert_eq!(parse(&text), Some(primary));
    }
}
