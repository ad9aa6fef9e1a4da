//! A node's runs, as src/node/movers.rs and src/mover/{copy,finish,clean}.rs do them: clean, copy, follow the feed,
//! finish.
//! Knows nothing of how runs are decided.

use std::collections::{BTreeSet, VecDeque};

use pontoon::{
    model::{
        ids::{HoldId, SlotId},
        migration::{Job, MigrationPhase, Run, RunKind},
    },
    plan::mover::{MoverState, MoverView},
};

use super::{
    invariants::Version,
    mover_messages::{FromSource, FromTarget, News, ToSource},
    network::{self, MS, Ns, SECOND, spread},
    node::NodeEvent,
    store::Command,
    world::{Event, PRODUCT, World},
};

/// `node::movers::{ASK_MAX, AUTHORIZE_TIMEOUT, WIPE_PASSES_APART}`; late writes: a request's deadline.
const ASK_MAX: Ns = SECOND;
const ASKINGS_MAX: u32 = 5;
const WIPE_PASSES_APART: Ns = 100 * MS;
const LATE_WRITES: Ns = 5 * SECOND;
/// How many fetches are in flight at most.
const FLYING_MAX: usize = 3;

struct Finishing {
    hold: HoldId,
    serial: u64,
    leader: usize,
    /// The offset up to which the feed must be read.
    upto: Option<usize>,
    /// What was fetched when the offset was asked for.
    fetched: u64,
    waits: bool,
}

pub struct Mover {
    pub run: u32,
    kind: RunKind,
    /// The keys of the slots of its job, and those that it may delete at the target.
    keys: BTreeSet<u16>,
    ours: BTreeSet<u16>,
    server: (usize, u16),
    source: usize,
    life: u32,
    on_replica: bool,
    line: Option<u64>,
    asking: u32,
    pub work: MoverState,
    /// Commands to the target that are not answered yet.
    unanswered: usize,
    pub from_target: VecDeque<FromTarget>,
    pub to_source: VecDeque<ToSource>,
    from_source: VecDeque<FromSource>,
    unasked: usize,
    gated: bool,
    scanned: bool,
    scan: VecDeque<u16>,
    dirty: BTreeSet<u16>,
    read: usize,
    probe: usize,
    fetched: u64,
    finishing: Option<Finishing>,
    clean: bool,
}

impl World {
    /// Begins and ends runs, so that they are those of the state.
    pub fn follow(&mut self, node: usize) {
        let Some(own) = self.admission(node).map(|a| a.incarnation) else { return };
        let state = self.raft.log[self.nodes[node].applied].state.clone();
        let me = self.member_id(node);
        let mut runs: Vec<(Job, &Run)> =
            state.migrations.values().filter_map(|m| Some((Job::Migration(m.id), m.run.as_ref()?))).collect();
        for group in state.products[&PRODUCT].groups.values() {
            let job = Job::Sweep { product: PRODUCT, group: group.id };
            runs.extend(group.sweep.as_ref().map(|sweep| (job, &sweep.run)));
        }
        runs.retain(|(_, run)| run.node == me);
        self.nodes[node].movers.retain(|job, mover| runs.iter().any(|(j, run)| j == job && run.run == mover.run));
        for (job, run) in runs {
            if self.nodes[node].movers.contains_key(&job) {
                self.continue_run(node, job);
                continue;
            }
            let mut mover = self.mover(&state, job, run);
            if run.began.0 < own.0 {
                mover.work = MoverState::Failed("the node was restarted".into());
            }
            self.nodes[node].movers.insert(job, mover);
            let turn = network::turn(&mut self.rng);
            self.at_node(node, turn, NodeEvent::Mover { job, run: run.run, news: News::Begin });
            self.on_node(node, NodeEvent::HeartbeatNews);
        }
    }

