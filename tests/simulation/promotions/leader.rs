//! The leader of one term: the real `plan::{failover, promotion, replication}`, carried out at the servers as
//! src/control/failover/ and src/control/servers/ do. Between any two effects a fault can happen.
//! Knows nothing of which faults happen.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::{
    model::{
        change::{Change, MarkResynced, NotePrimary},
        ids::{Epoch, HostPort, NodeId, PromotionId},
        state::Group,
    },
    plan::{
        failover::{FollowingPrimaries, PRIMARY_FOLLOWS_MS, decide, following_primaries},
        lease::Barrier,
        liveness::Watchers,
        observation::Observation,
        promotion::{
            Answers, PreflightResult, PromoteResult, PromotionMemory, PromotionObservation, PromotionStep, Reports,
            ServerStatus, next,
        },
        replication::{
            LoginProcesses, ReplicationAction, ReplicationFix, RestoredData, logins, reconcile, to_restore_as_primary,
        },
        restart::is_protected,
        timing::Timing,
    },
};

use super::{
    super::network::{MS, Ns, SECOND},
    GROUP, PRODUCT, World, addr, index,
    servers::RedisServer,
    voters,
};

/// How long a command and its answer take, each.
const WAY: Ns = MS / 2;
/// `control::servers::reconciler::ACTION_PAUSE`.
const ACTION_PAUSE: Ns = SECOND;
/// `control::servers::reconciler::LOGIN_PAUSE`.
const LOGIN_PAUSE: Ns = 10 * SECOND;
/// How long a barrier takes at least.
pub const BARRIER: Ns = 3 * MS;

/// What the leader of a term remembers.
#[derive(Default)]
pub struct Leader {
    promotions: BTreeMap<PromotionId, PromotionMemory>,
    /// When each promotion is decided again.
    wakes: BTreeMap<PromotionId, Ns>,
    /// Primaries that follow another server, and since when.
    following: BTreeMap<HostPort, Ns>,
    /// When the next action at a server may begin.
    not_before: BTreeMap<HostPort, Ns>,
    saved: BTreeSet<(HostPort, Epoch)>,
    /// The process that it has promoted, by its promotion.
    promoted: BTreeMap<PromotionId, RedisServer>,
    /// For which processes the credentials of a replica were set.
    logins: BTreeMap<HostPort, LoginProcesses>,
    /// When the credentials of a server may be set again.
    login_not_before: BTreeMap<HostPort, Ns>,
}

/// The term has ended: what was begun is not carried on.
struct TermOver;

impl World {
    /// When a promotion is to be decided again.
    pub fn next_wake(&self) -> Option<Ns> {
        self.leader.wakes.values().copied().min()
    }

    /// One activation of the leader loop.
    pub fn activate(&mut self) {
        if self.now < self.leads_from {
            return;
        }
        let _ = self.fail_over();
        let _ = self.reconcile();
        let _ = self.step_promotions();
    }

