//! A cluster with groups, and what its nodes reported about their servers, made up for the tables.

use std::collections::BTreeSet;

use pontoon::{
    model::{
        apply::apply,
        change::{Bootstrap, Change, CreateGroup, FinishPromotion, NewMember, NotePrimary, OpenHold, StartPromotion},
        ids::{Epoch, GroupId, HoldId, HostPort, NodeId, ProductId, PromotionId, Term, Uuid},
        outcome::Outcome,
        promotion::PromotionKind,
        reject::Reject,
        route::HoldKind,
        state::{Cause, ClusterState, Entry, Group, Position, Server},
    },
    plan::{
        candidates::{CandidateChoice, choose},
        failover::{FollowingPrimaries, decide, primary_back},
        liveness::Watchers,
        observation::{AgedReport, InSync, Observation, Probe, ProbeReport, ReportedRole},
        replication::{ReplicationAction, reconcile},
        restart::confirmations,
    },
};

pub const PRODUCT: ProductId = ProductId(1);
pub const GROUP: GroupId = GroupId(1);
pub const ME: NodeId = NodeId(1);
pub const PRIMARY: u16 = 7001;
/// Age of every report.
pub const REPORT_MS: u64 = 100;

pub fn addr(port: u16) -> HostPort {
    HostPort::parse(&format!("127.0.0.1:{port}")).unwrap()
}

pub fn voters() -> BTreeSet<NodeId> {
    (1..=3).map(NodeId).collect()
}

/// A cluster of three nodes with groups, and what the nodes reported about their servers.
pub struct World {
    pub state: ClusterState,
    pub index: u64,
    pub seen: Observation,
    /// Primaries that have followed another server for long enough.
    pub following_primaries: FollowingPrimaries,
}

impl World {
    /// One group: a primary that has not answered for 4 s, and two replicas that were in sync with it.
    pub fn down() -> Self {
        let mut world = Self::up();
        world.fail(PRIMARY, 4_000);
        world
    }

    pub fn up() -> Self {
        let mut world = Self {
            state: ClusterState::default(),
            index: 0,
            seen: Observation::new(),
            following_primaries: FollowingPrimaries::new(),
        };
        let member = |id: u16| NewMember {
            id: NodeId(id.into()),
            uuid: Uuid(id.into()),
            admin: addr(19_100 + id),
            advertise: "127.0.0.1".into(),
            port_offset: id,
        };
        world.make(Change::Bootstrap(Bootstrap { members: (1..=3).map(member).collect(), port: 19_000 }));
        world.group(1, &[PRIMARY, 7002, 7003]);
        world
    }

    pub fn make(&mut self, change: Change) -> Outcome {
        self.try_make(change).unwrap()
    }

    pub fn try_make(&mut self, change: Change) -> Result<Outcome, Reject> {
        self.index += 1;
        let entry = Entry {
            id: Uuid(self.index.into()),
            request_hash: 0,
            at_ms: self.index,
            author: Default::default(),
            change,
        };
        let at = Position { index: Epoch(self.index), term: Term(1) };
        apply(&mut self.state, &entry, at)
    }

    pub fn group(&mut self, id: u32, ports: &[u16]) {
        let servers = ports.iter().map(|port| Server::new(addr(*port), format!("run{port}"), 0)).collect();
        let group = GroupId(id);
        self.make(Change::CreateGroup(CreateGroup {
            product: PRODUCT,
            group,
            servers,
            credentials: None,
            data_user: None,
        }));
        self.note(id, &format!("id{id}"));
        for port in ports {
            let role = if *port == ports[0] {
                ReportedRole::Primary { replicas: Vec::new() }
            } else {
                ReportedRole::Replica { of: addr(ports[0]), link_up: true, link_down_ms: 0, syncing: false }
            };
            for node in voters() {
                let report = report(*port, &format!("id{id}"), role.clone());
                self.seen.entry(addr(*port)).or_default().insert(node, AgedReport { report, age_ms: REPORT_MS });
            }
        }
    }

    pub fn note(&mut self, id: u32, replid: &str) {
        let group = &self.state.products[&PRODUCT].groups[&GroupId(id)];
        let (epoch, run_id) = (group.epoch, format!("run{}", group.servers[0].addr.port()));
        let (product, group, replid) = (PRODUCT, GroupId(id), replid.into());
        self.make(Change::NotePrimary(NotePrimary {
            product,
            group,
            epoch,
            replid,
            run_id,
            keys: 10,
            keys_before: None,
        }));
    }

    /// The primary is another process than before, and the log knows it.
    pub fn restart(&mut self, id: u32, run_id: &str, keys: u64) {
        let epoch = self.state.products[&PRODUCT].groups[&GroupId(id)].epoch;
        let (product, group, run_id) = (PRODUCT, GroupId(id), run_id.to_owned());
        let replid = run_id.clone();
        self.make(Change::NotePrimary(NotePrimary { product, group, epoch, replid, run_id, keys, keys_before: None }));
    }