    fn mover(&self, state: &pontoon::model::state::ClusterState, job: Job, run: &Run) -> Mover {
        let (slots, ours, source) = match job {
            Job::Migration(id) => {
                let m = &state.migrations[&id];
                let ours = m.ours_at_target(state);
                let slots = if run.kind == RunKind::WipeTarget { ours.clone() } else { m.slots.clone() };
                (slots, ours, m.from.0 as usize - 1)
            }
            Job::Sweep { group, .. } => {
                let sweep = state.products[&PRODUCT].groups[&group].sweep.as_ref();
                (sweep.map(|s| s.slots.clone()).unwrap_or_default(), BTreeSet::new(), 0)
            }
        };
        let keys = |slots: &BTreeSet<SlotId>| self.keys_where(|_, slot| slots.contains(&slot)).into_iter().collect();
        let feed = run.feed.as_ref().map(Self::place);
        Mover {
            run: run.run,
            kind: run.kind,
            keys: keys(&slots),
            ours: keys(&ours),
            server: Self::place(&run.server),
            source,
            life: self.stores[source].life,
            on_replica: feed.is_some_and(|(server, which)| self.stores[server].primary != which),
            line: None,
            asking: 0,
            work: MoverState::Opening,
            unanswered: 0,
            from_target: VecDeque::new(),
            to_source: VecDeque::new(),
            from_source: VecDeque::new(),
            unasked: 0,
            gated: false,
            scanned: false,
            scan: VecDeque::new(),
            dirty: BTreeSet::new(),
            read: 0,
            probe: 0,
            fetched: 0,
            finishing: None,
            clean: false,
        }
    }

    /// The reports in heartbeats.
    pub fn reports(&self, node: usize) -> Vec<(Job, MoverView)> {
        let report = |mover: &Mover| MoverView { run: mover.run, work: mover.work.clone(), ..MoverView::default() };
        self.nodes[node].movers.iter().map(|(job, mover)| (*job, report(mover))).collect()
    }

    fn mover_of(&mut self, node: usize, job: Job) -> &mut Mover {
        self.nodes[node].movers.get_mut(&job).unwrap()
    }

    /// Continues a run that may write now, or whose hold was released.
    fn continue_run(&mut self, node: usize, job: Job) {
        let Job::Migration(id) = job else { return };
        let state = self.raft.log[self.nodes[node].applied].state.clone();
        let Some(migration) = state.migrations.get(&id) else { return };
        let rules = self.rules;
        let mover = self.mover_of(node, job);
        if mover.gated && (migration.staged || !rules.staged_first) {
            mover.gated = false;
            self.ask_source(node, job, ToSource::Feed);
            return;
        }
        let under = match mover.work {
            MoverState::Finishing(hold) | MoverState::Finished(hold) => hold,
            _ => return,
        };
        if migration.phase == MigrationPhase::CaughtUp && !state.holds.contains_key(&under) {
            mover.finishing = None;
            self.works(node, job, MoverState::CaughtUp);
        }
    }

    fn works(&mut self, node: usize, job: Job, work: MoverState) {
        let mover = self.mover_of(node, job);
        if mover.work != work {
            self.note(format_args!("node {}: {job} is {work:?}", node + 1));
            let mover = self.mover_of(node, job);
            mover.work = work;
            let moved = NodeEvent::Mover { job, run: mover.run, news: News::Moved };
            // `node::movers` reads the state again, for a hold that was released in the meantime.
            self.at_node(node, MS, moved);
            self.at_node(node, MS, NodeEvent::HeartbeatNews);
        }
    }

