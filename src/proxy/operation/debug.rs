//! DEBUG, for products whose operator allows it: carried out at the servers as the control user, or by the node.
//! Knows nothing of which parts there are.

use super::{Operation, StepError, StepSlots, all_groups::Broadcast, step::received, texts::texts};
use crate::{
    commands::{Args, Spec, resolve},
    proxy::{
        dispatch::RefusalReason,
        local::{self, DEBUG_NOT_ALLOWED, DebugPart},
    },
    resp::write::{self, Version},
};

/// How a server begins its error if its own configuration forbids DEBUG.
const FORBIDDEN: &str = "ERR DEBUG command not allowed";

/// The error for it.
const FORBIDDEN_HERE: &str = "ERR DEBUG is not executed: the servers forbid it. Set 'enable-debug-command yes' in the file of \
    each server of the product, and restart it ('local' allows it only if every node runs on the host of the server)";

const UNSAFE_RELOAD: &str = "ERR DEBUG RELOAD takes no options here, or NOFLUSH with MERGE, not executed: NOSAVE could bring \
    back keys of slots that have moved, and NOFLUSH alone ends the server";

const SLEEP_IN_TRANSACTION: &str =
    "ERR DEBUG SLEEP is not executed in a transaction by this proxy. Send it before MULTI";

const NO_AOF: &str = "ERR DEBUG LOADAOF is not executed: a server without an append-only file would lose its data. \
    'appendonly' has to be 'yes' at all primaries";

/// Bytes of a digest, which servers write as twice as many hexadecimal digits.
const DIGEST: usize = 20;

/// Runs DEBUG.
pub(super) async fn debug(operation: Operation) {
    match answer(&operation).await {
        Ok(reply) => operation.finish(&reply),
        Err(text) if text.starts_with(FORBIDDEN) => operation.refuse(FORBIDDEN_HERE),
        Err(text) => operation.refuse(&text),
    }
}

async fn answer(operation: &Operation) -> Result<Vec<u8>, String> {
    if !operation.routes().rules.debug_commands {
        return Err(DEBUG_NOT_ALLOWED.into());
    }
    let call = operation.call();
    let version = operation.session.client.borrow().version;
    let mut reply = Vec::new();
    match DebugPart::of(&call)? {
        DebugPart::Help => local::debug_help(&mut reply),
        // Outside of a transaction, the session gives it to `blocking`.
        DebugPart::Sleep => return Err(SLEEP_IN_TRANSACTION.into()),
        DebugPart::Protocol => local::debug_protocol(&call, version, &mut reply),
        DebugPart::Error => local::debug_error(&call, &mut reply),
        DebugPart::Key => reply = of_key(operation, &words(operation), 2, version).await?,
        DebugPart::Keys => {
            write::array(&mut reply, call.args.len() - 2);
            for key in 2..call.args.len() {
                let digest = of_key(operation, &[b"DEBUG", call.get(1), call.get(key)], 2, Version::Resp2).await?;
                reply.extend_from_slice(
                    digest.strip_prefix(b"*1\r\n").ok_or("ERR a server has not answered as Redis does")?,
                );
            }
        }
        DebugPart::AnyPrimary => {
            let mut request = Vec::new();
            write::request(&mut request, &words(operation));
            reply = operation.ask_a_primary(&request, version).await.map_err(|error| error.text().to_owned())?;
        }
        DebugPart::Reload if !local::reload_is_safe(&call) => return Err(UNSAFE_RELOAD.into()),
        DebugPart::Loadaof => {
            if !all_have_aof(operation).await? {
                return Err(NO_AOF.into());
            }
            to_all(operation, StepSlots::All).await?;
            write::simple(&mut reply, "OK");
        }
        part @ (DebugPart::AllPrimaries | DebugPart::Reload) => {
            // While slots move, a reload would bring back what a mover deletes.
            to_all(operation, if part == DebugPart::Reload { StepSlots::All } else { StepSlots::None }).await?;
            write::simple(&mut reply, "OK");
        }
        DebugPart::Digest => {
            let digests = to_all(operation, StepSlots::None).await?;
            let text = combined(&digests).ok_or("ERR a server has not answered as Redis does")?;
            write::simple(&mut reply, &text);
        }
    }
    Ok(reply)
}

