//! Where calls of scripts and functions go, and commands about them.
//! Knows nothing of what a server has.

use super::{CallContext, Dispatch, DispatchTarget, RefusalReason, Scratch, anywhere::invalid, forward};
use crate::{
    commands::{Args, InvalidCall, ScriptCall, ScriptCommand, Spec},
    model::{ids::SlotId, route::ProductRoutes, script::ScriptDigest},
    proxy::check::ServeCheck,
};

pub(super) fn scripts(
    routes: &ProductRoutes,
    serve_check: ServeCheck,
    command: ScriptCommand,
    spec: &'static Spec,
) -> Dispatch {
    if serve_check != ServeCheck::Open {
        return Dispatch::Refuse(RefusalReason::ServeCheck(serve_check));
    }
    if routes.rules.scripts_off && command.loads() {
        return Dispatch::Refuse(RefusalReason::ScriptsOff(spec.name));
    }
    if routes.groups.is_empty() {
        return Dispatch::Refuse(RefusalReason::NoServers);
    }
    Dispatch::Scripts(command)
}

pub(super) fn script(
    routes: &ProductRoutes,
    serve_check: ServeCheck,
    spec: &'static Spec,
    kind: ScriptCall,
    call: &CallContext<'_>,
    scratch: &mut Scratch,
) -> Dispatch {
    if routes.rules.scripts_off {
        return Dispatch::Refuse(RefusalReason::ScriptsOff(spec.name));
    }
    scratch.shrink();
    scratch.positions.clear();
    if let Err(error) = spec.keys(call, &mut scratch.positions) {
        return invalid(routes, serve_check, spec, InvalidCall::new(spec, call, error));
    }
    let (slot, keyless) = match scratch.positions.split_first() {
        None => (slot_of_name(routes, kind, call.get(1)), true),
        Some((&first, others)) => {
            let slot = routes.layout.slot(call.get(first));
            if others.iter().any(|arg| routes.layout.slot(call.get(*arg)) != slot) {
                return Dispatch::Refuse(RefusalReason::CrossSlot);
            }
            (slot, false)
        }
    };
    match forward(routes, serve_check, slot, spec) {
        // What it reads is not known, and so not whether a replica has it.
        Dispatch::Forward(target) if keyless => {
            Dispatch::Script { target: DispatchTarget { may_read_replica: false, ..target }, kind }
        }
        Dispatch::Forward(target) => Dispatch::Script { target, kind },
        other => other,
    }
}

/// The slot in which a call without keys runs: the same one for the body of a script and for its digest, at every node. As a
/// request of a slot, it is parked while its server changes, and its reply passes check 2.
#[cold]
fn slot_of_name(routes: &ProductRoutes, kind: ScriptCall, name: &[u8]) -> SlotId {
    let digest = match kind {
        ScriptCall::Body => Some(ScriptDigest::of(name)),
        ScriptCall::Digest => ScriptDigest::parse(name),
        ScriptCall::Function => None,
    };
    match digest {
        Some(digest) => routes.layout.slot(digest.to_string().as_bytes()),
        None => routes.layout.slot(name),
    }
}