    fn fail_over(&mut self) -> Result<(), TermOver> {
        let seen = self.observation();
        let watchers = Watchers::new(&seen, voters());
        let now_following = following_primaries(&self.state, &watchers);
        let now = self.now;
        self.leader.following.retain(|addr, _| now_following.contains(addr));
        now_following.into_iter().for_each(|addr| _ = self.leader.following.entry(addr).or_insert(now));
        let lasting = self.lasting_following();
        for decision in decide(&self.state, &seen, &watchers, &lasting, NodeId(1)) {
            for change in decision.action.into_iter().flatten() {
                self.seen.failovers += u32::from(matches!(change, Change::StartPromotion(_)));
                if self.propose(change)?.is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// What the leader leaves to the operator, for people.
    pub fn left_to_operator(&self) -> Vec<String> {
        let seen = self.observation();
        let watchers = Watchers::new(&seen, voters());
        let following = self.lasting_following();
        let decisions = decide(&self.state, &seen, &watchers, &following, NodeId(1));
        let waits = decisions.into_iter().filter_map(|decision| decision.action.err());
        let waits = waits.chain(reconcile(&self.state, &seen).1);
        let waits = waits.chain(to_restore_as_primary(&self.state, &seen, &following, NodeId(1)).1);
        let mut texts: Vec<String> = waits.map(|wait| wait.text()).collect();
        texts.extend(self.leader.promotions.values().map(|memory| memory.failures().1.to_owned()));
        texts
    }

    fn lasting_following(&self) -> FollowingPrimaries {
        let age_ms = |since: &Ns| (self.now - since) / MS;
        let all = self.leader.following.iter().map(|(addr, since)| (addr.clone(), age_ms(since)));
        all.filter(|(_, age_ms)| *age_ms >= PRIMARY_FOLLOWS_MS).collect()
    }

    /// A change is appended, unless the term ends before or right after that.
    fn propose(
        &mut self,
        change: Change,
    ) -> Result<Result<(Epoch, pontoon::model::outcome::Outcome), String>, TermOver> {
        self.takes_a_way()?;
        let result = self.apply(change);
        self.takes_a_way()?;
        Ok(result)
    }

    /// A command or an answer is on its way, and a client writes; then a fault may happen.
    fn takes_a_way(&mut self) -> Result<(), TermOver> {
        let term = self.term;
        self.pass(WAY);
        self.client_writes();
        self.fault_is_due();
        if self.term == term { Ok(()) } else { Err(TermOver) }
    }

    // Promotions.

    /// Every open promotion has one task; each decides until it has to wait.
    pub fn step_promotions(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        if self.now < self.leads_from {
            return Ok(());
        }
        for id in self.state.promotions.keys() {
            self.leader.promotions.entry(*id).or_default();
        }
        let ids: Vec<PromotionId> = self.leader.promotions.keys().copied().collect();
        for id in ids {
            if self.leader.wakes.get(&id).is_none_or(|at| *at <= self.now) {
                let Ok(()) = self.step_promotion(id) else { return Ok(()) };
            }
        }
        Ok(())
    }

    fn step_promotion(&mut self, id: PromotionId) -> Result<(), TermOver> {
        loop {
            let mut memory = self.leader.promotions.remove(&id).unwrap_or_default();
            let step = self.with_seen(|seen, _| {
                memory.observe(seen, id);
                next(seen, &memory, id)
            });
            match step {
                PromotionStep::Over => {
                    self.leader.wakes.remove(&id);
                    return Ok(());
                }
                PromotionStep::Wait { until_ns, wait } => {
                    self.note(format_args!("promotion {id} waits: {}", wait.text()));
                    // A barrier passes without news.
                    let until = if self.state.holds.is_empty() { until_ns } else { until_ns.min(self.now + 5 * MS) };
                    self.leader.wakes.insert(id, until.max(self.now + MS));
                    self.leader.promotions.insert(id, memory);
                    return Ok(());
                }
                step => {
                    self.note(format_args!("promotion {id}: {step:?}"));
                    self.act(id, &mut memory, step)?;
                    self.leader.promotions.insert(id, memory);
                }
            }
        }
    }

    fn act(&mut self, id: PromotionId, memory: &mut PromotionMemory, step: PromotionStep) -> Result<(), TermOver> {
        match step {
            PromotionStep::Over | PromotionStep::Wait { .. } => {}
            PromotionStep::Ask { servers, .. } => {
                self.takes_a_way()?;
                let answers: Answers = servers.into_iter().map(|addr| (addr.clone(), self.status(&addr))).collect();
                self.takes_a_way()?;
                self.with_seen(|seen, reports| memory.asked(seen, reports, id, answers));
            }
            PromotionStep::Preflight { servers, .. } => {
                self.takes_a_way()?;
                let took = |status: Result<ServerStatus, String>| status.map(|_| std::time::Duration::from_millis(1));
                let pings = servers.into_iter().map(|addr| (addr.clone(), took(self.status(&addr)))).collect();
                let result = PreflightResult { silent: Vec::new(), pings };
                self.with_seen(|seen, _| memory.preflighted(seen, id, Ok(result)));
            }
            PromotionStep::Promote { candidate, .. } => {
                let result = self.promote(id, memory, &candidate)?;
                self.with_seen(|seen, reports| memory.promoted(seen, reports, id, result));
            }
            PromotionStep::SaveConfig { candidate } => {
                self.takes_a_way()?;
                let run = self.servers.all[index(&candidate)].run;
                if self.rules.save_before_finish {
                    self.config_rewrite(&candidate);
                }
                self.takes_a_way()?;
                let same = |world: &Self| {
                    let server = &world.servers.all[index(&candidate)];
                    server.answers() && server.run == run
                };
                let answered = same(self);
                self.admit_promoted(id, &candidate, answered);
                self.with_seen(|seen, _| memory.saved(seen, id, answered));
            }
            PromotionStep::Propose(change) => {
                let result = self.propose(change.clone())?;
                let result = result.as_ref().map(|(at, outcome)| (*at, outcome)).map_err(Clone::clone);
                self.with_seen(|seen, _| memory.proposed(seen, id, &change, result));
            }
            PromotionStep::Repoint { primary, epoch, .. } => {
                self.note_promoted(id, epoch)?;
                let others = self.group().servers.iter().map(|server| server.addr.clone());
                for other in others.filter(|addr| *addr != primary).collect::<Vec<_>>() {
                    self.repoint(&other, &primary, epoch)?;
                }
                memory.repointed();
            }
        }
        Ok(())
    }

    fn promote(
        &mut self,
        id: PromotionId,
        memory: &PromotionMemory,
        candidate: &HostPort,
    ) -> Result<PromoteResult, TermOver> {
        self.takes_a_way()?;
        let status = match self.status(candidate) {
            Ok(status) => status,
            Err(why) => return Ok(PromoteResult::NotExecuted(why)),
        };
        if let Err(why) = self.with_seen(|seen, reports| memory.may_promote(seen, reports, id, &status)) {
            return Ok(PromoteResult::NotExecuted(why));
        }
        let same = |world: &Self| world.status(candidate).is_ok_and(|now| now.run_id == status.run_id);
        self.takes_a_way()?;
        if !same(self) {
            return Ok(PromoteResult::Unknown("the connection is broken".into()));
        }
        self.servers.replicaof_no_one(index(candidate));
        self.takes_a_way()?;
        Ok(match same(self) {
            true => {
                self.leader.promoted.insert(id, self.servers.all[index(candidate)].clone());
                PromoteResult::Promoted
            }
            false => PromoteResult::Unknown("the connection is broken".into()),
        })
    }

    fn with_seen<T>(&self, act: impl FnOnce(&PromotionObservation<'_>, &Reports<'_>) -> T) -> T {
        let servers = self.observation();
        let watchers = Watchers::new(&servers, voters());
        let passed = self.held_since.is_some_and(|since| self.now >= since + BARRIER);
        let barrier = if passed { Barrier::Passed } else { Barrier::Waiting(vec!["node 2 has not acked".into()]) };
        let seen = PromotionObservation {
            state: &self.state,
            term: self.term,
            now_ns: self.now,
            barrier: Some(&barrier),
            timing: Timing::default(),
        };
        act(&seen, &Reports { servers: &servers, watchers: &watchers })
    }

    /// A server's answer over the control connection.
    fn status(&self, addr: &HostPort) -> Result<ServerStatus, String> {
        let server = &self.servers.all[index(addr)];
        if !server.answers() {
            return Err(format!("{addr} refuses the connection"));
        }
        Ok(ServerStatus {
            run_id: format!("run{}", server.run),
            follows: server.follows.map(|primary| ("127.0.0.1".into(), super::addr(primary).port())),
            link_up: server.link_up,
            syncing: false,
            loading: false,
            replid: format!("id{}", server.replid),
            former_replid: server.former.map(|(id, _)| format!("id{id}")).unwrap_or_default(),
            former_offset: server.former.map(|(_, offset)| offset),
            offset: if self.rules.compare_offsets || server.follows.is_none() { server.offset } else { 10 },
        })
    }

    fn config_rewrite(&mut self, addr: &HostPort) {
        // A process that is stopped does it when it goes on.
        if self.servers.all[index(addr)].up {
            self.servers.config_rewrite(index(addr));
        }
    }

    // Replication reconciliation.

    fn reconcile(&mut self) -> Result<(), TermOver> {
        let seen: Observation = self.observation();
        let mut fixes = reconcile(&self.state, &seen).0;
        let is_set = |fix: &ReplicationFix| matches!(&fix.action, ReplicationAction::SetLogin(wanted) if self.leader.logins.get(&fix.addr) == Some(wanted));
        if self.setting.min_acks > 0 {
            fixes.extend(logins(&self.state, &seen).into_iter().filter(|fix| !is_set(fix)));
        }
        fixes.extend(to_restore_as_primary(&self.state, &seen, &self.lasting_following(), NodeId(1)).0);
        for fix in fixes {
            let saves = matches!(fix.action, ReplicationAction::SaveConfig { .. });
            let login = matches!(fix.action, ReplicationAction::Login | ReplicationAction::SetLogin(_));
            let not_before = if login { &self.leader.login_not_before } else { &self.leader.not_before };
            if !saves && not_before.get(&fix.addr).is_some_and(|at| *at > self.now) {
                continue;
            }
            if self.group().epoch != fix.epoch || self.state.promotion_of(PRODUCT, GROUP).is_some() {
                continue;
            }
            if !saves && !login {
                self.leader.not_before.insert(fix.addr.clone(), self.now + ACTION_PAUSE);
            }
            self.fix(fix)?;
        }
        Ok(())
    }

    fn fix(&mut self, ReplicationFix { product, group, epoch, addr, action }: ReplicationFix) -> Result<(), TermOver> {
        if !matches!(action, ReplicationAction::Note { .. } | ReplicationAction::SaveConfig { .. }) {
            self.note(format_args!("{addr}: {action:?}"));
        }
        match action {
            ReplicationAction::Repoint { to, .. } => self.repoint(&addr, &to, epoch)?,
            ReplicationAction::Note { replid, run_id, keys } => {
                let keys_before = None;
                let note = NotePrimary { product, group, epoch, replid, run_id, keys, keys_before };
                let _ = self.propose(Change::NotePrimary(note))?;
            }
            ReplicationAction::Resynced { of, replid } => {
                self.takes_a_way()?;
                let copied = |s: &ServerStatus| s.is_replica_of(&of) && s.replid == replid;
                if self.status(&addr).is_ok_and(|status| copied(&status)) {
                    let _ = self.propose(Change::MarkResynced(MarkResynced { product, group, addr, epoch }))?;
                }
            }
            ReplicationAction::RestorePrimary { run_id, data } => self.restore(&addr, &run_id, &data)?,
            ReplicationAction::SaveConfig { promoted } => {
                if self.leader.saved.contains(&(addr.clone(), promoted)) {
                    return Ok(());
                }
                self.takes_a_way()?;
                if self.status(&addr).is_ok_and(|status| status.follows.is_none()) {
                    self.config_rewrite(&addr);
                    self.leader.saved.insert((addr, promoted));
                }
            }
            ReplicationAction::Login => {
                let pause = if self.log_in(&addr, epoch)? { LOGIN_PAUSE } else { ACTION_PAUSE };
                self.config_rewrite(&addr);
                self.leader.login_not_before.insert(addr, self.now + pause);
            }
            ReplicationAction::SetLogin(processes) => {
                if self.log_in(&addr, epoch)? {
                    self.takes_a_way()?;
                    if self.rules.save_login {
                        self.config_rewrite(&addr);
                    }
                    self.leader.logins.insert(addr.clone(), processes);
                }
                self.leader.login_not_before.insert(addr, self.now + ACTION_PAUSE);
            }
            ReplicationAction::RemoveFormer { .. } => unreachable!("the simulated group has no password"),
        }
        Ok(())
    }

    /// A replica gets the credentials with which it logs in at its primary. Returns whether it has them.
    fn log_in(&mut self, addr: &HostPort, epoch: Epoch) -> Result<bool, TermOver> {
        let to = self.group().servers[0].addr.clone();
        self.takes_a_way()?;
        let admitted = self.admit_replicas(&to);
        self.takes_a_way()?;
        let unchanged = self.group().epoch == epoch && self.group().servers[0].addr == to;
        let follows = |server: &RedisServer| server.answers() && server.follows == Some(index(&to));
        let open = self.state.promotion_of(PRODUCT, GROUP).is_some();
        if !admitted || open || !unchanged || !follows(&self.servers.all[index(addr)]) {
            return Ok(false);
        }
        self.set_login(addr);
        Ok(true)
    }

    /// As `control::failover::promotion::save_config`, after the candidate was asked to save its configuration.
    fn admit_promoted(&mut self, id: PromotionId, candidate: &HostPort, answered: bool) {
        let protected = is_protected(&self.state.products[&PRODUCT]);
        let promoted = self.leader.promoted.get(&id).map(|promoted| promoted.run);
        let server = &mut self.servers.all[index(candidate)];
        server.admits |= protected && answered && promoted == Some(server.run) && server.follows.is_none();
    }

    /// As `control::failover::promotion::note_promoted`.
    fn note_promoted(&mut self, id: PromotionId, epoch: Epoch) -> Result<(), TermOver> {
        // What REPLICAOF NO ONE was answered with.
        let Some(promoted) = self.leader.promoted.get(&id) else { return Ok(()) };
        if !is_protected(&self.state.products[&PRODUCT]) {
            return Ok(());
        }
        let (replid, run_id) = (format!("id{}", promoted.replid), format!("run{}", promoted.run));
        let (product, group, keys, keys_before) = (PRODUCT, GROUP, promoted.data.len() as u64, None);
        let note = NotePrimary { product, group, epoch, replid, run_id, keys, keys_before };
        self.propose(Change::NotePrimary(note)).map(|_| ())
    }

    /// As `control::servers::reconciler::follow`.
    fn repoint(&mut self, addr: &HostPort, to: &HostPort, epoch: Epoch) -> Result<(), TermOver> {
        self.takes_a_way()?;
        let unchanged = |group: &Group| group.epoch == epoch && group.servers[0].addr == *to;
        let open = self.state.promotion_of(PRODUCT, GROUP).is_some();
        if !self.servers.all[index(addr)].answers() || open || !unchanged(self.group()) {
            return Ok(());
        }
        if is_protected(&self.state.products[&PRODUCT]) {
            let admitted = self.admit_replicas(to);
            self.takes_a_way()?;
            let open = self.state.promotion_of(PRODUCT, GROUP).is_some();
            let unchanged = self.group().epoch == epoch && self.group().servers[0].addr == *to;
            if !admitted || !self.servers.all[index(addr)].answers() || open || !unchanged {
                return Ok(());
            }
            self.set_login(addr);
        }
        if self.servers.all[index(addr)].follows == Some(index(to)) {
            return Ok(());
        }
        self.servers.replicaof(index(addr), index(to));
        self.takes_a_way()?;
        self.config_rewrite(addr);
        Ok(())
    }

    /// As `control::servers::reconciler::restore_primary`.
    fn restore(&mut self, addr: &HostPort, run_id: &str, data: &RestoredData) -> Result<(), TermOver> {
        self.takes_a_way()?;
        let appends = self.servers.all[index(addr)].appends;
        let fits = |status: &ServerStatus| {
            status.run_id == run_id
                && match data {
                    RestoredData::Loaded => !status.link_up,
                    RestoredData::LoadedFromAof => !status.link_up && appends,
                    RestoredData::Copied { replid } => status.replid == *replid,
                }
        };
        if !self.status(addr).is_ok_and(|status| fits(&status)) {
            return Ok(());
        }
        self.seen.restored += 1;
        self.servers.replicaof_no_one(index(addr));
        self.takes_a_way()?;
        self.config_rewrite(addr);
        Ok(())
    }
}

/// The servers that are named in the state, by their addresses.
#[must_use]
pub fn addresses(count: usize) -> Vec<HostPort> {
    (0..count).map(addr).collect()
}
