//! The replicated state: everything that the log has decided. Changed by `apply` alone.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    auth::ProductAuth,
    author::Author,
    change::Change,
    client_rules::ClientRules,
    data_user::DataUser,
    ejection::Ejection,
    event::Event,
    ids::{
        AssignmentId, Epoch, GroupId, HoldId, HostPort, Incarnation, MigrationId, NodeId, ProductId, PromotionId,
        SlotId, Term, Uuid,
    },
    limits::IMPAIRED_AFTER_MS,
    migration::{EndedMigration, Migration, Sweep},
    outcome::Outcome,
    promotion::{EndedPromotion, Promotion, ReplicationOffset},
    reads::ReadPolicy,
    route::{HoldKind, Isolated, Mode},
    scan_history::ScanHistory,
    script::ScriptCatalogue,
    secret::Credentials,
    slot::Layout,
};

/// The replicated state. Equal logs give equal states, on every node and at every replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Index of the last entry applied, routing or not.
    pub applied: Epoch,
    /// Log index of the last routing entry: an entry that changed a route, a hold or an incarnation.
    pub route_epoch: Epoch,
    /// Settings of the whole cluster.
    pub settings: Settings,
    /// The possible servers: every node that may hold a lease, by id.
    pub members: BTreeMap<NodeId, Member>,
    /// The last `REMOVED_MAX` nodes that were removed, oldest first. Their uuids never return.
    pub removed: VecDeque<RemovedMember>,
    /// Raft's membership as the log last noted it. Only shown: no decision depends on it.
    pub raft_membership: RaftMembership,
    /// Products by id.
    pub products: BTreeMap<ProductId, Product>,
    /// The id the next product gets.
    pub next_product: u32,
    /// Open holds.
    pub holds: BTreeMap<HoldId, Hold>,
    /// Assignments that have not ended.
    pub assignments: BTreeMap<AssignmentId, Assignment>,
    /// The last `ENDED_MAX` assignments that ended, oldest first.
    pub ended_assignments: VecDeque<EndedAssignment>,
    /// Migrations that have not ended.
    pub migrations: BTreeMap<MigrationId, Migration>,
    /// The last `ENDED_MIGRATIONS_MAX` migrations that ended, oldest first.
    pub ended_migrations: VecDeque<EndedMigration>,
    /// Promotions that have not ended; at most one per group.
    pub promotions: BTreeMap<PromotionId, Promotion>,
    /// The last `PROMOTIONS_ENDED_MAX` promotions that ended, oldest first.
    pub ended_promotions: VecDeque<EndedPromotion>,
    /// The last `EVENTS_MAX` events of each class, oldest first. Shared: the state is copied with every entry.
    pub events: VecDeque<Arc<Event>>,
    /// First results of the last `RESULTS_MAX` changes by change id, so that a repeat returns the first result.
    pub results: BTreeMap<Uuid, Recorded>,
    /// The change ids of `results`, oldest first.
    pub results_order: VecDeque<Uuid>,
}

impl ClusterState {
    /// Whether a node with this uuid was removed.
    #[must_use]
    pub fn was_removed(&self, uuid: Uuid) -> bool {
        self.removed.iter().any(|m| m.uuid == uuid)
    }
}

/// The first result of a change, kept so that a repeat under the same id returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Log index of the entry.
    pub index: Epoch,
    /// The hash of the first request under the id: another request under the same id is refused.
    pub request_hash: u64,
    /// The result. Rejects are recorded too.
    pub outcome: Result<Outcome, super::reject::Reject>,
}

/// Replicated settings of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many nodes are made voters automatically, 1 to 7.
    pub voters: u8,
    /// Budget of a hold of kind Wait, milliseconds.
    pub hold_ms_max: u32,
    /// Nothing is changed automatically in any group: no failover, no replication reconciliation.
    pub maintenance: bool,
    /// The failover share: no group is failed over automatically while more than this share of all primaries is down,
    /// percent, 1 to 100.
    pub failover_share_max: u8,
}

