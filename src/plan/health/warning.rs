//! Every warning that an operator can get: its code, how bad it is, and its text with what clears it.
//! Knows nothing of when one is due.

/// How bad something is, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// All is well.
    Ok,
    /// An operator's choice that costs safety. Shown with the group, and not in the status: it may be intended.
    Advice,
    /// Something that an operator should change soon; clients are served.
    Warning,
    /// It cannot be known whether clients are served.
    Unknown,
    /// Clients are not served, or nothing can be changed.
    Critical,
}

/// A condition of the cluster that an operator should know, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Which one.
    pub kind: WarningKind,
    /// What is the case, a sentence.
    pub text: String,
    /// What clears it: what to do or to wait for.
    pub to_clear: String,
}

impl Warning {
    /// A warning.
    pub(super) fn new(kind: WarningKind, text: impl Into<String>, to_clear: impl Into<String>) -> Self {
        Self { kind, text: text.into(), to_clear: to_clear.into() }
    }

    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.kind.severity()
    }
}

/// Declares the kinds, so that none of them can be missing in [`WarningKind::ALL`].
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $code:literal $severity:ident,)*) => {
        /// The kinds of warnings. `docs/operations.md` lists them with what clears each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum WarningKind {
            $($(#[$doc])* $kind,)*
        }

        impl WarningKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name for programs, which never changes.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$kind => $code,)* }
            }

            /// How bad it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity,)* }
            }
        }
    };
}

kinds! {
    /// The node belongs to no cluster yet.
    NotFormed "not-formed" Critical,
    /// Fewer than a majority of the voters answer.
    NoQuorum "no-quorum" Critical,
    /// A majority of the voters answers, and no leader has it behind it.
    NoLeader "no-leader" Critical,
    /// A product has groups, and slots that belong to none of them.
    SlotsWithoutOwner "slots-without-owner" Critical,
    /// The primary of a group with slots is down.
    PrimaryDown "primary-down" Critical,
    /// The primary of a group with slots follows another server.
    PrimaryFollows "primary-follows" Critical,
    /// The primary of a group with slots executes a script and nothing else.
    PrimaryBusy "primary-busy" Critical,
    /// The primary of a group with slots loads its data.
    PrimaryLoading "primary-loading" Critical,
    /// The primary of a group with slots refuses writes.
    PrimaryRefusesWrites "primary-refuses-writes" Critical,
    /// The primary of a group with slots refuses the group's password.
    PrimaryRefusesLogin "primary-refuses-login" Critical,
    /// Fewer replicas are in sync than `min-acks` demands.
    MinAcksUnmet "min-acks-unmet" Critical,
    /// No replica is in sync, and reads go to replicas only.
    ReadsUnserved "reads-unserved" Critical,
    /// The leader could not be asked, so nothing is known about servers and nodes.
    NotObserved "not-observed" Unknown,
    /// The leader gets no heartbeats of a node.
    NodeSilent "node-silent" Warning,
    /// No server answers a node, but servers answer others.
    NodeBlind "node-blind" Warning,
    /// A node cannot listen on a product's port.
    ListenerFailed "listener-failed" Warning,
    /// A node did not take over its secret file when it read it again.
    SecretFileRefused "secret-file-refused" Warning,
    /// Nodes do not send and accept the same cluster secrets.
    SecretsDiffer "secrets-differ" Warning,
    /// All nodes accept the same two cluster secrets.
    TwoSecrets "two-secrets" Warning,
    /// A server is down that is not the primary of slots.
    ServerDown "server-down" Warning,
    /// A server answers, and refuses to be probed.
    ServerNotProbed "server-not-probed" Warning,
    /// A primary was restarted within the last day.
    PrimaryRestarted "primary-restarted" Warning,
    /// The guard keeps a group from an automatic failover.
    FailoverHeldBack "failover-held-back" Warning,
    /// Maintenance of the whole cluster.
    Maintenance "maintenance" Warning,
    /// Maintenance of a group.
    GroupMaintenance "group-maintenance" Warning,
    /// A cluster of two voters.
    TwoVoters "two-voters" Warning,
    /// The primary of a store writes nothing to its disk.
    NotPersistent "not-persistent" Advice,
    /// A primary has replicas that are not in its group.
    UnmanagedReplica "unmanaged-replica" Advice,
    /// A group of a store has no replica.
    NoReplica "no-replica" Advice,
    /// Scripts of clients may do whatever the user of the nodes may.
    NoDataUser "no-data-user" Advice,
}
