//! Rejects: why a change did nothing, with the evidence, as text for people (`Display`).
//! Knows nothing of status codes.

mod ejection;
mod migration;
mod promotion;

pub use ejection::EjectionReject;
pub use migration::MigrationReject;
pub use promotion::PromotionReject;

use super::ids::{AssignmentId, Epoch, GroupId, HoldId, HostPort, NodeId, SlotId, Term, Uuid};

/// Why a change did nothing. The state is as it was, except for the record of this result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    // The entry itself.
    /// The entry does not follow the last one applied: a fault of the caller, never of the change.
    #[error("entry {index} cannot be applied: entry {applied} is applied already")]
    OldEntry {
        /// Its index.
        index: Epoch,
        /// The last applied.
        applied: Epoch,
    },
    /// The change id belongs to another request.
    #[error("change id {id} belongs to another request (log entry {first}); nothing was done: use a new id")]
    ChangeIdReused {
        /// The id.
        id: Uuid,
        /// Log index of the first change under it.
        first: Epoch,
    },
    /// The reject of the first request under the same change id. Recorded as text, so that no later version changes it.
    #[error("{0}")]
    First(String),
    /// The verdict that the change depends on is of another term.
    #[error(
        "this change was decided in term {verdict}, its entry is of term {entry}; nothing was done, the leader decides again"
    )]
    OtherTerm {
        /// Term of the verdict.
        verdict: Term,
        /// Term of the entry.
        entry: Term,
    },

    // Members.
    /// There are members already.
    #[error("the cluster exists already; another node joins with `pontoon serve --join HOST:PORT`")]
    AlreadyBootstrapped,
    /// The first change of a cluster must be Bootstrap.
    #[error("the cluster has no members yet; it forms when all nodes of `--peers` run")]
    NotBootstrapped,
    /// A first membership without nodes.
    #[error("a cluster cannot begin without nodes; list them in `--peers`")]
    NoMembers,
    /// Too many members.
    #[error("the cluster has {max} nodes, the most it can have; remove one first (`pontoon node remove ID`)")]
    TooManyMembers {
        /// The limit.
        max: usize,
    },
    /// Node ids start at 1.
    #[error("0 is not a node id; choose one from 1 (`--id`)")]
    NodeIdZero,
    /// The advertised host cannot be one.
    #[error("node {node}: '{advertise}' is not a host name or address; give one with `--advertise`")]
    BadAdvertise {
        /// The node.
        node: NodeId,
        /// The advertised host.
        advertise: String,
    },
    /// The node's address means every address of a machine.
    #[error(
        "node {node}: {address} is no address at which others reach it, since it means every address of a machine; give one with \
         `--admin` and `--advertise` (`--admin-listen` may bind every address)"
    )]
    UnspecifiedAddress {
        /// The node.
        node: NodeId,
        /// The host or address.
        address: String,
    },
    /// The id is taken by another data directory.
    #[error(
        "node {id} is a member under another identity ({uuid}, at {admin}); if that one is gone for good: `pontoon node remove {id}`, then start this one with --join"
    )]
    IdTaken {
        /// The id.
        id: NodeId,
        /// Identity of the member that has it.
        uuid: Uuid,
        /// Its address.
        admin: HostPort,
    },
    /// The data directory is a member under another id.
    #[error(
        "this data directory ({uuid}) is member {id} of the cluster already; start it with --id {id}, or wipe it to join as another node"
    )]
    UuidTaken {
        /// The identity.
        uuid: Uuid,
        /// Its id.
        id: NodeId,
    },
    /// The data directory belongs to a node that was removed.
    #[error(
        "node {node} with uuid {uuid} was removed from this cluster; move its data directory away, then start it with --join"
    )]
    NodeRemoved {
        /// The id that it asks for.
        node: NodeId,
        /// Its identity.
        uuid: Uuid,
    },
    /// No such member.
    #[error("there is no node {0}; `pontoon node ls` shows the members")]
    UnknownNode(NodeId),
    /// The member is being removed.
    #[error(
        "node {0} is being removed; wait until `pontoon node ls` no longer shows it, then wipe its data directory and --join"
    )]
    NodeLeaving(NodeId),
    /// No member would be left that may vote.
    #[error(
        "node {0} is the last one that may vote; without it there is no cluster: add or promote another node first"
    )]
    LastVoter(NodeId),
    /// FinishRemove without BeginRemove.
    #[error("node {0} is not being removed; nothing was done")]
    NotLeaving(NodeId),

    // Ports.
    /// A port would be outside of 1..=65535.
    #[error(
        "product '{product}' would listen on port {port} at node {node} (port + offset); ports are 1 to 65535: choose another --port"
    )]
    PortRange {
        /// The product.
        product: String,
        /// The node.
        node: NodeId,
        /// The port that would come out.
        port: u32,
    },
    /// Two listeners of a host would use the same port.
    #[error(
        "port {port} of host {host} would be used twice, by {first} and by {second}; choose another port or --port-offset"
    )]
    PortTaken {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The present user of the port.
        first: String,
        /// The other user.
        second: String,
    },

    // Products.
    /// No such product.
    #[error("there is no such product; `pontoon product ls` shows them")]
    UnknownProduct,
    /// The name is not allowed.
    #[error("'{0}' is not a product name: 1 to 64 letters, digits, '_', '.' or '-', not beginning with '.' or '-'")]
    BadProductName(String),
    /// The name is in use.
    #[error("there is a product '{0}' already; choose another name, or change it with `pontoon product set`")]
    ProductExists(String),
    /// Too many products.
    #[error("the cluster has {max} products, the most it can have; remove one first (`pontoon product remove NAME`)")]
    TooManyProducts {
        /// The limit.
        max: usize,
    },
    /// Number of databases out of range.
    #[error("a product cannot have {0} databases; choose 1 to 1024")]
    BadDatabases(u32),
    /// More replicas than a group can have.
    #[error("min-acks {0} cannot be reached; a group has at most 15 replicas: choose 0 (off) to 15")]
    BadMinAcks(u8),
    /// The wait for replicas is out of range.
    #[error("a write cannot wait {0} ms for replicas; choose 10 ms to 60 s")]
    BadMinAcksMs(u32),
    /// The lag is out of range.
    #[error("max-lag cannot be {0} ms; choose 100 ms to 60 s, or 0: however far behind a replica is")]
    BadMaxLag(u32),
    /// More clients than a node can have.
    #[error("clients-max cannot be {0}; choose 1 to 1000000, or 0: only the limit of each node applies")]
    BadClientsMax(u32),
    /// A quota is out of range.
    #[error("{name} is at most {max}; choose less, or 0: no limit")]
    BadQuota {
        /// Which one.
        name: &'static str,
        /// The largest value.
        max: u64,
    },
    /// The time without a request is out of range.
    #[error("idle-timeout cannot be {0} ms; choose 10 s to 1 h, or 0 (off): never")]
    BadIdleTimeout(u32),
    /// Only a primary knows what its replicas have.
    #[error(
        "reads of product '{0}' cannot both be confirmed and go to replicas, since only a primary knows what its replicas have; \
         choose read-from=primary or read-confirmed=off"
    )]
    ConfirmedReadsAtReplicas(String),
    /// The user name or the password cannot be used.
    #[error("the credentials cannot be used: {0}")]
    BadCredentials(&'static str),
    /// The former password of a product has not been removed yet.
    #[error(
        "product '{0}' has two valid passwords already; remove the older one first (`pontoon product set {0} former-password=`), \
         which closes the clients that logged in with it"
    )]
    TwoPasswords(String),
    /// There is no password that could stay valid.
    #[error("product '{0}' has no password that could stay valid; repeat this without --keep-sessions")]
    NoPasswordToKeep(String),
    /// The product still has groups.
    #[error(
        "product '{product}' still has {count} group(s), the first is {group}; remove them first (`pontoon group remove`), or give --abandon-data"
    )]
    ProductHasGroups {
        /// The product.
        product: String,
        /// Their number.
        count: usize,
        /// The first.
        group: GroupId,
    },

    // Groups and servers.
    /// No such group.
    #[error("product '{product}' has no group {group}; `pontoon group ls` shows its groups")]
    UnknownGroup {
        /// The product.
        product: String,
        /// The group.
        group: GroupId,
    },
    /// Servers of the group still accept the former password.
    #[error(
        "servers of group {group} of product '{product}' still accept the password before the present one; wait until it is \
         removed there (`pontoon status` says what that waits for), and repeat this then"
    )]
    FormerPassword {
        /// The product.
        product: String,
        /// The group.
        group: GroupId,
    },
    /// Group ids start at 1.
    #[error("0 is not a group id; choose one from 1")]
    GroupIdZero,
    /// The id is in use.
    #[error(
        "product '{product}' has a group {group} already; choose another id, or add to it with `pontoon group add-server`"
    )]
    GroupExists {
        /// The product.
        product: String,
        /// The group.
        group: GroupId,
    },
    /// Too many groups.
    #[error(
        "product '{product}' has {max} groups, the most it can have; remove one first (`pontoon group remove GID`)"
    )]
    TooManyGroups {
        /// The product.
        product: String,
        /// The limit.
        max: usize,
    },
    /// Too many servers.
    #[error(
        "group {group} would have more than {max} servers, the most it can have; remove one first (`pontoon group remove-server`)"
    )]
    TooManyServers {
        /// The group.
        group: GroupId,
        /// The limit.
        max: usize,
    },
    /// A group without a primary.
    #[error("group {0} needs a primary: --primary HOST:PORT")]
    NoServers(GroupId),
    /// The address is in a group, or twice in the request.
    #[error(
        "server {addr} is in group {group} of product '{product}' already; a server belongs to one group of one product"
    )]
    ServerTaken {
        /// The server.
        addr: HostPort,
        /// The product.
        product: String,
        /// The group.
        group: GroupId,
    },
    /// The process is in a group under another address.
    #[error(
        "server {addr} is the same process as {known} of group {group} of product '{product}' (run_id {run_id}); a server belongs to one group of one product, under one address"
    )]
    SameServer {
        /// The new address.
        addr: HostPort,
        /// The known one.
        known: HostPort,
        /// The product.
        product: String,
        /// The group.
        group: GroupId,
        /// The `run_id` of both.
        run_id: String,
    },
    /// The `run_id` of a server is too long.
    #[error("server {0} has a run_id that Redis would not have; is it a Redis server?")]
    BadRunId(HostPort),
    /// The group has no such server.
    #[error("group {group} of product '{product}' has no server {addr}; `pontoon group ls` shows its servers")]
    UnknownServer {
        /// The server.
        addr: HostPort,
        /// The product.
        product: String,
        /// The group.
        group: GroupId,
    },
    /// The primary can only be removed with its group.
    #[error(
        "server {addr} is the primary of group {group}; make a replica the primary first (`pontoon group promote {group} HOST:PORT`), then remove this one"
    )]
    PrimaryStays {
        /// The server.
        addr: HostPort,
        /// The group.
        group: GroupId,
    },
    /// The group owns slots.
    #[error(
        "group {group} still owns {count} slot(s), the first is {first}; move them with their keys to the other groups first (`pontoon group drain {group}`)"
    )]
    GroupOwnsSlots {
        /// The group.
        group: GroupId,
        /// Their number.
        count: usize,
        /// The first of them.
        first: SlotId,
    },
    /// The group is the target of an assignment.
    #[error("group {group} is to get slots by assignment {assignment}, which has not ended; wait for it")]
    GroupInAssignment {
        /// The group.
        group: GroupId,
        /// The assignment.
        assignment: AssignmentId,
    },

    // Slots and assignments.
    /// The set of slots is empty.
    #[error("no slots were named; give a slot or a range, such as 0-511")]
    NoSlots,
    /// The layout has no such slot.
    #[error("there is no slot {slot}: product '{product}' has slots 0 to {last}")]
    SlotRange {
        /// The slot.
        slot: SlotId,
        /// The product.
        product: String,
        /// Its last slot.
        last: SlotId,
    },
    /// Another group owns the slot.
    #[error("slot {slot} belongs to group {owner} since log entry {epoch}, so it is not free for group {to}")]
    SlotOwned {
        /// The slot.
        slot: SlotId,
        /// Its owner.
        owner: GroupId,
        /// Log index of the entry since which it owns the slot.
        epoch: Epoch,
        /// The group that wants it.
        to: GroupId,
    },
    /// The group may have keys of the slot, which it gave away.
    #[error(
        "group {group} may still have leftovers of slot {slot}, which it gave away; try again: it is searched for them first"
    )]
    SlotLeftovers {
        /// The slot.
        slot: SlotId,
        /// The group.
        group: GroupId,
    },
    /// The slot is in an assignment that has not ended.
    #[error(
        "slot {slot} is being {} (assignment {assignment}, not ended); wait for its end, then try again",
        .to.map_or_else(|| "released".to_owned(), |to| format!("assigned to group {to}"))
    )]
    SlotInAssignment {
        /// The slot.
        slot: SlotId,
        /// The assignment.
        assignment: AssignmentId,
        /// The target. `None`: it is being released.
        to: Option<GroupId>,
    },
    /// Too many open assignments.
    #[error("{max} assignments have not ended, the most there can be; wait for one of them")]
    TooManyAssignments {
        /// The limit.
        max: usize,
    },
    /// No such assignment, or it ended.
    #[error("assignment {0} has ended or never existed; nothing was done")]
    UnknownAssignment(AssignmentId),
    /// A group concerned has another epoch than when its servers were scanned.
    #[error(
        "group {group} changed since its servers were checked (epoch {now} now, {given} then, 0: not checked); nothing was done, the leader decides again"
    )]
    GroupChanged {
        /// The group.
        group: GroupId,
        /// Epoch when its servers were checked.
        given: Epoch,
        /// Epoch now.
        now: Epoch,
    },

    // Holds.
    /// The attempt is not the next one.
    #[error("assignment {assignment} had {attempts} attempt(s), so the next is not number {given}; nothing was done")]
    WrongAttempt {
        /// The assignment.
        assignment: AssignmentId,
        /// Attempts so far.
        attempts: u32,
        /// The one given.
        given: u32,
    },
    /// An assignment of a store must wait for requests in flight.
    #[error("an assignment takes a hold of kind Wait, not Abandon; nothing was done")]
    WrongHoldKind,
    /// The slots are held already.
    #[error("slot {slot} is held already by hold {hold}; nothing was done")]
    SlotHeld {
        /// The slot.
        slot: SlotId,
        /// The hold.
        hold: HoldId,
    },
    /// The hold is not open: it was released, or its change was made.
    #[error("hold {0} is not open any more; nothing was done")]
    HoldNotOpen(HoldId),
    /// The hold belongs to something else.
    #[error("hold {hold} is not one of assignment {assignment}; nothing was done")]
    OtherCause {
        /// The hold.
        hold: HoldId,
        /// The assignment.
        assignment: AssignmentId,
    },

    // Migrations.
    /// A change of a migration, a run or a sweep.
    #[error(transparent)]
    Migration(#[from] MigrationReject),

    // Promotions.
    /// A change of a promotion, or of the settings of groups and servers.
    #[error(transparent)]
    Promotion(#[from] PromotionReject),
    /// A change of an ejection.
    #[error(transparent)]
    Ejection(#[from] EjectionReject),

    // Settings.
    /// Number of voters out of range.
    #[error("a cluster cannot have {0} voters; choose 1 to 7 (an odd number survives the most failures for its cost)")]
    BadVoters(u8),
    /// Budget of a hold out of range.
    #[error("a hold cannot have a budget of {0} ms; choose 10 to 10000")]
    BadHoldMax(u32),
}
