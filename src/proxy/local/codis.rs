//! SLOTSMAPPING and SLOTSHASHKEY, which the proxy and the servers of Codis have.

use crate::{
    commands::Args,
    model::{ids::SlotId, route::ProductRoutes},
    proxy::dispatch::CallContext,
    resp::{number, write},
};

/// Writes the slots with their owners, or the one that the call names: its number, the address of the primary, that of the
/// server that its keys come from (none: they are copied before), and groups of replicas (none).
pub(super) fn mapping(routes: &ProductRoutes, call: &CallContext<'_>, out: &mut Vec<u8>) {
    match call.args.len() {
        1 => {
            write::array(out, routes.slots.len());
            (0..routes.slots.len()).for_each(|slot| slot_to(routes, slot, out));
        }
        2 => {
            let text = String::from_utf8_lossy(call.get(1));
            match number::parse(call.get(1)).map(usize::try_from) {
                None => write::error(out, &format!("ERR parse slotnum '{text}' failed, not a number")),
                Some(Ok(slot)) if slot < routes.slots.len() => slot_to(routes, slot, out),
                Some(_) => write::error(out, &format!("ERR parse slotnum '{text}' failed, out of range")),
            }
        }
        _ => write::error(out, "ERR wrong number of arguments for 'slotsmapping' command"),
    }
}

/// Where a product's data is, is nothing that its clients have to know: without detailed errors, they get the group's number
/// instead of an address.
fn slot_to(routes: &ProductRoutes, slot: usize, out: &mut Vec<u8>) {
    let owner = routes.slots[slot].group.and_then(|group| routes.groups.get(usize::from(group)));
    let owner = owner.map(|group| match routes.rules.errors_detailed {
        true => group.primary.to_string(),
        false => format!("group-{}", group.id),
    });
    write::array(out, 4);
    write::bulk(out, slot.to_string().as_bytes());
    write::bulk(out, owner.unwrap_or_default().as_bytes());
    write::bulk(out, b"");
    write::array(out, 0);
}

/// Writes the slots of the keys.
pub(super) fn hash_key(routes: &ProductRoutes, call: &CallContext<'_>, out: &mut Vec<u8>) {
    write::array(out, call.args.len() - 1);
    for i in 1..call.args.len() {
        let SlotId(slot) = routes.layout.slot(call.get(i));
        write::int(out, i64::from(slot));
    }
}
