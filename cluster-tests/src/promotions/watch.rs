//! The replication offsets of a group's servers, polled past all relays many times a second, so that what a failover may have lost is
//! measured. Knows nothing of why a server is where it is.

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
/// A server that stands still is connected to again.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// A replica that was seen no longer than this before the promotion could have been chosen.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// Where a server stood.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    primary: bool,
    replid: String,
    offset: u64,
    /// The replication id before its promotion, and the first offset that is not of it.
    former: (String, u64),
}

/// For how long it was seen there: the moments just before the first and the last poll that found it so.
#[derive(Clone, Debug)]
struct Span {
    first: Instant,
    last: Instant,
    standing: Standing,
}

/// The watchers, a thread for each server; they end when it is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Vec<Span>>>>,
}

impl Watch {
    /// Watches the servers at these ports, named by their places in the list from now on.
    #[must_use]
    pub fn start(ports: &[u16]) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::new(Mutex::new(vec![Vec::new(); ports.len()])));
        for (place, port) in ports.iter().copied().enumerate() {
            let (stop, seen) = (stop.clone(), seen.clone());
            std::thread::spawn(move || {
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    if let Some(standing) = poll(&mut client, port) {
                        note(&mut seen.lock().unwrap_or_else(PoisonError::into_inner)[place], began, standing);
                    }
                    let_pass(POLL_INTERVAL);
                }
            });
        }
        Self { stop, seen }
    }

    /// What was acknowledged before this moment was kept when `to` replaced `from` at `at`: the best replica had it. `others`
    /// might have been chosen, too.
    ///
    /// # Errors
    /// What was not seen, or cannot be.
    pub fn cut(&self, from: usize, to: usize, others: &[usize], at: Instant) -> Result<Instant, String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let promoted = seen[to]
            .iter()
            .find(|s| s.standing.primary && !s.standing.former.0.is_empty() && s.last + SEEN_WITHIN >= at);
        let (replid, reached) =
            promoted.map(|s| (s.standing.former.0.clone(), s.standing.former.1.saturating_sub(1))).ok_or_else(
                || format!("server {to} was never seen as a primary with a history behind: {:?}", seen[to].last()),
            )?;
        let best = others.iter().filter_map(|other| {
            let of_history =
                seen[*other].iter().filter(|s| s.first <= at && s.standing.replid == replid && !s.standing.primary);
            of_history.filter(|s| s.last + SEEN_WITHIN >= at).map(|s| s.standing.offset).max()
        });
        let best = best.max().unwrap_or(0).max(reached);
        let of_primary =
            || seen[from].iter().filter(|s| s.first <= at && s.standing.primary && s.standing.replid == replid);
        let kept = of_primary().filter(|s| s.standing.offset <= best).map(|s| s.last).max();
        kept.map(|kept| kept.min(at)).ok_or_else(|| {
            format!(
                "server {to} was promoted with a history ({replid}, up to {best}) that the primary {from} was not seen to have: {:?}",
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

fn note(spans: &mut Vec<Span>, began: Instant, standing: Standing) {
    match spans.last_mut() {
        Some(last) if last.standing == standing => last.last = began,
        _ => spans.push(Span { first: began, last: began, standing }),
    }
}

fn poll(client: &mut Option<Client>, port: u16) -> Option<Standing> {
    let mut open = client.take().or_else(|| Client::connect_within(port, ANSWER_WITHIN).ok())?;
    let Ok(Reply::Bulk(text)) = open.call(&["INFO", "replication"]) else { return None };
    *client = Some(open);
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Option<Standing> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let primary = field("role")? == "master";
    let offset = if primary { "master_repl_offset" } else { "slave_repl_offset" };
    let former = field("master_replid2")?.trim_matches('0').to_owned();
    Some(Standing {
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
    fn info_is_read() {
        let text = "# Replication\r\nrole:slave\r\nmaster_host:127.0.0.1\r\nslave_repl_offset:42\r\nmaster_replid:aaaa\r\n\
                    master_replid2:0000000000000000000000000000000000000000\r\nmaster_repl_offset:43\r\nsecond_repl_offset:-1\r\n";
        let replica = Standing { primary: false, replid: "aaaa".into(), offset: 42, former: (String::new(), 0) };
        assert_eq!(parse(text), Some(replica));
        let text = text
            .replace("slave\r", "master\r")
            .replace(":0000000000000000000000000000000000000000", ":a0")
            .replace("-1", "43");
        let primary = Standing { primary: true, replid: "aaaa".into(), offset: 43, former: ("a0".into(), 43) };
        assert_eq!(parse(&text), Some(primary));
    }
}