    pub fn on_mover(&mut self, node: usize, job: Job, run: u32, news: News) {
        let boot = self.nodes[node].boot;
        let Some(mover) = self.nodes[node].movers.get_mut(&job).filter(|m| m.run == run) else { return };
        if matches!(mover.work, MoverState::Failed(_)) {
            return;
        }
        match news {
            News::Begin => {
                // A connection that is not accepted yet waits in the kernel, and is served later.
                let delay = match self.rng.u8(0..20) {
                    0 => spread(&mut self.rng, 20 * MS, 5000 * MS),
                    _ => spread(&mut self.rng, MS / 5, 20 * MS),
                };
                let place = self.mover_of(node, job).server;
                self.schedule(delay, Event::Open { place, job, run, node, boot });
            }
            News::Opened(line) => {
                mover.line = Some(line);
                self.ask_authorization(node, job);
            }
            News::Lost(why) => self.works(node, job, MoverState::Failed(why)),
            News::AskAgain { asking } if asking == mover.asking => self.ask_authorization(node, job),
            News::AskAgain { .. } => {}
            News::Authorized(_) if mover.work != MoverState::Opening => {}
            News::Authorized(Err(Some(why))) => self.works(node, job, MoverState::Failed(why)),
            News::Authorized(Err(None)) => {
                let asking = mover.asking;
                self.at_node(node, 100 * MS, NodeEvent::Mover { job, run, news: News::AskAgain { asking } });
            }
            News::Authorized(Ok(())) => {
                mover.asking = u32::MAX;
                let cleans = mover.kind == RunKind::Copy;
                self.works(node, job, if cleans { MoverState::CleaningTarget } else { MoverState::Cleaning });
                self.ask_target(node, job, Command::Scan);
            }
            News::FromTarget => {
                if let Some(answer) = mover.from_target.pop_front() {
                    mover.unanswered -= 1;
                    self.target_answers(node, job, answer);
                }
            }
            News::FromSource => {
                if let Some(answer) = mover.from_source.pop_front() {
                    mover.unasked -= 1;
                    self.source_answers(node, job, answer);
                }
            }
            News::Feed => self.reads(node, job),
            News::Moved => self.continue_run(node, job),
            News::Pass => self.ask_target(node, job, Command::Scan),
            News::Finish { serial, leader, hold, within } => {
                if mover.work != MoverState::CaughtUp {
                    self.finish_ends(node, leader, serial, Err("it has not caught up".into()));
                    return;
                }
                let fetched = mover.fetched;
                let upto = (!self.rules.offset_after_barrier).then_some(self.mover_of(node, job).probe);
                let waits = false;
                self.mover_of(node, job).finishing = Some(Finishing { hold, serial, leader, upto, fetched, waits });
                self.works(node, job, MoverState::Finishing(hold));
                if upto.is_none() {
                    self.ask_source(node, job, ToSource::Probe);
                }
                let patience = self.nodes[node].clock.lasts(within);
                self.at_node(node, patience, NodeEvent::Mover { job, run, news: News::Deadline(hold) });
            }
            News::Deadline(hold) => {
                if mover.work == MoverState::Finishing(hold)
                    && let Some(Finishing { leader, serial, .. }) = mover.finishing.take()
                {
                    self.works(node, job, MoverState::CaughtUp);
                    self.finish_ends(node, leader, serial, Err("not in time".into()));
                }
            }
        }
        self.pump(node, job);
    }

    fn finish_ends(&mut self, node: usize, leader: usize, serial: u64, result: Result<(), String>) {
        self.send(node, leader, NodeEvent::Finished { serial, result });
    }

    fn ask_authorization(&mut self, node: usize, job: Job) {
        let leader = self.nodes[node].leader.map(|(leader, _)| leader);
        let mover = self.mover_of(node, job);
        if mover.work != MoverState::Opening {
            return;
        }
        mover.asking += 1;
        let (asking, run, line, server) = (mover.asking, mover.run, mover.line.unwrap_or_default(), mover.server);
        if asking > ASKINGS_MAX {
            return self.works(node, job, MoverState::Failed("not authorized in time".into()));
        }
        if let Some(leader) = leader {
            let server = Self::address(server.0, server.1);
            self.send(node, leader, NodeEvent::Authorize { from: node, job, run, server, line });
        }
        self.at_node(node, ASK_MAX, NodeEvent::Mover { job, run, news: News::AskAgain { asking } });
    }

    fn ask_target(&mut self, node: usize, job: Job, command: Command) {
        let mover = self.mover_of(node, job);
        mover.unanswered += 1;
        let (server, line) = (mover.server.0, mover.line.unwrap_or_default());
        self.send_line(server, line, command);
    }