impl Default for Settings {
    fn default() -> Self {
        // 5 voters survive two failures; more make every commit slower. 250 ms: docs/design/serving.md.
        // If more than half of all primaries seem down, a fault of the network or of this cluster is more likely than
        // theirs.
        Self { voters: 5, hold_ms_max: 250, maintenance: false, failover_share_max: 50 }
    }
}

/// Whether a member votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The cluster decides: voter while fewer than `settings.voters` are.
    #[default]
    Auto,
    /// Made a voter by the operator.
    Voter,
    /// Made a learner by the operator; stays one.
    Learner,
}

/// A node that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedMember {
    /// The id that it had. Another node may have it now.
    pub id: NodeId,
    /// Its uuid.
    pub uuid: Uuid,
    /// Log index of its removal.
    pub at: Epoch,
}

/// Raft's voters and learners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftMembership {
    /// The nodes that vote.
    pub voters: BTreeSet<NodeId>,
    /// The nodes that only follow.
    pub learners: BTreeSet<NodeId>,
}

/// A node that may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its identity, from its data directory.
    pub uuid: Uuid,
    /// Where other nodes and operators reach it.
    pub admin: HostPort,
    /// The host that clients connect to. Listeners with equal hosts must not have equal ports.
    pub advertise: String,
    /// Added to every product's port.
    pub port_offset: u16,
    /// The role that the operator wants.
    pub role: Role,
    /// The current start; `None` until its first admission.
    pub admitted: Option<Admission>,
    /// Removal has begun: no lease is granted any more.
    pub leaving: Option<Leaving>,
}

/// One start of a node that the log has admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Random, chosen by the node at its start.
    pub start: Uuid,
    /// Log index of the admission.
    pub incarnation: Incarnation,
}

/// A removal that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Log index of the entry that began it.
    pub since: Epoch,
    /// The operator vouches that the node is dead, so the removal does not wait for anything.
    pub assume_dead: bool,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// Its id.
    pub id: ProductId,
    /// Its name, unique: 1 to 64 of `[A-Za-z0-9_.-]`, not starting with a dot or dash.
    pub name: String,
    /// Base port, unique together with every node's offset.
    pub port: u16,
    /// How keys are hashed. Fixed.
    pub layout: Layout,
    /// Store or cache. Fixed.
    pub mode: Mode,
    /// What a node does without a lease. Fixed.
    pub isolated: Isolated,
    /// Number of databases, 1 to 1024 (default 16).
    pub databases: u32,
    /// What clients log in with.
    pub auth: ProductAuth,
    /// Its groups.
    pub groups: BTreeMap<GroupId, Group>,
    /// Migrations are planned automatically when groups change or load drifts.
    pub auto_rebalance: bool,
    /// Replicas that must have a write before it is acknowledged; 0: none.
    pub min_acks: u8,
    /// How long a write waits for them, milliseconds.
    pub min_acks_ms: u32,
    /// Where reads go.
    pub reads: ReadPolicy,
    /// Clients that each node accepts for it; 0: only the limit of the node.
    pub clients_max: u32,
    /// What its clients may do.
    pub rules: ClientRules,
    /// What its clients have loaded. Shared: the state is copied with every entry.
    pub scripts: Arc<ScriptCatalogue>,
    /// Runs of sweeps so far, of all its groups. Their numbers are never used twice, even if the id of a group is.
    pub sweep_runs: u32,
    /// Owner and slot epoch of each slot; length `layout.slots()`.
    pub slots: Vec<SlotState>,
    /// What a SCAN under way has to visit again.
    pub scans: ScanHistory,
}

/// A slot in the replicated table. Whether it is held is in `ClusterState::holds`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    /// The group that owns it.
    pub owner: Option<GroupId>,
    /// Log index of the last entry that changed its owner or its group's primary.
    pub epoch: Epoch,
}