    /// Slots are held for the promotion that is open.
    pub fn hold(&mut self) -> (PromotionId, HoldId) {
        let id = *self.state.promotions.keys().next().unwrap();
        let (cause, reason) = (Cause::Promotion(id), "a test".to_owned());
        let Outcome::Held(hold) =
            self.make(Change::OpenHold(OpenHold { cause, attempt: 1, kind: HoldKind::Abandon, reason }))
        else {
            panic!("no hold")
        };
        (id, hold)
    }

    /// The promotion that is open is finished.
    pub fn finish(&mut self) {
        let (id, hold) = self.hold();
        self.make(Change::FinishPromotion(FinishPromotion { promotion: id, hold, term: Term(1) }));
    }

    pub fn tested_group(&self) -> &Group {
        &self.state.products[&PRODUCT].groups[&GROUP]
    }

    pub fn edit(&mut self, edit: impl FnOnce(&mut Group)) {
        edit(self.state.products.get_mut(&PRODUCT).unwrap().groups.get_mut(&GROUP).unwrap());
    }

    /// All nodes report this about a server.
    pub fn edit_reports(&mut self, port: u16, edit: impl Fn(&mut ProbeReport)) {
        self.seen.get_mut(&addr(port)).unwrap().values_mut().for_each(|reported| edit(&mut reported.report));
    }

    pub fn probe(&mut self, port: u16, edit: impl Fn(&mut Probe)) {
        self.edit_reports(port, |report| edit(&mut report.probe.as_mut().unwrap().0));
    }

    pub fn fail(&mut self, port: u16, for_ms: u64) {
        self.edit_reports(port, |report| {
            report.failing_ms = Some(for_ms);
            report.error = "connection refused".into();
            if let Some((_, age_ms)) = &mut report.probe {
                *age_ms = for_ms;
            }
        });
        // Replicas lose their link with it.
        let ports: Vec<_> = self.tested_group().servers.iter().skip(1).map(|s| s.addr.port()).collect();
        if port == PRIMARY {
            for port in ports {
                self.probe(port, |probe| {
                    if let ReportedRole::Replica { link_up, link_down_ms, .. } = &mut probe.role {
                        (*link_up, *link_down_ms) = (false, for_ms);
                    }
                });
                self.edit_reports(port, |report| report.in_sync.as_mut().unwrap().ago_ms = for_ms + 200);
            }
        }
    }

    pub fn choice(&self) -> CandidateChoice {
        choose(confirmations(&self.state.products[&PRODUCT]), self.tested_group(), &self.seen, ME)
    }

    pub fn order(&self) -> Vec<u16> {
        self.choice().candidates.iter().map(|c| c.addr.port()).collect()
    }

    /// Why groups are not failed over, and the promotions that begin.
    pub fn decisions(&self) -> (Vec<String>, Vec<u16>) {
        let watchers = Watchers::new(&self.seen, voters());
        let (mut reasons, mut begun) = (Vec::new(), Vec::new());
        for decision in decide(&self.state, &self.seen, &watchers, &self.following_primaries, ME) {
            match decision.action {
                Err(wait) => reasons.push(wait.text()),
                Ok(changes) => begun.extend(changes.iter().filter_map(|change| match change {
                    Change::StartPromotion(StartPromotion { to, .. }) => Some(to.port()),
                    _ => None,
                })),
            }
        }
        (reasons, begun)
    }

    pub fn primary_back(&self) -> Option<String> {
        let promotion = self.state.promotions.values().next().unwrap();
        primary_back(self.tested_group(), promotion, &self.seen, &Watchers::new(&self.seen, voters()))
    }

    pub fn actions(&self) -> Vec<(u16, ReplicationAction)> {
        reconcile(&self.state, &self.seen).0.into_iter().map(|fix| (fix.addr.port(), fix.action)).collect()
    }

    pub fn start(&mut self, to: u16, forced: bool) {
        self.make(Change::StartPromotion(StartPromotion {
            product: PRODUCT,
            group: GROUP,
            to: addr(to),
            kind: PromotionKind::Failover,
            group_epoch: self.tested_group().epoch,
            required_offset: self.tested_group().required_offset.clone(),
            forced,
            why: "a test".into(),
        }));
    }
}

pub fn report(port: u16, replid: &str, role: ReportedRole) -> ProbeReport {
    let run_id = format!("run{port}");
    let in_sync = match &role {
        ReportedRole::Replica { of, .. } => {
            Some(InSync { to: of.clone(), replid: replid.into(), run_id: run_id.clone(), ago_ms: 0 })
        }
        ReportedRole::Primary { .. } => None,
    };
    let probe = Probe {
        run_id,
        role,
        replid: replid.into(),
        offset: 1_000,
        replid2: None,
        loading: false,
        used_memory: 0,
        keys: 10,
        ops_per_second: 0,
        ping_us: 100,
        persistent: Some(false),
        unnamed_replicas: 0,
        write_error: String::new(),
        busy_reply_ms: None,
        saves_fail: false,
    };
    ProbeReport { probe: Some((probe, 0)), failing_ms: None, error: String::new(), impaired: None, in_sync }
}

pub fn follows(port: u16) -> ReportedRole {
    ReportedRole::Replica { of: addr(port), link_up: false, link_down_ms: 1, syncing: false }
}
