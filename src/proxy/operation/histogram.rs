//! LATENCY HISTOGRAM: how long calls took at the primaries of all groups, added up. Knows nothing of how servers measure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Operation,
    texts::{Item, items},
};
use crate::{
    commands::{Args, CommandNumber},
    resp::write::{self, Version},
};

/// How long a primary may take for its answer. One that takes longer is left out, as in INFO.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Runs LATENCY HISTOGRAM. Commands that only other products or the nodes themselves have sent are left out, and those of modules,
/// which the node does not count one by one.
pub(super) async fn histogram(operation: Operation) {
    let mut request = Vec::new();
    {
        let call = operation.call();
        let mut words: Vec<&[u8]> = vec![b"LATENCY", b"HISTOGRAM"];
        words.extend((2..call.len()).map(|i| call.get(i)));
        write::request(&mut request, &words);
    }
    let mut histograms = BTreeMap::new();
    // Servers before Redis 7 answer with an error.
    for (_, reply) in operation.ask_primaries_until(&request, Instant::now() + ANSWER_MAX).await {
        for (name, histogram) in reply.as_deref().and_then(of_server).unwrap_or_default() {
            histograms.entry(name).or_insert_with(Vec::new).push(histogram);
        }
    }
    let usage = operation.worker.shared.usage.total(operation.routes().id);
    let called = CommandNumber::all().zip(&usage.commands).filter(|(_, calls)| calls.calls > 0);
    let called: BTreeSet<&str> = called.map(|(spec, _)| spec.name).collect();
    histograms.retain(|name: &String, _| called.contains(name.as_str()));
    let version = operation.session.client.borrow().version;
    let mut reply = Vec::new();
    write::map(&mut reply, histograms.len(), version);
    for (name, of_servers) in histograms {
        write::bulk(&mut reply, name.as_bytes());
        Histogram::sum(&of_servers).write(&mut reply, version);
    }
    operation.finish(&reply);
}

/// The calls of a command at a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Histogram {
    calls: i64,
    /// Microseconds, ascending, and the number of calls that took at most as long. A bucket without calls of its own is left
    /// out.
    buckets: Vec<(i64, i64)>,
}

impl Histogram {
    fn sum(of_servers: &[Self]) -> Self {
        let calls = of_servers.iter().map(|one| one.calls).fold(0, i64::saturating_add);
        let limits: BTreeSet<i64> = of_servers.iter().flat_map(|one| &one.buckets).map(|(limit, _)| *limit).collect();
        let buckets = limits.into_iter().map(|limit| {
            let up_to = of_servers.iter().map(|one| one.up_to(limit));
            (limit, up_to.fold(0, i64::saturating_add))
        });
        Self { calls, buckets: buckets.collect() }
    }

    /// The number of calls that took at most `limit` microseconds.
    fn up_to(&self, limit: i64) -> i64 {
        self.buckets.iter().take_while(|(of_bucket, _)| *of_bucket <= limit).last().map_or(0, |(_, count)| *count)
    }

    fn write(&self, out: &mut Vec<u8>, version: Version) {
        write::map(out, 2, version);
        write::bulk(out, b"calls");
        write::int(out, self.calls);
        write::bulk(out, b"histogram_usec");
        write::map(out, self.buckets.len(), version);
        for (limit, count) in &self.buckets {
            write::int(out, *limit);
            write::int(out, *count);
        }
    }
}

/// The histograms in a server's reply in RESP2, by the name of the command. `None`: the reply is another one.
fn of_server(reply: &[u8]) -> Option<Vec<(String, Histogram)>> {
    let mut items = items(reply)?.into_iter().peekable();
    let mut all = Vec::new();
    while let Some(name) = items.next() {
        let Item::Text(name) = name else { return None };
        if items.next()? != Item::Text("calls".into()) {
            return None;
        }
        let Item::Number(calls) = items.next()? else { return None };
        if items.next()? != Item::Text("histogram_usec".into()) {
            return None;
        }
        let mut histogram = Histogram { calls, buckets: Vec::new() };
        while let Some(Item::Number(limit)) = items.peek() {
            let limit = *limit;
            items.next();
            let Some(Item::Number(count)) = items.next() else { return None };
            histogram.buckets.push((limit, count));
        }
        all.push((name, histogram));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn histogram(calls: i64, buckets: &[(i64, i64)]) -> Histogram {
        Histogram { calls, buckets: buckets.to_vec() }
    }

    #[test]
    fn a_reply_is_read_as_it_is_written() {
        let mut reply = Vec::new();
        let all = [("get".to_owned(), histogram(3, &[(1, 2), (4, 3)])), ("set".to_owned(), histogram(0, &[]))];
        write::map(&mut reply, all.len(), Version::Resp2);
        for (name, histogram) in &all {
            write::bulk(&mut reply, name.as_bytes());
            histogram.write(&mut reply, Version::Resp2);
        }
        assert_eq!(of_server(&reply).unwrap(), all);
        for end in 0..reply.len() {
            assert_eq!(of_server(&reply[..end]), None, "{end}");
        }
        assert_eq!(of_server(b"-ERR unknown subcommand\r\n"), None);
    }

    #[test]
    fn counts_up_to_a_limit_are_added() {
        let sum = Histogram::sum(&[histogram(5, &[(1, 2), (8, 5)]), histogram(4, &[(2, 1), (4, 4)])]);
        assert_eq!(sum, histogram(9, &[(1, 2), (2, 3), (4, 6), (8, 9)]));
    }
}