/// A primary and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// The servers; the first is the primary.
    pub servers: Vec<Server>,
    /// The credentials that nodes log in with at the servers: those of the control user.
    pub credentials: Option<Credentials>,
    /// Those before, while servers still accept them.
    pub former: Option<FormerControlUser>,
    /// The user with which nodes carry out what clients ask for. `None`: the control user, so that scripts of clients may do
    /// whatever it may.
    pub data_user: Option<DataUser>,
    /// Log index of the last entry that changed the primary.
    pub epoch: Epoch,
    /// Slots that it owned and gave away. Their keys at its servers are leftovers and may be deleted.
    pub given_away: BTreeSet<SlotId>,
    /// The open sweep of some or all of them.
    pub sweep: Option<Sweep>,
    /// The operator's choices.
    pub options: GroupOptions,
    /// Replication id of the primary as last noted in the log; empty: not known (never noted, or the primary is new).
    pub replid: String,
    /// `run_id` of the primary's process as last noted in the log; empty: not known.
    pub run_id: String,
    /// If the primary has restarted since it became the primary: the number of keys that its last process began with.
    /// What the primary had not saved is lost; other servers may have more.
    pub restarted_with: Option<u64>,
    /// The required offset: the offset of the primary when the group last got slots. A replica that has not reached it
    /// lacks keys that the group owns.
    pub required_offset: Option<ReplicationOffset>,
    /// Its ejection, if it is ejected; caches only.
    pub ejection: Option<Ejection>,
}

/// Credentials of a group that others have replaced, and that its servers still accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerControlUser {
    /// The credentials; `None`: the servers accepted everybody.
    pub credentials: Option<Credentials>,
    /// Log index of the entry that replaced them.
    pub at: Epoch,
}

/// The options of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupOptions {
    /// A server is down when a majority has had no answer from it for this long, milliseconds, 500 to 600000.
    pub down_after_ms: u32,
    /// Nothing is changed automatically in this group.
    pub maintenance: bool,
    /// A group of a cache is ejected when its primary has been down for this long and no replica can replace it, and
    /// reinstated when it has been up for this long. Milliseconds, 500 to 600000; 0: never.
    pub eject_after_ms: u32,
    /// What is done about servers that answer and cannot serve.
    pub impaired: ImpairedOptions,
}

/// After which time something is done about servers of a group that answer and cannot serve. Milliseconds, 1000 to
/// 3600000; 0: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImpairedOptions {
    /// A primary that is busy with a script for this long is replaced by a failover.
    pub busy_failover_after_ms: u32,
    /// A primary that loads its data for this long is replaced by a failover.
    pub loading_failover_after_ms: u32,
    /// A primary that refuses writes for this long, because it cannot write to its disk, is replaced by a switchover.
    pub misconf_failover_after_ms: u32,
    /// A script that keeps a server busy for this long is ended, if it has written nothing.
    pub script_kill_after_ms: u32,
}

impl ImpairedOptions {
    /// The options with their names, in the order of their declaration.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u32); 4] {
        [
            ("busy-failover-after", self.busy_failover_after_ms),
            ("loading-failover-after", self.loading_failover_after_ms),
            ("misconf-failover-after", self.misconf_failover_after_ms),
            ("script-kill-after", self.script_kill_after_ms),
        ]
    }

    /// The first value that is neither 0 nor in [`IMPAIRED_AFTER_MS`].
    #[must_use]
    pub fn out_of_range(&self) -> Option<u32> {
        self.named().into_iter().map(|(_, ms)| ms).find(|ms| *ms != 0 && !IMPAIRED_AFTER_MS.contains(ms))
    }
}

impl Default for ImpairedOptions {
    fn default() -> Self {
        // A script that has written cannot be ended, and a failover would lose what it does: the operator decides. A
        // minute of loading is longer than a restart of most servers; in-step replicas have the data already. A full
        // disk may be that of the replicas, too. A script of ten seconds keeps all clients of the server waiting.
        Self {
            busy_failover_after_ms: 0,
            loading_failover_after_ms: 60_000,
            misconf_failover_after_ms: 0,
            script_kill_after_ms: 10_000,
        }
    }
}