    fn ask_source(&mut self, node: usize, job: Job, what: ToSource) {
        let boot = self.nodes[node].boot;
        let mover = self.mover_of(node, job);
        mover.to_source.push_back(what);
        mover.unasked += 1;
        let run = mover.run;
        let delay = match self.rng.u8(0..30) {
            0 => spread(&mut self.rng, 5 * MS, 300 * MS),
            _ => spread(&mut self.rng, MS / 20, 2 * MS),
        };
        self.schedule(delay, Event::Source { node, boot, job, run });
    }

    /// The source executes the next request of a run.
    pub fn source(&mut self, node: usize, boot: u32, job: Job, run: u32) {
        if self.nodes[node].boot != boot {
            return;
        }
        let stores = &self.stores;
        let Some(mover) = self.nodes[node].movers.get_mut(&job).filter(|m| m.run == run) else { return };
        let store = &stores[mover.source];
        if store.down || store.life != mover.life {
            return self.send_to_mover(node, boot, (job, run), News::Lost("the source is not what it was".into()));
        }
        let offset = if mover.on_replica { store.replica } else { store.log.len() };
        let Some(what) = mover.to_source.pop_front() else { return };
        let answer = match what {
            ToSource::Feed => FromSource::Feed(offset),
            ToSource::Scan => {
                let there = mover.keys.iter().filter(|key| store.at(**key, offset) > 0);
                FromSource::Keys(there.copied().collect())
            }
            ToSource::Fetch(key) => FromSource::Fetched(key, store.at(key, offset)),
            ToSource::Probe => FromSource::Probe(store.log.len()),
        };
        mover.from_source.push_back(answer);
        self.send_to_mover(node, boot, (job, run), News::FromSource);
    }

    fn target_answers(&mut self, node: usize, job: Job, answer: FromTarget) {
        let mover = self.mover_of(node, job);
        match answer {
            FromTarget::Keys(keys) => {
                let found: Vec<u16> = keys.into_iter().filter(|key| mover.keys.contains(key)).collect();
                let attempt = mover.kind == RunKind::Copy;
                if attempt && found.iter().any(|key| !mover.ours.contains(key)) {
                    return self.works(node, job, MoverState::Failed("keys that were never this group's".into()));
                }
                if found.is_empty() && !attempt {
                    if std::mem::replace(&mut mover.clean, true) {
                        return self.works(node, job, MoverState::Cleaned);
                    }
                    let (kind, run) = (mover.kind, mover.run);
                    let apart = if kind == RunKind::WipeTarget { WIPE_PASSES_APART } else { LATE_WRITES };
                    let apart = self.nodes[node].clock.lasts(apart);
                    return self.at_node(node, apart, NodeEvent::Mover { job, run, news: News::Pass });
                }
                mover.clean = false;
                for key in found {
                    self.ask_target(node, job, Command::Unlink(key));
                }
            }
            FromTarget::Done => {}
            FromTarget::Waited => {
                if let Some(Finishing { hold, leader, serial, .. }) = mover.finishing.take_if(|f| f.waits) {
                    self.works(node, job, MoverState::Finished(hold));
                    self.finish_ends(node, leader, serial, Ok(()));
                }
                return;
            }
        }
        let mover = self.mover_of(node, job);
        if mover.unanswered > 0 {
            return;
        }
        match mover.work {
            // Every UNLINK is answered.
            MoverState::CleaningTarget => {
                mover.gated = true;
                self.works(node, job, MoverState::Copying);
                self.continue_run(node, job);
            }
            MoverState::Cleaning => self.ask_target(node, job, Command::Scan),
            _ => {}
        }
    }

    fn source_answers(&mut self, node: usize, job: Job, answer: FromSource) {
        let rules = self.rules;
        let mover = self.mover_of(node, job);
        let run = mover.run;
        match answer {
            FromSource::Feed(offset) => {
                mover.read = offset;
                mover.probe = offset;
                self.at_node(node, MS, NodeEvent::Mover { job, run, news: News::Feed });
                self.ask_source(node, job, ToSource::Scan);
            }
            FromSource::Keys(keys) => {
                mover.scan.extend(keys);
                mover.scanned = true;
            }
            FromSource::Fetched(key, version) => {
                mover.fetched += 1;
                if !rules.mark_before_fetch {
                    mover.dirty.remove(&key);
                }
                self.put(node, job, key, version);
            }
            FromSource::Probe(offset) => {
                mover.probe = offset;
                if let Some(finishing) = &mut mover.finishing {
                    finishing.upto = Some(offset);
                }
            }
        }
    }

