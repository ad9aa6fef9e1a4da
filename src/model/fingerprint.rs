//! A number that tells one change from another under the same change id.
//! Knows nothing of formats: it is over the values, field by field, so that neither a compiler nor a wire format changes it.

use super::{
    change::{Change, NewMember, NewProduct},
    ids::{Epoch, GroupId, HostPort, ProductId, SlotId},
    migration::{Counters, Job, MigrationOptions, ProgressPhase, Verified, Verify},
    promotion::ReplicationOffset,
    reads::{ReadFrom, SetReads},
    route::{HoldKind, Isolated, Mode},
    secret::Credentials,
    slot::Layout,
    state::{Cause, Role, Server},
};

/// The fingerprint of `change`: FNV-1a, 64 bits. It guards against mistakes, not against an enemy (who could make
/// changes under an id of his own anyway). It is part of the replicated state: never change what it is made of.
#[must_use]
pub fn fingerprint(change: &Change) -> u64 {
    let mut f = Fnv(0xcbf2_9ce4_8422_2325);
    f.change(change);
    f.0
}

struct Fnv(u64);

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn num(&mut self, n: u64) {
        self.bytes(&n.to_le_bytes());
    }

    fn wide(&mut self, n: u128) {
        self.bytes(&n.to_le_bytes());
    }

    /// With its length, so that "ab" + "c" is not "a" + "bc".
    fn text(&mut self, text: &str) {
        self.num(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    fn maybe<T>(&mut self, value: Option<T>, feed: impl FnOnce(&mut Self, T)) {
        self.num(u64::from(value.is_some()));
        if let Some(value) = value {
            feed(self, value);
        }
    }

    fn addr(&mut self, addr: &HostPort) {
        self.text(addr.as_str());
    }

    fn credentials(&mut self, c: &Credentials) {
        self.maybe(c.username.as_deref(), Self::text);
        self.text(c.password.reveal());
    }

    /// What the operator said of it; the rest is what it answered when it was asked, which a repeat does not do again.
    fn server(&mut self, s: &Server) {
        self.addr(&s.addr);
        // Came later: fed only where it is said, so that older entries keep their fingerprint.
        if (s.priority, s.zone.as_str()) != (Server::PRIORITY, "") {
            self.num(u64::from(s.priority));
            self.text(&s.zone);
        }
    }

    fn place(&mut self, product: ProductId, group: GroupId) {
        self.num(u64::from(product.0));
        self.num(u64::from(group.0));
    }

    fn required_offset(&mut self, r: &ReplicationOffset) {
        self.text(&r.replid);
        self.num(r.offset);
    }

    fn member(&mut self, m: &NewMember) {
        self.num(m.id.0);
        self.wide(m.uuid.0);
        self.addr(&m.admin);
        self.text(&m.advertise);
        self.num(u64::from(m.port_offset));
    }

    fn product(&mut self, p: &NewProduct) {
        self.text(&p.name);
        self.num(u64::from(p.port));
        self.num(match p.layout {
            Layout::Codis => 1,
            Layout::Redis => 2,
        });
        self.num(match p.mode {
            Mode::Store => 1,
            Mode::Cache => 2,
        });
        self.num(match p.isolated {
            Isolated::Refuse => 1,
            Isolated::Serve => 2,
        });
        self.num(u64::from(p.databases));
        self.maybe(p.auth.as_ref(), Self::credentials);
    }

    fn slots<'a>(&mut self, slots: impl ExactSizeIterator<Item = &'a SlotId>) {
        self.num(slots.len() as u64);
        for slot in slots {
            self.num(u64::from(slot.0));
        }
    }

    fn epochs<'a>(&mut self, epochs: impl ExactSizeIterator<Item = (&'a GroupId, &'a Epoch)>) {
        self.num(epochs.len() as u64);
        for (group, epoch) in epochs {
            self.num(u64::from(group.0));
            self.num(epoch.0);
        }
    }

    fn options(&mut self, o: &MigrationOptions) {
        self.num(match o.verify {
            Verify::None => 1,
            Verify::Sample => 2,
            Verify::Full => 3,
        });
        self.num(u64::from(o.wipe));
        self.num(o.limits.keys_per_second);
        self.num(o.limits.bytes_per_second);
        self.num(u64::from(o.limits.hold_ms_max));
    }

    fn counters(&mut self, c: &Counters) {
        for n in [c.scanned, c.keys, c.bytes, c.refetched, c.deleted, c.dirty] {
            self.num(n);
        }
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Migration(id) => {
                self.num(1);
                self.num(id.0);
            }
            Job::Sweep { product, group } => {
                self.num(2);
                self.num(u64::from(product.0));
                self.num(u64::from(group.0));
            }
        }
    }

    /// The first number of each kind is its field number in state.proto.
    fn change(&mut self, change: &Change) {
        match change {
            Change::Bootstrap { members, port } => {
                self.num(10);
                self.num(members.len() as u64);
                members.iter().for_each(|m| self.member(m));
                self.num(u64::from(*port));
            }
            Change::AddMember(member) => {
                self.num(11);
                self.member(member);
            }
            Change::Admit { member, start } => {
                self.num(12);
                self.member(member);
                self.wide(start.0);
            }
            Change::BeginRemove { node, assume_dead } => {
                self.num(13);
                self.num(node.0);
                self.num(u64::from(*assume_dead));
            }
            Change::FinishRemove { node, uuid, term } => {
                self.num(14);
                self.num(node.0);
                self.wide(uuid.0);
                self.num(term.0);
            }
            Change::SetRole { node, role } => {
                self.num(15);
                self.num(node.0);
                self.num(match role {
                    Role::Auto => 1,
                    Role::Voter => 2,
                    Role::Learner => 3,
                });
            }
            Change::Recover { keep } => {
                self.num(16);
                self.num(keep.0);
            }
            Change::CreateProduct(product) => {
                self.num(17);
                self.product(product);
            }
            Change::SetProduct { product, port, databases, auth, auto_rebalance, min_acks, min_acks_ms, reads } => {
                self.num(18);
                self.num(u64::from(product.0));
                self.maybe(*port, |f, p| f.num(u64::from(p)));
                self.maybe(*databases, |f, d| f.num(u64::from(d)));
                self.maybe(auth.as_ref(), |f, a| f.maybe(a.as_ref(), Self::credentials));
                // Came later: fed only where it is said, so that older entries keep their fingerprint.
                if let Some(on) = auto_rebalance {
                    self.num(u64::from(*on));
                }
                // Each with what it is: numbers alone would be taken for each other.
                if let Some(replicas) = min_acks {
                    self.text("min-acks");
                    self.num(u64::from(*replicas));
                }
                if let Some(ms) = min_acks_ms {
                    self.text("min-acks-ms");
                    self.num(u64::from(*ms));
                }
                if reads.says_something() {
                    // Told apart from what came before it.
                    self.text("reads");
                    let SetReads { from, max_lag_ms, own_writes } = *reads;
                    self.maybe(from, |f, from| {
                        f.num(match from {
                            ReadFrom::Primary => 1,
                            ReadFrom::PreferReplica => 2,
                            ReadFrom::Replica => 3,
                            ReadFrom::Nearest => 4,
                        });
                    });
                    self.maybe(max_lag_ms, |f, ms| f.num(u64::from(ms)));
                    self.maybe(own_writes, |f, on| f.num(u64::from(on)));
                }
            }
            Change::RemoveProduct { product } => {
                self.num(19);
                self.num(u64::from(product.0));
            }
            Change::CreateGroup { product, group, servers, credentials } => {
                self.num(20);
                self.num(u64::from(product.0));
                self.num(u64::from(group.0));
                self.num(servers.len() as u64);
                servers.iter().for_each(|s| self.server(s));
                self.maybe(credentials.as_ref(), Self::credentials);
            }
            Change::AddServer { product, group, server } => {
                self.num(21);
                self.num(u64::from(product.0));
                self.num(u64::from(group.0));
                self.server(server);
            }
            Change::RemoveServer { product, group, addr } => {
                self.num(22);
                self.num(u64::from(product.0));
                self.num(u64::from(group.0));
                self.addr(addr);
            }
            Change::RemoveGroup { product, group } => {
                self.num(23);
                self.num(u64::from(product.0));
                self.num(u64::from(group.0));
            }
            // One and the same to the operator: which of them it becomes depends on who owns the slots.
            Change::AssignFree { product, slots, to } | Change::StartAssign { product, slots, to, abandon: false } => {
                self.num(24);
                self.num(u64::from(product.0));
                self.slots(slots.iter());
                self.num(u64::from(to.0));
            }
            // To abandon keys is another wish.
            Change::StartAssign { product, slots, to, abandon: true } => {
                self.num(25);
                self.num(u64::from(product.0));
                self.slots(slots.iter());
                self.num(u64::from(to.0));
            }
            Change::Hold { cause, attempt, kind, reason } => {
                self.num(26);
                match cause {
                    Cause::Assignment(id) => {
                        self.num(1);
                        self.num(id.0);
                    }
                    Cause::Migration(id) => {
                        self.num(2);
                        self.num(id.0);
                    }
                    Cause::Promotion(id) => {
                        self.num(3);
                        self.num(id.0);
                    }
                }
                self.num(u64::from(*attempt));
                self.num(match kind {
                    HoldKind::Wait => 1,
                    HoldKind::Abandon => 2,
                });
                self.text(reason);
            }
            Change::Release { hold, why } => {
                self.num(27);
                self.num(hold.0);
                self.text(why);
            }
            Change::FinishAssign { assignment, hold, term, group_epochs } => {
                self.num(28);
                self.num(assignment.0);
                self.num(hold.0);
                self.num(term.0);
                self.epochs(group_epochs.iter());
            }
            Change::GiveUpAssign { assignment, why } => {
                self.num(29);
                self.num(assignment.0);
                self.text(why);
            }
            Change::SetCluster { voters, hold_ms_max, maintenance, failover_share_max } => {
                self.num(30);
                self.maybe(*voters, |f, v| f.num(u64::from(v)));
                self.maybe(*hold_ms_max, |f, h| f.num(u64::from(h)));
                // Both came later: each fed only where it is said, under a number of its own.
                if let Some(on) = maintenance {
                    self.num(1);
                    self.num(u64::from(*on));
                }
                if let Some(percent) = failover_share_max {
                    self.num(2);
                    self.num(u64::from(*percent));
                }
            }
            Change::PlanMigration { product, slots, from, to, options } => {
                self.num(31);
                self.num(u64::from(product.0));
                self.slots(slots.iter());
                self.num(u64::from(from.0));
                self.num(u64::from(to.0));
                self.options(options);
            }
            Change::StartMigration { migration, attempt, node, feed, target, group_epochs, term } => {
                self.num(32);
                self.num(migration.0);
                self.num(u64::from(*attempt));
                self.num(node.0);
                self.addr(feed);
                self.addr(target);
                self.epochs(group_epochs.iter());
                self.num(term.0);
            }
            Change::MigrationProgress { migration, attempt, phase, counters, verified } => {
                self.num(33);
                self.num(migration.0);
                self.num(u64::from(*attempt));
                self.num(match phase {
                    ProgressPhase::Copying => 1,
                    ProgressPhase::CaughtUp => 2,
                });
                self.counters(counters);
                self.maybe(*verified, |f, Verified { keys, different }| {
                    f.num(keys);
                    f.num(different);
                });
            }
            Change::Switch { migration, attempt, hold, term, group_epochs, target_offset } => {
                self.num(34);
                self.num(migration.0);
                self.num(u64::from(*attempt));
                self.num(hold.0);
                self.num(term.0);
                self.epochs(group_epochs.iter());
                // Came later, like those of SetCluster.
                if let Some(required_offset) = target_offset {
                    self.required_offset(required_offset);
                }
            }
            Change::RestartMigration { migration, why } => {
                self.num(35);
                self.num(migration.0);
                self.text(why);
            }
            Change::CancelMigration { migration, why } => {
                self.num(36);
                self.num(migration.0);
                self.text(why);
            }
            Change::PauseMigration { migration, why } => {
                self.num(37);
                self.num(migration.0);
                self.text(why);
            }
            Change::ResumeMigration { migration } => {
                self.num(38);
                self.num(migration.0);
            }
            Change::SetMigration { migration, keys_per_second, bytes_per_second, hold_ms_max } => {
                self.num(39);
                self.num(migration.0);
                self.maybe(*keys_per_second, Self::num);
                self.maybe(*bytes_per_second, Self::num);
                self.maybe(*hold_ms_max, |f, h| f.num(u64::from(h)));
            }
            Change::StartRun { job, run, node, server, term } => {
                self.num(40);
                self.job(*job);
                self.num(u64::from(*run));
                self.num(node.0);
                self.addr(server);
                self.num(term.0);
            }
            Change::Cleaned { job, run, term, deleted } => {
                self.num(41);
                self.job(*job);
                self.num(u64::from(*run));
                self.num(term.0);
                self.num(*deleted);
            }
            Change::EndSweep { product, group, run, term, why } => {
                self.num(42);
                self.num(u64::from(product.0));
                self.num(u64::from(group.0));
                self.num(u64::from(*run));
                self.num(term.0);
                self.text(why);
            }
            // What is asked for; the rest is what the servers answered then, which a repeat does not ask again.
            Change::StartPromotion {
                product,
                group,
                to,
                kind: _,
                group_epoch: _,
                required_offset: _,
                forced: _,
                why: _,
            } => {
                self.num(43);
                self.place(*product, *group);
                self.addr(to);
            }
            Change::FinishPromotion { promotion, hold, term } => {
                self.num(44);
                self.num(promotion.0);
                self.num(hold.0);
                self.num(term.0);
            }
            Change::GiveUpPromotion { promotion, why, primary_back, forced } => {
                self.num(45);
                self.num(promotion.0);
                self.text(why);
                self.num(u64::from(*primary_back));
                self.num(u64::from(*forced));
            }
            Change::NotePrimary { product, group, epoch, replid } => {
                self.num(46);
                self.place(*product, *group);
                self.num(epoch.0);
                self.text(replid);
            }
            Change::NoteReconciled { product, group, addr, text } => {
                self.num(52);
                self.place(*product, *group);
                self.addr(addr);
                self.text(text);
            }
            Change::NoteProcess { product, group, epoch, replid, run_id, keys, keys_before } => {
                self.num(53);
                self.place(*product, *group);
                self.num(epoch.0);
                self.text(replid);
                self.text(run_id);
                self.num(*keys);
                self.maybe(*keys_before, Self::num);
            }
            Change::MarkResynced { product, group, addr, epoch } => {
                self.num(47);
                self.place(*product, *group);
                self.addr(addr);
                self.num(epoch.0);
            }
            Change::SetGroup { product, group, down_after_ms, maintenance, eject_after_ms } => {
                self.num(48);
                self.place(*product, *group);
                self.maybe(*down_after_ms, |f, ms| f.num(u64::from(ms)));
                self.maybe(*maintenance, |f, on| f.num(u64::from(on)));
                // Came later: what does not say it is what it was.
                if let Some(ms) = *eject_after_ms {
                    self.num(u64::from(ms));
                }
            }
            Change::Eject { product, group, group_epoch, to, why } => {
                self.num(50);
                self.place(*product, *group);
                self.num(group_epoch.0);
                self.num(to.len() as u64);
                for (to, slots) in to {
                    self.num(u64::from(to.0));
                    self.slots(slots.iter());
                }
                self.text(why);
            }
            Change::Reinstate { product, group, ejection, group_epoch } => {
                self.num(51);
                self.place(*product, *group);
                self.num(ejection.0);
                self.num(group_epoch.0);
            }
            Change::SetServer { product, group, addr, priority, zone } => {
                self.num(49);
                self.place(*product, *group);
                self.addr(addr);
                self.maybe(*priority, |f, p| f.num(u64::from(p)));
                self.maybe(zone.as_deref(), Self::text);
            }
        }
    }
}