/// The words of the call.
fn words(operation: &Operation) -> Vec<&[u8]> {
    let call = operation.call();
    let bytes: &[u8] = &operation.bytes;
    call.args.iter().map(|arg| arg.of(bytes)).collect()
}

/// Sends `words` to the owner of the key at `key` among them.
async fn of_key(operation: &Operation, words: &[&[u8]], key: usize, version: Version) -> Result<Vec<u8>, String> {
    let mut request = Vec::new();
    write::request(&mut request, words);
    // PFDEBUG changes its key, DEBUG does not.
    let is_write = resolve(&operation.call()).is_ok_and(Spec::is_write);
    let mut deadline = None;
    loop {
        operation.may_serve()?;
        let routes = operation.routes();
        let slot = routes.layout.slot(words[key]);
        let route = routes.slots[usize::from(slot.0)];
        if route.hold.0 != 0 {
            operation.park(&mut deadline).await?;
            continue;
        }
        let group = route.group.ok_or_else(|| RefusalReason::Unassigned(slot).to_string())?;
        let (worker, product) = (&operation.worker, &operation.session.product);
        let backend = product.control_set(operation.db(), version).backend(worker, product, group);
        let backend = backend.ok_or("TRYAGAIN not executed: the groups of the product change")?;
        let sent = match operation.send(&backend, &request, StepSlots::One(slot, route.epoch), is_write) {
            Err(StepError::Full) => {
                operation.wait_for_room().await;
                continue;
            }
            sent => sent.map_err(|error| error.text().to_owned())?,
        };
        return match received(sent).await {
            Err(StepError::CutOff) => continue,
            Err(error) => Err(error.text().to_owned()),
            Ok(reply) if reply.starts_with(b"-") => Err(String::from_utf8_lossy(&reply[1..]).trim_end().to_owned()),
            Ok(reply) => Ok(reply),
        };
    }
}

/// Sends the call to all primaries, or to none.
async fn to_all(operation: &Operation, slots: StepSlots) -> Result<Vec<Vec<u8>>, String> {
    let mut request = Vec::new();
    write::request(&mut request, &words(operation));
    let broadcast = Broadcast { request: &request, db: operation.db(), slots, is_write: slots == StepSlots::All };
    Ok(broadcast.send(operation, &mut None).await?.list)
}

/// Whether all primaries write an append-only file.
async fn all_have_aof(operation: &Operation) -> Result<bool, String> {
    let mut request = Vec::new();
    write::request(&mut request, &[b"CONFIG", b"GET", b"appendonly"]);
    let broadcast = Broadcast { request: &request, db: 0, slots: StepSlots::None, is_write: false };
    let replies = broadcast.send(operation, &mut None).await?.list;
    let is_on = |reply: &Vec<u8>| texts(reply).is_some_and(|texts| texts.get(1).is_some_and(|value| value == "yes"));
    Ok(replies.iter().all(is_on))
}

/// Combines the digests of all primaries. The result stays the same as long as no key changes and no slot moves.
fn combined(digests: &[Vec<u8>]) -> Option<String> {
    let mut all = [0_u8; DIGEST];
    for digest in digests {
        let hex = digest.strip_prefix(b"+").and_then(|rest| rest.strip_suffix(b"\r\n"))?;
        let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.len() == 2 * DIGEST && hex.is_ascii())?;
        for (i, byte) in all.iter_mut().enumerate() {
            *byte ^= u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
        }
    }
    Some(all.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_combined() {
        let digest = |byte: &str| format!("+{}\r\n", byte.repeat(DIGEST)).into_bytes();
        assert_eq!(combined(&[digest("0f"), digest("f1")]), Some("fe".repeat(DIGEST)));
        assert_eq!(combined(&[digest("00")]), Some("00".repeat(DIGEST)));
        for wrong in ["+0\r\n", "-ERR no\r\n", "+zz\r\n"] {
            assert_eq!(combined(&[wrong.as_bytes().to_vec()]), None);
        }
    }
}
