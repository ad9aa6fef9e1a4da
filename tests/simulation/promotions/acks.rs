//! Writes under `min-acks`: when they are acknowledged, and whether they are lost. A write may be lost only when the last
//! process is killed that has it from a client or from its primary: then at least `min-acks` replicas that had it have
//! failed together with the primary. Knows nothing of which server should be the primary.

use std::collections::BTreeSet;

use pontoon::{
    model::{
        change::{Change, SetProduct},
        client_rules::SetClientRules,
        ids::{Epoch, HostPort},
        reads::SetReads,
    },
    plan::restart::{confirmations, is_protected, undecided_restart},
};

use super::{
    super::network::{MS, Ns},
    PRODUCT, World, index,
    leader::BARRIER,
    servers::{Dropped, Write},
};

/// How long a write waits for its confirmation.
const ACKS_WITHIN: Ns = 1_000 * MS;

/// Why a restarted primary is neither replaced nor accepted: too few replicas answer with the former data; the one with
/// the largest offset may not be promoted; or none may be.
pub const RESTART_REASONS: [&str; 3] =
    ["replicas must answer with its data", "has more (offset", "no replica can replace it"];
/// A server has more keys than a primary that was restarted with few.
pub const LAST_COPY: &str = "it is not made a replica";

/// A write that its primary has executed.
#[derive(Clone, Copy)]
struct Unconfirmed {
    write: Write,
    server: usize,
    run: u32,
    epoch: Epoch,
    until: Ns,
}

/// Writes of clients that wait for confirmations.
pub struct Acks {
    min: usize,
    unconfirmed: Vec<Unconfirmed>,
    /// Acknowledged writes that must not be lost.
    kept: BTreeSet<Write>,
    /// Replicas that receive nothing at the moment.
    pub lagging: BTreeSet<usize>,
    /// The first loss.
    pub violation: Option<String>,
}

impl Acks {
    pub fn new(min: u8) -> Self {
        let (unconfirmed, kept, lagging) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        Self { min: min.into(), unconfirmed, kept, lagging, violation: None }
    }
}

impl World {
    pub fn set_min_acks(&mut self, min_acks: u8) {
        let (port, databases, auth, auto_rebalance, min_acks_ms, clients_max) = (None, None, None, None, None, None);
        let (product, reads, rules) = (PRODUCT, SetReads::default(), SetClientRules::default());
        let min_acks = Some(min_acks);
        let set = SetProduct {
            product,
            port,
            databases,
            auth,
            auto_rebalance,
            min_acks,
            min_acks_ms,
            reads,
            clients_max,
            rules,
        };
        self.apply(Change::SetProduct(set)).unwrap();
    }

    /// The log names another primary. What the one before has is given up, until it has copied the new one.
    pub fn give_up_data(&mut self, from: usize) {
        let server = &mut self.servers.all[from];
        server.loaded = server.data.len();
    }

    /// The server that the log names.
    pub fn primary(&self) -> usize {
        index(&self.group().servers[0].addr)
    }

    /// Whether a node may still serve the slots: it may learn of a hold as late as the barrier allows.
    fn may_serve(&self) -> bool {
        self.held_since.is_none_or(|since| self.now < since + BARRIER)
    }

    pub fn client_writes_with_acks(&mut self) {
        if !self.may_serve() {
            return;
        }
        let server = self.primary();
        let Some(write) = self.servers.write(server) else { return };
        let (run, epoch, until) = (self.servers.all[server].run, self.group().epoch, self.now + ACKS_WITHIN);
        self.acks.unconfirmed.push(Unconfirmed { write, server, run, epoch, until });
    }