impl Default for GroupOptions {
    fn default() -> Self {
        // Three seconds: longer than a pause for a fork or a slow command usually is, short for clients that wait.
        // Ten seconds without a part of a cache: longer than a restart without data takes, and then its keys are lost
        // anyway.
        let impaired = ImpairedOptions::default();
        Self { down_after_ms: 3000, maintenance: false, eject_after_ms: 10_000, impaired }
    }
}

/// One Redis process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its address, which is its identity here.
    pub addr: HostPort,
    /// `run_id` of the process when it was added. Shows whether two addresses belong to one server.
    pub run_id: String,
    /// Keys it held when it was added.
    pub keys_when_added: u64,
    /// Among candidates with equal offsets, the one with the largest priority is promoted; 0: never promoted
    /// automatically.
    pub priority: u32,
    /// Its zone; empty: none. At most `ZONE_LEN_MAX` of `[A-Za-z0-9_.-]`.
    pub zone: String,
    /// It may have data that its group's primary never had: it was the primary, or its promotion was given up after it
    /// may have become a primary. It is not a candidate until it is resynced.
    pub diverged: bool,
}

impl Server {
    /// The default priority. Others can have a larger or a smaller one.
    pub const PRIORITY: u32 = 100;

    /// A server with default settings.
    #[must_use]
    pub const fn new(addr: HostPort, run_id: String, keys_when_added: u64) -> Self {
        Self { addr, run_id, keys_when_added, priority: Self::PRIORITY, zone: String::new(), diverged: false }
    }
}

/// An open hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its id: the log index of its entry.
    pub id: HoldId,
    /// What it is for.
    pub cause: Cause,
    /// Attempt of the cause, from 1.
    pub attempt: u32,
    /// Product of the slots.
    pub product: ProductId,
    /// The slots.
    pub slots: BTreeSet<SlotId>,
    /// Wait or Abandon.
    pub kind: HoldKind,
    /// Term whose leader opened it.
    pub term: Term,
    /// Time of its entry, milliseconds since the Unix epoch. Only shown: no decision depends on it.
    pub since_ms: u64,
    /// The reason, for people.
    pub reason: String,
}

/// What a hold is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// An assignment of slots that have an owner.
    Assignment(AssignmentId),
    /// The switch of a migration.
    Migration(MigrationId),
    /// A promotion.
    Promotion(PromotionId),
}

/// A change of the owner of slots without data, not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its id: the log index of StartAssign.
    pub id: AssignmentId,
    /// Product of the slots.
    pub product: ProductId,
    /// The slots that change their owner (without those that `to` owned already).
    pub slots: BTreeSet<SlotId>,
    /// The new owner.
    /// `None`: the slots are released.
    pub to: Option<GroupId>,
    /// Attempts so far: the number of its holds.
    pub attempts: u32,
    /// What becomes of the keys that the present owners have in these slots.
    pub keys: Keys,
}

/// What becomes of the keys that the present owners have in the slots of an assignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keys {
    /// There must be none.
    #[default]
    None,
    /// The operator abandons them: they stay there and are not swept.
    Abandoned,
    /// The owners are temporary owners of a cache, and the slots go back to the group that was ejected. The keys are
    /// swept, and the server that gets the slots is flushed.
    Ejected,
}

/// How an assignment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedAssignment {
    /// Its id.
    pub id: AssignmentId,
    /// Log index of the entry that ended it.
    pub at: Epoch,
    /// `None`: finished. Else why it was given up.
    pub failed: Option<String>,
}

/// An entry of the log: a change, and values that `apply` must not read from the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The change id. The proposer chooses it, and a repeated request carries the same.
    pub id: Uuid,
    /// Equal for a repeated request, different for another request: a hash of the admin request, which may be evaluated
    /// to another change when it is repeated, or else of the change (`wire::hash`).
    pub request_hash: u64,
    /// Milliseconds since the Unix epoch, by the clock of the proposing node.
    pub at_ms: u64,
    /// Who asked for it. A repeat under the same id may have another author: the first one counts.
    pub author: Author,
    /// The change.
    pub change: Change,
}

/// The position of an entry in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Log index.
    pub index: Epoch,
    /// Term in which it was appended.
    pub term: Term,
}
