//! What happened, with its evidence, for people: a bounded list in the replicated state. No decision depends on it.

use super::ids::{Epoch, NodeId, ProductId};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Log index of the entry that caused it. An entry causes at most one event.
    pub index: Epoch,
    /// Milliseconds since the Unix epoch, by the clock of the node that proposed the entry.
    pub at_ms: u64,
    /// What happened.
    pub kind: EventKind,
    /// The product it concerns, if any.
    pub product: Option<ProductId>,
    /// The name of that product, which may be removed since; empty: none, or not recorded.
    pub product_name: String,
    /// The object it happened to: "migration 17", "group 3".
    pub subject: String,
    /// The evidence.
    pub text: String,
    /// Who asked for the change, as far as it is proven: "cluster secret", "node 2, leader in term 7". Empty: not recorded.
    pub actor: String,
    /// What the client said of itself, without a proof; empty: nothing.
    pub declared: String,
    /// IP address and port that the request came from; empty: there was none, or it is not known.
    pub address: String,
    /// The node that received the request; `None`: there was none.
    pub node: Option<NodeId>,
    /// What has changed, as it was before; "none": it was not there. Empty: nothing has.
    pub before: String,
    /// The same after the change.
    pub after: String,
}

/// The classes of events. Each has a bound of its own, so that what happens often does not displace what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventClass {
    /// Somebody asked for it, or it changed who is in the cluster.
    Asked,
    /// The cluster did it by itself: the steps of jobs, failovers, starts of nodes, observations.
    Automatic,
    /// A client of a product did it with a command.
    Client,
}

impl Event {
    /// Its class.
    #[must_use]
    pub const fn class(&self) -> EventClass {
        let lasting = matches!(
            self.kind,
            EventKind::Bootstrapped | EventKind::NodeRemoved | EventKind::MembershipChanged | EventKind::Recovered
        );
        let of_client = matches!(
            self.kind,
            EventKind::ScriptLoaded
                | EventKind::ScriptsFlushed
                | EventKind::LibraryLoaded
                | EventKind::LibrariesDeleted
        );
        if of_client {
            EventClass::Client
        } else if lasting || self.node.is_some() {
            EventClass::Asked
        } else {
            EventClass::Automatic
        }
    }
}