    /// The primary receives the confirmations of its replicas. `dropped`: what servers have dropped meanwhile.
    pub fn confirm_writes(&mut self, dropped: &[Dropped]) {
        for Dropped { server, writes } in dropped {
            let all = &self.servers.all;
            let left = |write: &Write| all.iter().any(|other| other.has_received(*write));
            let lost: Vec<Write> =
                writes.iter().copied().filter(|write| self.acks.kept.contains(write) && !left(write)).collect();
            if !lost.is_empty() && self.acks.violation.is_none() {
                let what = format!("server {server} has dropped acknowledged writes that no other has: {lost:?}");
                self.note(format_args!("{what}"));
                self.acks.violation = Some(what);
            }
        }
        let (now, primary, epoch) = (self.now, self.primary(), self.group().epoch);
        let may_serve = self.may_serve();
        let Self { servers, acks, seen, .. } = self;
        acks.unconfirmed.retain(|waiting| {
            let process = &servers.all[waiting.server];
            let current = (primary, epoch) == (waiting.server, waiting.epoch) && process.run == waiting.run;
            if !current || !process.up || !may_serve || now > waiting.until {
                return false;
            }
            let confirms = |replica: &&super::RedisServer| {
                replica.answers()
                    && replica.link_up
                    && replica.follows == Some(primary)
                    && replica.replid == process.replid
                    && replica.has(waiting.write)
            };
            if process.stopped || servers.all.iter().filter(confirms).count() < acks.min {
                return true;
            }
            seen.acked += 1;
            acks.kept.insert(waiting.write);
            false
        });
    }

    /// A server is about to be killed: writes that only its process has received may be lost.
    pub fn excuse_writes(&mut self, server: usize) {
        let all = &self.servers.all;
        let others = |write: &Write| all.iter().enumerate().any(|(other, s)| other != server && s.has_received(*write));
        // Nothing shows that a new primary was restarted before the log knew its process (the leader died, too).
        let unknown = server == self.primary() && self.group().run_id.is_empty();
        let before = self.acks.kept.len();
        self.acks.kept.retain(|write| !unknown && others(write));
        self.seen.excused += before - self.acks.kept.len();
    }

    /// Random faults end.
    pub fn end_faults(&mut self) {
        self.acks.lagging.clear();
    }

    /// # Errors
    /// Returns which acknowledged writes are lost.
    pub fn check_writes(&self) -> Result<(), String> {
        if let Some(violation) = &self.acks.violation {
            return Err(violation.clone());
        }
        let missing = |servers: &[super::RedisServer]| {
            let lost = |write: &Write| !servers.iter().any(|server| server.has(*write));
            self.acks.kept.iter().copied().filter(lost).collect::<Vec<Write>>()
        };
        let lost = if self.is_healthy().is_ok() {
            missing(&self.servers.all[self.primary()..][..1])
        } else {
            missing(&self.servers.all)
        };
        match lost.is_empty() {
            true => Ok(()),
            false => Err(format!("acknowledged writes are lost: {lost:?}")),
        }
    }

    /// The documented reason for which a group waits for its operator.
    ///
    /// # Errors
    /// Returns what else it waits for.
    pub fn operator_decides(&self) -> Result<&'static str, String> {
        let (texts, seen) = (self.left_to_operator(), self.observation());
        let says = |what: &&str| texts.iter().any(|text| text.contains(*what));
        let confirmations = confirmations(&self.state.products[&PRODUCT]);
        let reason = match undecided_restart(confirmations, self.group(), &seen) {
            Some(_) => RESTART_REASONS.into_iter().find(says),
            None => Some(LAST_COPY).filter(says),
        };
        reason.ok_or_else(|| format!("it waits for: {texts:?}"))
    }

    // The replication user.

    /// As `control::servers::replication_user::login_at_primary`: the primary admits its replicas, if it is the process
    /// that the log knows.
    pub fn admit_replicas(&mut self, to: &HostPort) -> bool {
        let known = self.group().run_id.clone();
        let protected = is_protected(&self.state.products[&PRODUCT]);
        let server = &mut self.servers.all[index(to)];
        let is_known = server.answers() && server.follows.is_none() && format!("run{}", server.run) == known;
        if protected && is_known {
            server.admits = true;
        }
        !protected || is_known
    }

    /// Sets how a replica logs in at its primary. Its file is unchanged.
    pub fn set_login(&mut self, addr: &HostPort) {
        self.servers.all[index(addr)].logs_in = is_protected(&self.state.products[&PRODUCT]);
    }
}
