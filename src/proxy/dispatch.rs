//! Decides what the proxy does with a request: a pure function of the request, the routes and the serve check.
//! Knows nothing of sockets, sessions or connections.

mod anywhere;
mod bench;
mod refusal;
mod script;

pub(super) use anywhere::any_server;
use anywhere::invalid;
#[doc(hidden)]
pub use bench::DispatchBench;
pub(super) use refusal::RefusalReason;
use script::{script, scripts};

use super::{check::ServeCheck, client::Access};
use crate::{
    commands::{
        AllGroups, Args, CommandNumber, Handling, HashImport, InvalidCall, KeysError, Local, NodeCommand, ResolveError,
        ScriptCall, ScriptCommand, Spec, Split, TransactionCommand, is_blocking_call, resolve_numbered,
    },
    model::{
        ids::{Epoch, SlotId},
        route::ProductRoutes,
    },
    resp::request::Arg,
};

/// The bytes of a request and the positions of its arguments.
#[derive(Clone, Copy)]
pub(super) struct CallContext<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) args: &'a [Arg],
}

impl Args for CallContext<'_> {
    #[inline]
    fn len(&self) -> usize {
        self.args.len()
    }
    #[inline]
    fn get(&self, i: usize) -> &[u8] {
        self.args[i].of(self.bytes)
    }
}

/// The route of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyRoute {
    /// Index of the argument.
    pub(super) arg: usize,
    pub(super) slot: SlotId,
    pub(super) epoch: Epoch,
    /// Index into the product's groups.
    pub(super) group: u16,
}

/// The destination of a request that is forwarded whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DispatchTarget {
    /// Index into the product's groups.
    pub(super) group: u16,
    /// `None`: a command without keys, which any server can answer.
    pub(super) slot: Option<SlotId>,
    pub(super) epoch: Epoch,
    pub(super) is_write: bool,
    /// Whether a replica may answer it.
    pub(super) may_read_replica: bool,
}