/// Calls the macro `$callback` with all kinds, as `Kind = "name"`, in the order of the durable format. This is the only list
/// of them: the enum, and its messages in proto/state.proto and proto/admin.proto, follow from it.
macro_rules! for_every_event_kind {
    ($callback:ident) => {
        $callback! {
            /// A migration was planned.
            Planned = "planned",
            /// An attempt began.
            Started = "started",
            /// The target is clean, and copying began.
            Copying = "copying",
            /// The target lacks only the keys that change now.
            CaughtUp = "caught-up",
            /// The comparison of source and target has ended.
            Verified = "verified",
            /// Slots are held, for a migration or an assignment.
            Held = "held",
            /// The hold ended without a change of the owner.
            Released = "released",
            /// The slots changed their owner.
            Switched = "switched",
            /// The attempt ended; the next one starts from the beginning.
            Restarted = "restarted",
            /// A migration was cancelled; the target is being wiped.
            Cancelling = "cancelling",
            /// A migration was paused until an operator resumes it.
            Paused = "paused",
            /// A paused migration continues.
            Resumed = "resumed",
            /// The limits of a migration changed.
            LimitsSet = "limits-set",
            /// A run that deletes leftovers began.
            RunStarted = "run-started",
            /// A migration is done.
            Done = "done",
            /// A migration is cancelled and the target is clean.
            Cancelled = "cancelled",
            /// A sweep was ended before it was finished.
            SweepEnded = "sweep-ended",
            /// A sweep is finished.
            Swept = "swept",
            /// A promotion began: a group is to get another primary.
            PromotionStarted = "promotion-started",
            /// The slots of the group are held for its promotion.
            PromotionHeld = "promotion-held",
            /// The hold of a promotion ended without a change of primary.
            PromotionReleased = "promotion-released",
            /// A group has another primary.
            Promoted = "promoted",
            /// A promotion was given up; the group keeps its primary.
            PromotionGivenUp = "promotion-given-up",
            /// A primary has a new process or a new replication id: it restarted, was replaced by hand, or got its first
            /// replica.
            PrimaryNoted = "primary-noted",
            /// A server that had diverged has copied its primary's data and is a candidate again.
            Resynced = "resynced",
            /// Maintenance began: nothing is changed automatically.
            MaintenanceOn = "maintenance-on",
            /// Maintenance ended.
            MaintenanceOff = "maintenance-off",
            /// A group of a cache was ejected: its slots belong to other groups for now.
            Ejected = "ejected",
            /// An ejected group has its slots again.
            Reinstated = "reinstated",
            /// A server was made what the log says: the primary of its group, or a replica of it.
            Reconciled = "reconciled",
            /// The guard keeps a group from an automatic failover.
            FailoverHeldBack = "failover-held-back",
            /// A script that kept a server busy for too long was ended.
            ScriptEnded = "script-ended",
            /// A primary refuses writes because it cannot write to its disk.
            WritesRefused = "writes-refused",
            /// A node closes clients because its memory budget is used up.
            ClientsClosed = "clients-closed",
            /// A group needs another primary, and no server can replace the present one.
            NotFailedOver = "not-failed-over",
            /// The cluster was formed.
            Bootstrapped = "bootstrapped",
            /// A node became a member.
            NodeJoined = "node-joined",
            /// A member has another address.
            NodeMoved = "node-moved",
            /// A start of a member was admitted.
            NodeStarted = "node-started",
            /// The removal of a member began.
            NodeLeaving = "node-leaving",
            /// A member was removed.
            NodeRemoved = "node-removed",
            /// An operator wants another role for a node.
            NodeSet = "node-set",
            /// The lines that a node logs were chosen.
            LogSet = "log-set",
            /// Raft has other voters or learners.
            MembershipChanged = "membership-changed",
            /// A node was made a cluster of one by `pontoon recover`.
            Recovered = "recovered",
            /// Settings of the cluster changed.
            ClusterSet = "cluster-set",
            /// A product was created.
            ProductCreated = "product-created",
            /// Settings of a product changed.
            ProductSet = "product-set",
            /// A product was removed.
            ProductRemoved = "product-removed",
            /// A group was created.
            GroupCreated = "group-created",
            /// Settings of a group changed.
            GroupSet = "group-set",
            /// A group was removed.
            GroupRemoved = "group-removed",
            /// A group has another data user.
            DataUserSet = "data-user-set",
            /// A server was added to a group.
            ServerAdded = "server-added",
            /// A server was removed from a group.
            ServerRemoved = "server-removed",
            /// Settings of a server changed.
            ServerSet = "server-set",
            /// An assignment or a release of slots began.
            AssignmentStarted = "assignment-started",
            /// An assignment or a release of slots was given up.
            AssignmentGivenUp = "assignment-given-up",
            /// Slots have another owner, without keys.
            SlotsAssigned = "slots-assigned",
            /// Slots have no owner any more.
            SlotsReleased = "slots-released",
            /// Nodes log in at the servers of a group with other credentials.
            ControlUserSet = "control-user-set",
            /// No server of a group accepts its former password any more.
            FormerPasswordRemoved = "former-password-removed",
            /// A node accepts or sends other cluster secrets.
            SecretsSet = "secrets-set",
            /// A client loaded a script that the product did not have.
            ScriptLoaded = "script-loaded",
            /// A client had all scripts of a product forgotten.
            ScriptsFlushed = "scripts-flushed",
            /// A client loaded a library of functions.
            LibraryLoaded = "library-loaded",
            /// A client deleted libraries of functions.
            LibrariesDeleted = "libraries-deleted",
            /// An operator closed clients of a node.
            ClientsKilled = "clients-killed",
            /// Clients of a product sent commands to single servers (PONTOON ON).
            ServersAsked = "servers-asked",
        }
    };
}
pub(crate) use for_every_event_kind;

macro_rules! define {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The kinds of events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind {
            $($(#[$doc])* $kind,)*
        }

        impl EventKind {
            /// All kinds, in the order of the durable format.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The name that people and machines read.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

for_every_event_kind!(define);
