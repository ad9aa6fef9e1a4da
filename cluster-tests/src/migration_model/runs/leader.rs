//! The steps of a leader: it closes runs and proposes entries according to the entries that it has applied. Each step
//! also contains the conditions under which the log accepts the entry. Knows nothing of movers except their reports.

use super::{
    Action, CLEAN, Rule, Runs, Server, State,
    log::{Entry, Phase, View},
};

impl Runs {
    pub(super) fn lead(&self, s: &mut State, leader: usize, action: Action) -> Option<()> {
        let seen = self.seen(s, leader)?;
        let now = self.now(s);
        let entry = match action {
            Action::MarkedClosed { .. } => {
                let run = seen.unfenced?;
                let before = s.leaders[leader].marked;
                s.leaders[leader].marked |= 1 << run;
                return (s.leaders[leader].marked != before).then_some(());
            }
            Action::Killed { .. } => {
                let run = seen.unfenced?;
                let l = &mut s.leaders[leader];
                if (l.marked >> run & 1 == 0) != self.lacks(Rule::MarkBeforeKill) || l.killed >> run & 1 == 1 {
                    return None;
                }
                l.killed |= 1 << run;
                for lane in &mut s.movers[run].lanes {
                    if lane.server == Server::Named && !self.lacks(Rule::Kill) {
                        lane.server = Server::Dead;
                    }
                }
                return Some(());
            }
            Action::StartProposed { .. } => {
                let rule = if seen.phase == Phase::Idle { Rule::CloseSweepBeforeStart } else { Rule::CloseBeforeStart };
                let behind = self.closed(s, leader, seen.unfenced) || self.lacks(rule);
                let planned = |v: &View| matches!(v.phase, Phase::Idle | Phase::Planned);
                let next = seen.count == now.count || self.lacks(Rule::NextRun);
                let room = now.count < self.runs && (now.phase == Phase::Planned || now.switches < self.switches);
                let may = planned(&seen) && planned(&now) && behind && next && room;
                (may && self.in_term(s, leader, Rule::TermOnStart)).then_some(Entry::Start)
            }
            Action::HoldProposed { .. } => {
                let same = seen.count == now.count || self.lacks(Rule::AttemptOnHold);
                let may = seen.phase == Phase::Running && now.phase == Phase::Running && now.holds < self.holds;
                (may && same).then_some(Entry::Hold)
            }
            Action::SwitchProposed { .. } => {
                let (Phase::Held(hold), Phase::Held(open), Some(run)) = (seen.phase, now.phase, seen.attempt()) else {
                    return None;
                };
                let done = s.movers[run].done == hold;
                let behind = self.closed(s, leader, Some(run)) || self.lacks(Rule::CloseBeforeSwitch);
                let its_hold = hold == open || self.lacks(Rule::HoldIdOnSwitch);
                let same = seen.count == now.count || self.lacks(Rule::AttemptOnSwitch);
                let may = done && behind && its_hold && same && self.in_term(s, leader, Rule::TermOnSwitch);
                may.then_some(Entry::Switch)
            }
            Action::ReleaseProposed { .. } => {
                let run = seen.attempt()?;
                let marked = s.leaders[leader].marked >> run & 1 == 1;
                let may = matches!(seen.phase, Phase::Held(_)) && seen.phase == now.phase && now.holds < self.holds;
                if marked && self.lacks(Rule::RestartBehindFence) {
                    // The run may connect again. The leader still takes its connections for killed.
                    s.leaders[leader].marked &= !(1 << run);
                }
                (may && (!marked || self.lacks(Rule::RestartBehindFence))).then_some(Entry::Release)
            }
            Action::RestartProposed { .. } => {
                let may = self.restart && seen.attempt().is_some() && now.attempt().is_some() && now.count < self.runs;
                may.then_some(Entry::Restart)
            }
            Action::CancelProposed { .. } => {
                let before = |v: &View| v.attempt().is_some() || v.phase == Phase::Planned;
                let may = self.cancel && before(&seen) && before(&now) && now.count < self.runs;
                may.then_some(Entry::Cancel)
            }
            Action::StartRunProposed { .. } => {
                let due = |v: &View| match v.phase {
                    Phase::Switched | Phase::Cancelling => true,
                    Phase::Idle => self.sweep && v.switches > 0,
                    _ => false,
                };
                let writes = seen.attempt().is_some() && now.attempt().is_some() && now.switches > 0;
                let beside = writes && self.sweep && self.lacks(Rule::NoSweepBesideAttempt);
                let behind = self.closed(s, leader, seen.unfenced) || self.lacks(Rule::CloseBeforeStartRun);
                let next = seen.count == now.count || self.lacks(Rule::NextRun);
                let may = (due(&seen) && due(&now) && behind || beside) && next && now.count < self.runs;
                (may && self.in_term(s, leader, Rule::TermOnStartRun)).then_some(Entry::StartRun)
            }
            Action::CleanedProposed { .. } => {
                let due = |v: &View| matches!(v.phase, Phase::Switched | Phase::Cancelling);
                let run = seen.unfenced.filter(|_| due(&seen) && due(&now) && seen.current != 0)?;
                let behind = self.closed(s, leader, Some(run)) || self.lacks(Rule::CloseBeforeCleaned);
                let current = now.is_current(run) || self.lacks(Rule::RunOnCleaned);
                let may = s.movers[run].done == CLEAN && behind && current;
                (may && self.in_term(s, leader, Rule::TermOnCleaned)).then_some(Entry::Cleaned)
            }
            _ => None,
        }?;
        s.log.push(entry)
    }
}