/// What the proxy does with a request.
#[derive(Debug)]
pub(super) enum Dispatch {
    /// Forward it unchanged to one server.
    Forward(DispatchTarget),
    /// Scatter-gather: send parts to several servers. The routes of the keys are in the scratch space.
    Split { kind: Split, spec: &'static Spec },
    /// The same in sections, because it has many keys: their routes are looked up as the sections are sent.
    LargeSplit { kind: Split, spec: &'static Spec },
    /// Forward a call of a script or function to one server, which may lack it.
    Script { target: DispatchTarget, kind: ScriptCall },
    /// Ask the primaries of all groups about scripts or functions.
    Scripts(ScriptCommand),
    /// HIMPORT.
    HashImport(HashImport, &'static Spec),
    /// Ask the primaries of all groups.
    AllGroups(AllGroups),
    /// Go on with the scan of a key, whose slot this is.
    KeyScan(SlotId),
    /// Wait at the owner of the slot.
    Blocking { spec: &'static Spec, slot: SlotId },
    /// Ask the groups that the session has written to how many replicas have the writes.
    WaitReplicas { spec: &'static Spec },
    /// A transaction begins or ends, or keys are watched.
    Transaction(TransactionCommand, &'static Spec),
    /// The node answers it.
    Local(Local),
    /// The workers of the node answer it.
    Node(NodeCommand),
    /// Park it: one of its slots is held.
    Held,
    /// Answer with an error; nothing was executed.
    Refuse(RefusalReason),
    /// Answer with an error and close the connection.
    Close(&'static str),
}

/// Space that a worker reuses for all calls, so that a call allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    positions: Vec<usize>,
    /// The number of the command of the last call; `None`: the table does not have it.
    pub(super) number: Option<CommandNumber>,
    /// Routes of the keys of a split command.
    pub(super) keys: Vec<KeyRoute>,
}

/// Arguments of a command that the node answers itself. A million names of COMMAND INFO took 1.4 s, in which no other
/// client of the worker was served.
pub(super) const LOCAL_ARGS_MAX: usize = 1024;

/// Keys of one section of a large split command: about a millisecond of work, and enough that the waits for servers do
/// not dominate.
pub(super) const SECTION_KEYS: usize = 1024;

/// Number of keys for which the scratch space is kept: 32 KB of positions per worker. The memory of a command with more
/// keys is freed at the next command.
const KEEP_KEYS: usize = 4096;

impl Scratch {
    #[inline]
    fn shrink(&mut self) {
        if self.positions.capacity() > KEEP_KEYS {
            *self = Self::default();
        }
    }

    /// No positions yet.
    pub(super) fn positions(&mut self) -> &mut Vec<usize> {
        self.shrink();
        self.positions.clear();
        &mut self.positions
    }
}

/// Decides what the proxy does with `call`. Fills `scratch.keys` for [`Dispatch::Split`].
#[inline]
pub(super) fn dispatch(
    routes: &ProductRoutes,
    serve_check: ServeCheck,
    access: Access,
    call: &CallContext<'_>,
    scratch: &mut Scratch,
) -> Dispatch {
    let (resolved, number) = resolve_numbered(call);
    scratch.number = number;
    let spec = match resolved {
        Ok(spec) => spec,
        Err(_) if access == Access::NotLoggedIn => return Dispatch::Refuse(RefusalReason::NotLoggedIn),
        Err(error) => return Dispatch::Refuse(RefusalReason::Unresolved(error)),
    };
    if access != Access::Open
        && let Some(reason) = refused_by(access, spec)
    {
        return Dispatch::Refuse(reason);
    }
    match spec.handling {
        Handling::Slot if spec.is_single_key_at_1() => {
            let slot = routes.layout.slot(call.get(1));
            forward(routes, serve_check, slot, spec)
        }
        Handling::Database if spec.leaves_databases(call, routes.databases) => {
            Dispatch::Refuse(RefusalReason::Invalid(InvalidCall::Database))
        }
        Handling::Slot | Handling::Database | Handling::Split(_) => by_keys(routes, serve_check, spec, call, scratch),
        Handling::Cursor => match forward(routes, serve_check, routes.layout.slot(call.get(1)), spec) {
            Dispatch::Forward(DispatchTarget { slot: Some(slot), .. }) => Dispatch::KeyScan(slot),
            other => other,
        },
        Handling::Local(_) | Handling::Node(_) if call.args.len() > LOCAL_ARGS_MAX => {
            Dispatch::Refuse(RefusalReason::TooManyArguments(spec.name))
        }
        Handling::Local(local) => Dispatch::Local(local),
        Handling::Node(command) => Dispatch::Node(command),
        Handling::Script(kind) => script(routes, serve_check, spec, kind, call, scratch),
        Handling::Scripts(command) => scripts(routes, serve_check, command, spec),
        Handling::HashImport(command) => Dispatch::HashImport(command, spec),
        Handling::Transaction(command) => Dispatch::Transaction(command, spec),
        Handling::AllGroups(kind) => of_groups(routes, serve_check, Dispatch::AllGroups(kind)),
        Handling::WaitReplicas => of_groups(routes, serve_check, Dispatch::WaitReplicas { spec }),
        Handling::AnyServer => any_server(routes, serve_check, spec),
        Handling::Unsupported(why) | Handling::Refused(why) => {
            Dispatch::Refuse(RefusalReason::NotOffered { name: spec.name, why })
        }
        Handling::Close(why) => Dispatch::Close(why),
        Handling::Container => Dispatch::Refuse(RefusalReason::Unresolved(ResolveError::UnknownSubcommand(spec))),
    }
}

/// Why a client whose access is not open may not send the command. `local` checks the arguments of those that pass.
#[cold]
fn refused_by(access: Access, spec: &Spec) -> Option<RefusalReason> {
    match (access, spec.handling) {
        (_, Handling::Local(Local::Quit | Local::Reset) | Handling::Close(_)) => None,
        (Access::NotLoggedIn, Handling::Local(Local::Auth | Local::Hello)) => None,
        (Access::NotLoggedIn, _) => Some(RefusalReason::NotLoggedIn),
        (Access::Open | Access::InTransaction, _) => None,
    }
}

#[inline]
pub(super) fn forward(routes: &ProductRoutes, serve_check: ServeCheck, slot: SlotId, spec: &Spec) -> Dispatch {
    to_owner(routes, serve_check, slot, |group, epoch| DispatchTarget {
        group,
        slot: Some(slot),
        epoch,
        is_write: spec.is_write(),
        may_read_replica: spec.may_read_replica(),
    })
}

/// Forwards a request to the owner of a slot.
#[inline]
pub(super) fn to_owner(
    routes: &ProductRoutes,
    serve_check: ServeCheck,
    slot: SlotId,
    target: impl FnOnce(u16, Epoch) -> DispatchTarget,
) -> Dispatch {
    if serve_check != ServeCheck::Open {
        return Dispatch::Refuse(RefusalReason::ServeCheck(serve_check));
    }
    let route = &routes.slots[usize::from(slot.0)];
    if route.hold.0 != 0 {
        return Dispatch::Held;
    }
    match route.group {
        Some(group) => Dispatch::Forward(target(group, route.epoch)),
        None => Dispatch::Refuse(RefusalReason::Unassigned(slot)),
    }
}

/// `dispatch`, if there are groups.
fn of_groups(routes: &ProductRoutes, serve_check: ServeCheck, dispatch: Dispatch) -> Dispatch {
    if serve_check != ServeCheck::Open {
        return Dispatch::Refuse(RefusalReason::ServeCheck(serve_check));
    }
    if routes.groups.is_empty() {
        return Dispatch::Refuse(RefusalReason::NoServers);
    }
    dispatch
}

fn by_keys(
    routes: &ProductRoutes,
    serve_check: ServeCheck,
    spec: &'static Spec,
    call: &CallContext<'_>,
    scratch: &mut Scratch,
) -> Dispatch {
    scratch.shrink();
    scratch.positions.clear();
    if let Err(error) = spec.routing_keys(call, &mut scratch.positions) {
        return invalid(routes, serve_check, spec, InvalidCall::new(spec, call, error));
    }
    let Some((&first, others)) = scratch.positions.split_first() else {
        return Dispatch::Refuse(RefusalReason::Invalid(InvalidCall::new(spec, call, KeysError::NoKeys)));
    };
    let slot = routes.layout.slot(call.get(first));
    let kind = match spec.handling {
        Handling::Split(kind) if !kind.is_all_or_nothing(call) => Some(kind),
        _ => None,
    };
    let Some(kind) = kind else {
        if others.iter().any(|arg| routes.layout.slot(call.get(*arg)) != slot) {
            return Dispatch::Refuse(RefusalReason::CrossSlot);
        }
        let forwarded = forward(routes, serve_check, slot, spec);
        let sent = matches!(forwarded, Dispatch::Forward(_) | Dispatch::Held);
        // A blocking call is parked by itself, for its own time.
        return if sent && is_blocking_call(spec, call) { Dispatch::Blocking { spec, slot } } else { forwarded };
    };
    // A command of one slot stays whole, because then it is atomic.
    if scratch.positions.len() > SECTION_KEYS
        && scratch.positions.iter().any(|arg| routes.layout.slot(call.get(*arg)) != slot)
    {
        return Dispatch::LargeSplit { kind, spec };
    }
    split(routes, serve_check, (spec, kind), call, scratch)
}

fn split(
    routes: &ProductRoutes,
    serve_check: ServeCheck,
    (spec, kind): (&'static Spec, Split),
    call: &CallContext<'_>,
    scratch: &mut Scratch,
) -> Dispatch {
    if serve_check != ServeCheck::Open {
        return Dispatch::Refuse(RefusalReason::ServeCheck(serve_check));
    }
    scratch.keys.clear();
    let (mut held, mut one_slot) = (false, true);
    for &arg in &scratch.positions {
        let slot = routes.layout.slot(call.get(arg));
        let route = &routes.slots[usize::from(slot.0)];
        held |= route.hold.0 != 0;
        match route.group {
            Some(group) => {
                one_slot &= scratch.keys.first().is_none_or(|first| first.slot == slot);
                scratch.keys.push(KeyRoute { arg, slot, epoch: route.epoch, group });
            }
            None if held => {}
            None => return Dispatch::Refuse(RefusalReason::Unassigned(slot)),
        }
    }
    if held {
        return Dispatch::Held;
    }
    match scratch.keys.first() {
        Some(key) if one_slot => Dispatch::Forward(DispatchTarget {
            group: key.group,
            slot: Some(key.slot),
            epoch: key.epoch,
            is_write: spec.is_write(),
            may_read_replica: spec.may_read_replica(),
        }),
        _ => Dispatch::Split { kind, spec },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        model::{
            ids::{GroupId, HoldId, HostPort, ProductId},
            route::{GroupRoute, Isolated, Mode, SlotRoute},
            secret::ServerLogin,
            slot::Layout,
        },
        resp::{request::RequestScanner, write},
    };

    /// Two groups: slots below 512 and the rest; the slot of `held` is held, that of `free` unassigned.
    fn routes() -> ProductRoutes {
        let layout = Layout::Codis;
        let mut slots: Box<[SlotRoute]> =
            (0..1024).map(|slot| SlotRoute { group: Some(slot / 512), epoch: Epoch(3), hold: HoldId(0) }).collect();
        slots[usize::from(layout.slot(b"held").0)].hold = HoldId(9);
        slots[usize::from(layout.slot(b"free").0)].group = None;
        let group = |id: u32| GroupRoute {
            id: GroupId(id),
            primary: HostPort::parse(&format!("h:{id}")).unwrap(),
            replicas: Vec::new(),
            login: ServerLogin::default(),
        };
        ProductRoutes {
            id: ProductId(1),
            name: "p".into(),
            layout,
            mode: Mode::Store,
            isolated: Isolated::Refuse,
            min_acks: 0,
            min_acks_ms: 1000,
            clients_max: 0,
            rules: Default::default(),
            databases: 16,
            port: 1,
            auth: Default::default(),
            reads: Default::default(),
            groups: vec![group(1), group(2)],
            slots,
            scans: Default::default(),
        }
    }

    fn decision(words: &str, serve_check: ServeCheck, access: Access) -> String {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        write::request(&mut bytes, &words);
        let mut scanner = RequestScanner::default();
        scanner.scan(&bytes).unwrap();
        let call = CallContext { bytes: &bytes, args: scanner.args() };
        match dispatch(&routes(), serve_check, access, &call, &mut Scratch::default()) {
            Dispatch::Forward(t) => format!("group {} write {}", t.group, t.is_write),
            Dispatch::Split { kind, .. } => format!("split {kind:?}"),
            Dispatch::LargeSplit { kind, .. } => format!("large split {kind:?}"),
            Dispatch::Script { target: t, kind } => {
                format!("{kind:?} to group {} write {} replica {}", t.group, t.is_write, t.may_read_replica)
            }
            Dispatch::Scripts(command) => format!("{command:?}"),
            Dispatch::HashImport(command, _) => format!("{command:?}"),
            Dispatch::AllGroups(kind) => format!("all groups {kind:?}"),
            Dispatch::KeyScan(slot) => format!("key scan {slot}"),
            Dispatch::Node(command) => format!("node {command:?}"),
            Dispatch::Transaction(command, _) => format!("transaction {command:?}"),
            Dispatch::Blocking { slot, .. } => format!("blocking {slot}"),
            Dispatch::WaitReplicas { .. } => "wait for replicas".into(),
            Dispatch::Local(local) => format!("local {local:?}"),
            Dispatch::Held => "held".into(),
            Dispatch::Refuse(refusal) => refusal.to_string().split([' ', ',']).take(3).collect::<Vec<_>>().join(" "),
            Dispatch::Close(_) => "close".into(),
        }
    }

    #[test]
    fn every_decision() {
        // crc32 mod 1024: of {foo} and {hello}, on either side.
        assert!(Layout::Codis.slot(b"foo") < SlotId(512) && Layout::Codis.slot(b"hello") >= SlotId(512));
        for (words, want) in [
            ("GET foo", "group 0 write false"),
            ("set hello 1", "group 1 write true"),
            ("MGET {foo}1 {foo}2", "group 0 write false"),
            ("MGET foo hello", "split Mget"),
            ("MSET foo 1 hello 2", "split Mset"),
            ("DEL foo hello", "split Sum"),
            ("MSETNX foo 1 hello 2", "CROSSSLOT Keys in"),
            ("SINTER foo hello", "CROSSSLOT Keys in"),
            ("EVAL return 1 foo", "Body to group 0 write true replica false"),
            ("EVAL_RO return 1 foo", "Body to group 0 write false replica true"),
            ("EVALSHA x 2 foo hello", "CROSSSLOT Keys in"),
            ("EVALSHA x 1 held", "held"),
            // The slots of 63143b6f8007b98c53ca2149822777b3566f9241 (the digest of `return`) and of `f`.
            ("EVAL return 0", "Body to group 1 write true replica false"),
            ("EVAL_RO return 0", "Body to group 1 write false replica false"),
            ("EVALSHA_RO 63143B6F8007B98C53CA2149822777B3566F9241 0", "Digest to group 1 write false replica false"),
            ("FCALL f 0", "Function to group 1 write true replica false"),
            ("FCALL f x", "ERR Bad number"),
            ("SCRIPT LOAD x", "ScriptLoad"),
            ("SCRIPT DEBUG YES", "ERR 'script|debug': the"),
            ("FUNCTION LIST", "FunctionList"),
            ("OBJECT ENCODING foo", "group 0 write false"),
            ("GET held", "held"),
            ("MGET foo held", "held"),
            ("MGET free held", "CLUSTERDOWN slot 0"),
            ("GET free", "CLUSTERDOWN slot 0"),
            ("MGET foo free", "CLUSTERDOWN slot 0"),
            ("PING", "local Ping"),
            ("COMMAND DOCS", "group 0 write false"),
            ("COMMAND LIST", "local CommandList"),
            ("COMMAND LIST FILTERBY PATTERN x*", "local CommandList"),
            ("DBSIZE", "all groups Dbsize"),
            ("MULTI", "transaction Multi"),
            ("WATCH foo", "transaction Watch"),
            ("NONSENSE", "ERR unknown command"),
            ("GET", "ERR wrong number"),
            ("MSET foo", "ERR wrong number"),
            ("MSET foo 1 hello", "ERR wrong number"),
            ("BLPOP foo 0", &format!("blocking {}", Layout::Codis.slot(b"foo"))),
            ("BLPOP held 0", &format!("blocking {}", Layout::Codis.slot(b"held"))),
            ("BLPOP free 0", "CLUSTERDOWN slot 0"),
            ("BLMOVE foo hello LEFT LEFT 0", "CROSSSLOT Keys in"),
            ("XREAD BLOCK 0 STREAMS foo $", &format!("blocking {}", Layout::Codis.slot(b"foo"))),
            ("XREAD STREAMS foo 0", "group 0 write false"),
            ("WAIT 1 0", "wait for replicas"),
            ("POST /", "close"),
        ] {
            let want = match want {
                "CLUSTERDOWN slot 0" => &format!("CLUSTERDOWN slot {}", Layout::Codis.slot(b"free")),
                other => other,
            };
            let got = decision(words, ServeCheck::Open, Access::Open);
            assert_eq!(got, *want, "{words}");
        }
        for (words, want) in [
            ("GET foo", "CLUSTERDOWN this node"),
            ("MGET foo hello", "CLUSTERDOWN this node"),
            ("GET held", "CLUSTERDOWN this node"),
            ("BLPOP held 0", "CLUSTERDOWN this node"),
            ("WAIT 1 0", "CLUSTERDOWN this node"),
            ("PING", "local Ping"),
        ] {
            assert_eq!(decision(words, ServeCheck::NoLease, Access::Open), want, "{words} without a lease");
            assert_eq!(decision(words, ServeCheck::OldTable, Access::Open), want, "{words} with an old table");
        }
        for (words, want) in [
            ("GET foo", "NOAUTH Authentication required."),
            ("PING", "NOAUTH Authentication required."),
            ("NONSENSE", "NOAUTH Authentication required."),
            ("AUTH x", "local Auth"),
            ("HELLO 3", "local Hello"),
            ("QUIT", "local Quit"),
        ] {
            assert_eq!(decision(words, ServeCheck::Open, Access::NotLoggedIn), want, "{words} before login");
        }
    }
}