    fn put(&mut self, node: usize, job: Job, key: u16, version: Version) {
        let command = if version == 0 { Command::Unlink(key) } else { Command::Restore(key, version) };
        self.ask_target(node, job, command);
    }

    /// Reads some of the feed.
    fn reads(&mut self, node: usize, job: Job) {
        let (rules, boot) = (self.rules, self.nodes[node].boot);
        let Some(mover) = self.nodes[node].movers.get_mut(&job) else { return };
        let (store, run) = (&self.stores[mover.source], mover.run);
        if store.down || store.life != mover.life {
            return self.send_to_mover(node, boot, (job, run), News::Lost("the feed is lost".into()));
        }
        let there = if mover.on_replica { store.replica } else { store.log.len() };
        let upto = self.rng.usize(mover.read..=there.max(mover.read));
        let changed: Vec<(u16, Version)> = store.log[mover.read..upto]
            .iter()
            .filter(|w| mover.keys.contains(&w.key))
            .map(|w| (w.key, w.version))
            .collect();
        mover.read = upto;
        if rules.refetch {
            mover.dirty.extend(changed.iter().map(|(key, _)| *key));
        } else {
            changed.iter().for_each(|(key, version)| self.put(node, job, *key, *version));
        }
        // Without this rule, the offset is one that was asked for earlier.
        if !rules.offset_after_barrier && self.rng.u8(0..8) == 0 {
            self.ask_source(node, job, ToSource::Probe);
        }
        let finishing = self.mover_of(node, job).finishing.is_some();
        let next = match self.rng.u8(0..20) {
            0 => spread(&mut self.rng, 20 * MS, 400 * MS),
            _ if finishing => spread(&mut self.rng, MS / 2, 4 * MS),
            _ => spread(&mut self.rng, 3 * MS, 60 * MS),
        };
        self.at_node(node, next, NodeEvent::Mover { job, run, news: News::Feed });
    }

    /// Fetches dirty keys, and moves on to the next phase when none is left.
    fn pump(&mut self, node: usize, job: Job) {
        let rules = self.rules;
        loop {
            let Some(mover) = self.nodes[node].movers.get_mut(&job) else { return };
            if !mover.scanned || matches!(mover.work, MoverState::Failed(_)) || mover.unasked >= FLYING_MAX {
                return;
            }
            let dirty = mover.dirty.iter().next().copied();
            let asked = |key: u16| mover.to_source.iter().any(|q| matches!(q, ToSource::Fetch(k) if *k == key));
            let key = match dirty {
                // The mark stays until the answer: one fetch of a key at a time.
                Some(key) if !rules.mark_before_fetch && (asked(key) || mover.unasked > 0) => return,
                Some(key) => {
                    if rules.mark_before_fetch {
                        mover.dirty.remove(&key);
                    }
                    key
                }
                None => match mover.scan.pop_front() {
                    Some(key) => key,
                    None => break,
                },
            };
            self.ask_source(node, job, ToSource::Fetch(key));
        }
        let mover = self.mover_of(node, job);
        if mover.work == MoverState::Copying && mover.unasked == 0 {
            return self.works(node, job, MoverState::CaughtUp);
        }
        let drained = mover.unasked == 0 && mover.unanswered == 0;
        let (read, fetched) = (mover.read, mover.fetched);
        let Some(finishing) = mover.finishing.as_mut().filter(|f| !f.waits) else { return };
        if !finishing.upto.is_some_and(|upto| drained && read >= upto) {
            return;
        }
        if rules.offset_after_barrier && finishing.fetched != fetched {
            // A command without a waiting caller may have been executed in the middle of a fetch: fetched once more.
            (finishing.fetched, finishing.upto) = (fetched, None);
            return self.ask_source(node, job, ToSource::Probe);
        }
        finishing.waits = true;
        self.ask_target(node, job, Command::Wait);
    }
}
