//! Which states of the lease model are the same to what may still go wrong; without it there are many times more.
//! Knows nothing of what may happen in them.

use super::{
    Heartbeat, Lease, NODES, Op, Rule, State, WRITER,
    log::{Entry, open_hold, switched},
};

impl Lease {
    /// Makes states equal that differ only in what can have no effect any more.
    pub(super) fn forget(&self, s: &mut State) {
        let over = switched(s.log.all());
        for node in 0..NODES {
            if s.ops[WRITER] == Op::Done {
                // Nothing demands the write any more.
                s.content = [false; 2];
                for l in &mut s.leaders {
                    l.verdict = l.verdict.map(|(hold, _)| (hold, false));
                }
            }
            let idle = matches!(s.ops[node], Op::Done | Op::Acked);
            if idle {
                // It has no more operations: what it is permitted does not matter, only what leaders think of it.
                s.nodes[node].lease = 0;
                s.nodes[node].leased_once = false;
                s.nodes[node].min_applied = 0;
            }
            for heartbeat in &mut s.heartbeats[node] {
                let useless = match *heartbeat {
                    // Such a grant is no lease; that the leader would wait for it allows nothing more.
                    Heartbeat::Confirmed { age, .. } => idle || age >= self.lease && !self.lacks(Rule::CountFromSend),
                    Heartbeat::Granted { age, start, .. } => {
                        start != s.nodes[node].start || idle || age >= self.lease && !self.lacks(Rule::CountFromSend)
                    }
                    Heartbeat::Sent { age, ack, stopped, .. } => {
                        let old = age >= self.lease && !self.lacks(Rule::CountFromSend);
                        (ack == 0 || over) && !stopped && (old || idle)
                    }
                    Heartbeat::None => false,
                };
                if useless {
                    *heartbeat = Heartbeat::None;
                }
            }
        }
        for l in &mut s.leaders {
            if over {
                l.acks = Default::default();
                l.verdict = None;
            }
            if over && !self.removal {
                l.leases = [0; NODES];
                l.wait = 0;
            }
        }
        let strict =
            ![Rule::TermOnSwitch, Rule::TermOnRemoval, Rule::RoundAfterHeartbeat].iter().any(|r| self.lacks(*r));
        if s.term == 1 && strict {
            self.forget_deposed(s);
        }
    }

    /// Of a deposed leader only the grants matter that it had a quorum round for: no entry takes its verdicts.
    fn forget_deposed(&self, s: &mut State) {
        let l = &mut s.leaders[0];
        (l.leases, l.wait, l.verdict, l.stopped) = ([0; NODES], 0, None, [false; NODES]);
        let mut owes = false;
        for (node, heartbeats) in s.heartbeats.iter_mut().enumerate() {
            if matches!(heartbeats[0], Heartbeat::Sent { .. }) {
                heartbeats[0] = Heartbeat::None;
            }
            match heartbeats[0] {
                Heartbeat::Confirmed { .. } => owes = true,
                _ => l.acks[node] = (0, 0),
            }
        }
        if !owes {
            l.applied = s.log.len;
        }
    }

    /// Whether nothing that is left can violate anything: no operations, or all holds are spent without a switch.
    pub(super) fn settled(&self, s: &State) -> bool {
        let all = s.log.all();
        let holds = all.iter().filter(|e| **e == Entry::Hold).count();
        let no_switch = !switched(all) && open_hold(all) == 0 && holds == usize::from(self.holds);
        let idle = s.ops.iter().all(|op| *op == Op::Done || *op == Op::Acked && switched(all));
        no_switch || idle
    }
}
