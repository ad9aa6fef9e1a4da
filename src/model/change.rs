//! The changes the log can carry. A variant is one decision; servers were asked before it was proposed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{
        AssignmentId, Epoch, GroupId, HoldId, HostPort, MigrationId, NodeId, ProductId, PromotionId, SlotId, Term, Uuid,
    },
    migration::{Counters, Job, MigrationOptions, ProgressPhase, Verified},
    promotion::{PromotionKind, ReplicationOffset},
    reads::SetReads,
    route::{HoldKind, Isolated, Mode},
    secret::Credentials,
    slot::Layout,
    state::{Cause, Role, Server},
};

/// One replicated modification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The first change of a cluster: its members, and the product `default` on `port`. Refused when there are members.
    Bootstrap {
        /// All nodes of the first membership.
        members: Vec<NewMember>,
        /// Port of the product `default`.
        port: u16,
    },
    /// A pristine node joins. The same uuid again is the same member, at a new address.
    AddMember(NewMember),
    /// Admits a start of a member and retires the former one; also where a changed address enters the log.
    Admit {
        /// Who, with the address it has now.
        member: NewMember,
        /// The start.
        start: Uuid,
    },
    /// Ends a node's renewals; the first half of a removal.
    BeginRemove {
        /// Which node.
        node: NodeId,
        /// The operator vouches that it is dead.
        assume_dead: bool,
    },
    /// Drops a node from the possible servers; the second half. Proposed by the leader when the node surely serves no more.
    FinishRemove {
        /// Which node.
        node: NodeId,
        /// Its uuid, so that a node that joined again under the id is not dropped.
        uuid: Uuid,
        /// Term of the verdict; refused in another.
        term: Term,
    },
    /// The role an operator wants for a node.
    SetRole {
        /// Which node.
        node: NodeId,
        /// Voter, Learner or Auto.
        role: Role,
    },
    /// A quorum was lost for good: `keep` is the only member that is left (`pontoon recover`).
    Recover {
        /// The survivor.
        keep: NodeId,
    },
    /// Makes a product.
    CreateProduct(NewProduct),
    /// Changes settings of a product; only what is `Some` changes.
    SetProduct {
        /// Which.
        product: ProductId,
        /// Base port.
        port: Option<u16>,
        /// Number of databases.
        databases: Option<u32>,
        /// Client credentials; `Some(None)` removes them.
        auth: Option<Option<Credentials>>,
        /// Whether migrations are planned by themselves.
        auto_rebalance: Option<bool>,
        /// Replicas that must have a write before it is acknowledged; 0: none.
        min_acks: Option<u8>,
        /// How long that is waited for, milliseconds.
        min_acks_ms: Option<u32>,
        /// Where reads go.
        reads: SetReads,
    },
    /// Removes a product that has no groups.
    RemoveProduct {
        /// Which.
        product: ProductId,
    },
    /// Makes a group. The servers have been asked.
    CreateGroup {
        /// In which product.
        product: ProductId,
        /// Its id, from 1.
        group: GroupId,
        /// Primary first.
        servers: Vec<Server>,
        /// How to log in to them.
        credentials: Option<Credentials>,
    },
    /// Adds a replica. It has been asked.
    AddServer {
        /// In which product.
        product: ProductId,
        /// To which group.
        group: GroupId,
        /// The server.
        server: Server,
    },
    /// Takes a replica out of its group. The primary can only go with its group.
    RemoveServer {
        /// In which product.
        product: ProductId,
        /// From which group.
        group: GroupId,
        /// Which server.
        addr: HostPort,
    },
    /// Removes a group that owns no slots.
    RemoveGroup {
        /// In which product.
        product: ProductId,
        /// Which.
        group: GroupId,
    },
    /// Gives slots that nobody owns to a group; those it has already are left alone. Refused when another group owns one.
    AssignFree {
        /// In which product.
        product: ProductId,
        /// The slots.
        slots: BTreeSet<SlotId>,
        /// The new owner.
        to: GroupId,
    },
    /// Begins an assignment of slots of which some have another owner. (Free ones among them come along.)
    StartAssign {
        /// In which product.
        product: ProductId,
        /// The slots.
        slots: BTreeSet<SlotId>,
        /// The new owner.
        to: GroupId,
        /// The keys that the owners have of them are given up.
        abandon: bool,
    },
    /// Holds slots.
    Hold {
        /// What for.
        cause: Cause,
        /// Attempt of the cause: of an assignment and a promotion last + 1, of a migration the present one.
        attempt: u32,
        /// Wait or Abandon; of a promotion what its kind demands.
        kind: HoldKind,
        /// For people.
        reason: String,
    },
    /// Ends a hold without a change of owner.
    Release {
        /// Which.
        hold: HoldId,
        /// For people.
        why: String,
    },
    /// The slots of an assignment change owner.
    FinishAssign {
        /// Which assignment.
        assignment: AssignmentId,
        /// Its open hold, whose barrier passed.
        hold: HoldId,
        /// Term of the verdict; refused in another.
        term: Term,
        /// Epochs of all groups concerned (the owners' and the target's) when the servers were scanned.
        group_epochs: BTreeMap<GroupId, Epoch>,
    },
    /// Ends an assignment without a change; ends its hold if one is open.
    GiveUpAssign {
        /// Which.
        assignment: AssignmentId,
        /// For people.
        why: String,
    },
    /// Changes cluster settings; only what is `Some` changes.
    SetCluster {
        /// Nodes made voters automatically, 1 to 7.
        voters: Option<u8>,
        /// Budget of a hold of kind Wait in milliseconds, 10 to 10000.
        hold_ms_max: Option<u32>,
        /// Nothing is changed automatically.
        maintenance: Option<bool>,
        /// Percent of the primaries that may be down at once for automatic failovers, 1 to 100.
        failover_share_max: Option<u8>,
    },
    /// Plans a migration. The servers have been asked.
    PlanMigration {
        /// In which product.
        product: ProductId,
        /// The slots, all of them `from`'s.
        slots: BTreeSet<SlotId>,
        /// Their owner.
        from: GroupId,
        /// Their next owner.
        to: GroupId,
        /// What the operator chose.
        options: MigrationOptions,
    },
    /// Begins an attempt, and the run that makes it. Proposed behind the fence of the last run.
    StartMigration {
        /// Which.
        migration: MigrationId,
        /// Last + 1.
        attempt: u32,
        /// The node that copies.
        node: NodeId,
        /// The server of `from` that serves feed and fetches.
        feed: HostPort,
        /// The primary of `to`.
        target: HostPort,
        /// Epochs of `from` and `to` when their servers were looked at.
        group_epochs: BTreeMap<GroupId, Epoch>,
        /// Term of the fence; refused in another.
        term: Term,
    },
    /// What the node of an attempt reports.
    MigrationProgress {
        /// Which.
        migration: MigrationId,
        /// Its attempt.
        attempt: u32,
        /// How far it is.
        phase: ProgressPhase,
        /// What it has done.
        counters: Counters,
        /// What its comparison found; `None`: no news of one.
        verified: Option<Verified>,
    },
    /// The slots of a migration change owner.
    Switch {
        /// Which.
        migration: MigrationId,
        /// Its attempt.
        attempt: u32,
        /// Its open hold, whose barrier passed.
        hold: HoldId,
        /// Term of the verdict and of the fence; refused in another.
        term: Term,
        /// Epochs of `from` and `to` when the node finished.
        group_epochs: BTreeMap<GroupId, Epoch>,
        /// Where the target's primary was when the node was done: whoever is promoted there must have got there.
        /// `None`: the node did not say, being of an older version.
        target_offset: Option<ReplicationOffset>,
    },
    /// Ends an attempt before its switch; the next one begins anew. Ends its hold if one is open.
    RestartMigration {
        /// Which.
        migration: MigrationId,
        /// For people.
        why: String,
    },
    /// Gives a migration up before its switch. Ends its hold if one is open.
    CancelMigration {
        /// Which.
        migration: MigrationId,
        /// For people.
        why: String,
    },
    /// Ends an attempt before its switch; nothing more until it is resumed. Ends its hold if one is open.
    PauseMigration {
        /// Which.
        migration: MigrationId,
        /// For people.
        why: String,
    },
    /// Lets a paused migration go on, from the beginning.
    ResumeMigration {
        /// Which.
        migration: MigrationId,
    },
    /// Changes limits of a migration; only what is `Some` changes.
    SetMigration {
        /// Which.
        migration: MigrationId,
        /// Keys per second; 0: no limit.
        keys_per_second: Option<u64>,
        /// Bytes per second; 0: no limit.
        bytes_per_second: Option<u64>,
        /// Budget of its hold, milliseconds; 0: the cluster's.
        hold_ms_max: Option<u32>,
    },
    /// Begins a run that deletes leftovers: of a switched or cancelled migration, or of slots that a group gave away.
    /// Proposed behind the fence of the job's last run.
    StartRun {
        /// What for.
        job: Job,
        /// Last + 1.
        run: u32,
        /// The node that does it.
        node: NodeId,
        /// The primary where it is done.
        server: HostPort,
        /// Term of the fence; refused in another.
        term: Term,
    },
    /// A run has deleted what it was to delete; ends the migration or the sweep. Proposed behind the fence of the run.
    Cleaned {
        /// What for.
        job: Job,
        /// The run that did it.
        run: u32,
        /// Term of the fence; refused in another.
        term: Term,
        /// Keys deleted.
        deleted: u64,
    },
    /// Ends a sweep that is not through, since slots are to come to the group. Proposed behind the fence of its run.
    EndSweep {
        /// In which product.
        product: ProductId,
        /// Of which group.
        group: GroupId,
        /// Its current run.
        run: u32,
        /// Term of the fence; refused in another.
        term: Term,
        /// For people.
        why: String,
    },
    /// A group is to get another primary. In the log before anything is done at a server; and nothing is done there before
    /// the first hold, since what is given up before it leaves no mark.
    StartPromotion {
        /// In which product.
        product: ProductId,
        /// Which group.
        group: GroupId,
        /// The replica that is to be the primary.
        to: HostPort,
        /// Unplanned or planned.
        kind: PromotionKind,
        /// Epoch of the group when its servers were looked at.
        group_epoch: Epoch,
        /// `Group::required_offset` that the choice respected: refused when slots have come since.
        required_offset: Option<ReplicationOffset>,
        /// The operator demands it of a server that has diverged.
        forced: bool,
        /// Why, and why this replica.
        why: String,
    },
    /// The replica is the primary now. Proposed when it has said so.
    FinishPromotion {
        /// Which.
        promotion: PromotionId,
        /// Its open hold, whose barrier passed.
        hold: HoldId,
        /// Term of the verdict; refused in another.
        term: Term,
    },
    /// The group keeps its primary; ends the hold if one is open.
    GiveUpPromotion {
        /// Which.
        promotion: PromotionId,
        /// For people.
        why: String,
        /// The old primary has been seen with its data: a failover that was held is given up only then, or if forced.
        primary_back: bool,
        /// The operator demands it.
        forced: bool,
    },
    /// Notes under which replication id a primary writes.
    NotePrimary {
        /// In which product.
        product: ProductId,
        /// Of which group.
        group: GroupId,
        /// Epoch of the group when its primary was looked at.
        epoch: Epoch,
        /// The replication id.
        replid: String,
    },
    /// Notes which process a primary is, and under which replication id it writes. Another process than before has what it had
    /// saved, and that may be nothing.
    NoteProcess {
        /// In which product.
        product: ProductId,
        /// Of which group.
        group: GroupId,
        /// Epoch of the group when its primary was looked at.
        epoch: Epoch,
        /// The replication id.
        replid: String,
        /// The process; empty: it does not tell.
        run_id: String,
        /// Keys it had then.
        keys: u64,
        /// Keys the process before had when it was last looked at; `None`: not known.
        keys_before: Option<u64>,
    },
    /// Tells that the leader has made a server of a group what the log wants it to be. Changes nothing but the events.
    NoteReconciled {
        /// In which product.
        product: ProductId,
        /// Of which group.
        group: GroupId,
        /// Which server.
        addr: HostPort,
        /// What was done, why, and who saw it, for people.
        text: String,
    },
    /// A server that had diverged follows its group's primary, and has all of it. Proposed after a look that began when the
    /// proposer had applied the entry by which the server diverged: an older look says nothing of what was done to it since.
    MarkResynced {
        /// In which product.
        product: ProductId,
        /// Of which group.
        group: GroupId,
        /// Which server.
        addr: HostPort,
        /// Epoch of the group when its servers were looked at.
        epoch: Epoch,
    },
    /// Changes options of a group; only what is `Some` changes.
    SetGroup {
        /// In which product.
        product: ProductId,
        /// Which.
        group: GroupId,
        /// Milliseconds without an answer after which a server is down, 500 to 600000.
        down_after_ms: Option<u32>,
        /// Nothing is changed automatically in it.
        maintenance: Option<bool>,
        /// Milliseconds after which a cache ejects its slots, 500 to 600000; 0: never.
        eject_after_ms: Option<u32>,
    },
    /// A cache's group is out: all its slots go to other groups until it is back.
    Eject {
        /// In which product.
        product: ProductId,
        /// Which group.
        group: GroupId,
        /// Epoch of the group when its servers were looked at.
        group_epoch: Epoch,
        /// Who gets which.
        to: BTreeMap<GroupId, BTreeSet<SlotId>>,
        /// Why, for people.
        why: String,
    },
    /// A group that is out is back: begins the assignment that brings its slots home, if it ejects any, else ends its ejection.
    Reinstate {
        /// In which product.
        product: ProductId,
        /// Which group.
        group: GroupId,
        /// Its ejection.
        ejection: Epoch,
        /// Epoch of the group when its servers were looked at.
        group_epoch: Epoch,
    },
    /// Changes what the operator says of a server; only what is `Some` changes.
    SetServer {
        /// In which product.
        product: ProductId,
        /// Of which group.
        group: GroupId,
        /// Which.
        addr: HostPort,
        /// Larger is preferred; 0: never promoted by itself.
        priority: Option<u32>,
        /// Where it stands; empty: not said.
        zone: Option<String>,
    },
}

/// A node as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its id.
    pub id: NodeId,
    /// Its identity.
    pub uuid: Uuid,
    /// Where other nodes reach it.
    pub admin: HostPort,
    /// The host clients are told.
    pub advertise: String,
    /// Added to every product's port.
    pub port_offset: u16,
}

/// A product as the operator wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewProduct {
    /// Unique name.
    pub name: String,
    /// Base port.
    pub port: u16,
    /// How keys are hashed.
    pub layout: Layout,
    /// Store or cache.
    pub mode: Mode,
    /// What to do without a lease.
    pub isolated: Isolated,
    /// Number of databases.
    pub databases: u32,
    /// What clients AUTH with.
    pub auth: Option<Credentials>,
}
