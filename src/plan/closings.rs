//! Clients that nodes close because their memory budget is used up: when that begins, and what people read about it.
//! Knows nothing of which clients those are; the node's log has them.

use crate::model::{
    change::{NodeNote, NoteNode},
    ids::{Incarnation, NodeId},
    limits::CONDITION_ABSENT_MS,
};

/// What a heartbeat says about the memory budget of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Clients closed for the budget since the process started.
    pub clients_closed: u64,
    /// The budget, bytes.
    pub budget: u64,
}

/// The closings of a node that the leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closings {
    incarnation: Incarnation,
    clients_closed: u64,
    /// When the number last rose, nanoseconds of `CLOCK_BOOTTIME` of the leader; `None`: not in this term.
    rose_ns: Option<u64>,
}

impl Closings {
    /// What is known after the first report of a node in a term. It says nothing of when those clients were closed, so
    /// it begins nothing: otherwise each change of the leader would repeat old events.
    #[must_use]
    pub const fn first(incarnation: Incarnation, report: MemoryReport) -> Self {
        Self { incarnation, clients_closed: report.clients_closed, rose_ns: None }
    }

    /// What is known after another report, and how many clients the node has closed since the last one if it begins to
    /// close clients now. A new incarnation counts from 0; within one, a smaller number than before (the last heartbeat
    /// has none) says nothing.
    #[must_use]
    pub fn after(self, incarnation: Incarnation, report: MemoryReport, now_ns: u64) -> (Self, Option<u64>) {
        let before = if incarnation == self.incarnation { self.clients_closed } else { 0 };
        let closed = report.clients_closed.saturating_sub(before);
        let clients_closed = before.max(report.clients_closed);
        if closed == 0 {
            return (Self { incarnation, clients_closed, ..self }, None);
        }
        let absent = |rose_ns: u64| now_ns.saturating_sub(rose_ns) / NS_PER_MS >= CONDITION_ABSENT_MS;
        let begins = self.rose_ns.is_none_or(absent);
        (Self { incarnation, clients_closed, rose_ns: Some(now_ns) }, begins.then_some(closed))
    }
}

/// Nanoseconds of a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// The note about a node that begins to close clients.
#[must_use]
pub fn note(node: NodeId, closed: u64, budget: u64) -> NoteNode {
    let clients = if closed == 1 { "1 client".to_owned() } else { format!("{closed} clients") };
    let text = format!(
        "closed {clients} so far: the data that it holds for clients exceeds its memory budget (proxy.memory_max, {budget} \
         bytes). The node's log names the clients. If they are legitimate, raise proxy.memory_max; else limit them with \
         `pontoon product set NAME clients-max=N`"
    );
    NoteNode { node, note: NodeNote::ClientsClosed, text, before: String::new(), after: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// The events after these reports: second, incarnation, clients closed.
    fn events(reports: &[(u64, u64, u64)]) -> Vec<(u64, u64)> {
        let mut known: Option<Closings> = None;
        let mut events = Vec::new();
        for &(second, incarnation, clients_closed) in reports {
            let (incarnation, report) = (Incarnation(incarnation), MemoryReport { clients_closed, budget: 1 });
            let Some(before) = known else {
                known = Some(Closings::first(incarnation, report));
                continue;
            };
            let (after, begun) = before.after(incarnation, report, second * SECOND);
            known = Some(after);
            events.extend(begun.map(|closed| (second, closed)));
        }
        events
    }

    #[test]
    fn an_event_is_due_when_a_node_begins_to_close_clients() {
        for (what, reports, due) in [
            ("nothing is closed", &[(1, 5, 0), (2, 5, 0)][..], &[][..]),
            ("closings before the term", &[(1, 5, 7), (2, 5, 7)], &[]),
            ("closings begin", &[(1, 5, 7), (2, 5, 10), (3, 5, 12)], &[(2, 3)]),
            ("they go on: no second event", &[(1, 5, 0), (2, 5, 1), (50, 5, 2), (109, 5, 3), (168, 5, 4)], &[(2, 1)]),
            ("they begin anew after a minute", &[(1, 5, 0), (2, 5, 1), (61, 5, 1), (62, 5, 5)], &[(2, 1), (62, 4)]),
            ("a restart", &[(1, 5, 9), (2, 6, 0), (3, 6, 0)], &[]),
            ("closings of a new process, fewer than before", &[(1, 5, 9), (2, 6, 4)], &[(2, 4)]),
            ("the last heartbeat has no number", &[(1, 5, 9), (2, 5, 0), (3, 5, 9)], &[]),
            ("numbers at their limit", &[(1, 5, u64::MAX), (2, 5, u64::MAX), (3, 6, u64::MAX)], &[(3, u64::MAX)]),
        ] {
            assert_eq!(events(reports), due, "{what}");
        }
    }

    #[test]
    fn the_text_says_how_many_why_and_what_to_do() {
        let NoteNode { node, note: of, text, .. } = note(NodeId(2), u64::MAX, u64::MAX);
        assert_eq!((node, of), (NodeId(2), NodeNote::ClientsClosed));
        for part in [&u64::MAX.to_string()[..], "proxy.memory_max", "clients-max", "log"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.len() <= crate::model::limits::TEXT_LEN_MAX, "{} bytes", text.len());
        assert!(note(NodeId(2), 1, 64 << 20).text.starts_with("closed 1 client so far"));
    }
}
