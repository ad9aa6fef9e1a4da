//! State reduction for the lease model: merges states that differ only in facts that can no longer lead to a violation.
//! Without it, the number of states is many times larger. Knows nothing of the steps of the model.

use super::{
    Heartbeat, Lease, NODES, Op, Rule, State, WRITER,
    log::{Entry, open_hold, switched},
};

impl Lease {
    /// Clears every fact that can no longer have an effect, so that states which differ only in such facts become
    /// equal.
    pub(super) fn forget(&self, s: &mut State) {
        let over = switched(s.log.all());
        for node in 0..NODES {
            if s.ops[WRITER] == Op::Done {
                // The outcome of the write is unknown: no server has to contain it.
                s.content = [false; 2];
                for l in &mut s.leaders {
                    l.verdict = l.verdict.map(|(hold, _)| (hold, false));
                }
            }
            let idle = matches!(s.ops[node], Op::Done | Op::Acked);
            if idle {
                // The node has no further operation. Its own lease does not matter any more, only the leaders' view of
                // it.
                s.nodes[node].lease = 0;
                s.nodes[node].leased_once = false;
                s.nodes[node].min_applied = 0;
            }
            for heartbeat in &mut s.heartbeats[node] {
                let useless = match *heartbeat {
                    // Such a grant gives no lease. The leader would wait for it, which only permits less.
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

    /// Forgets all facts of the deposed leader except the grants for which it had a quorum round: its entries are
    /// rejected.
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

    /// Whether no violation can follow any more: no operation is left, or all holds are used up and none led to a
    /// switch.
    pub(super) fn settled(&self, s: &State) -> bool {
        let all = s.log.all();
        let holds = all.iter().filter(|e| **e == Entry::Hold).count();
        let no_switch = !switched(all) && open_hold(all) == 0 && holds == usize::from(self.holds);
        let idle = s.ops.iter().all(|op| *op == Op::Done || *op == Op::Acked && switched(all));
        no_switch || idle
    }
}
