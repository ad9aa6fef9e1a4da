//! HSCAN, SSCAN and ZSCAN: the cursor of a server process means nothing to another one, so the client gets it with a mark of
//! the process, and another process begins at 0 (decision 0027). Knows nothing of the options, which the server reads.

use super::{Operation, StepError, StepSlots, step::received};
use crate::{
    commands::Args,
    model::{
        ids::SlotId,
        scan_cursor::{canonical_cursor, key_cursor_at_server, key_cursor_for_client},
    },
    proxy::{dispatch::RefusalReason, pieces::Pieces},
    resp::{
        number::{Header, header},
        write,
    },
};

/// Position of the cursor among the arguments.
const CURSOR_AT: usize = 2;

/// Runs the command for a key in `slot`.
pub(in crate::proxy) async fn run(operation: Operation, slot: SlotId) {
    match scanned(&operation, slot).await {
        Ok(reply) => {
            operation.finish_with(|session, worker, ticket| session.complete_in_pieces(worker, ticket, reply, 0))
        }
        Err(text) => operation.refuse(&text),
    }
}

async fn scanned(operation: &Operation, slot: SlotId) -> Result<Pieces, String> {
    let call = operation.call();
    let text = |error: StepError| error.text().to_owned();
    // What no server has returned is sent as it is: servers of some versions refuse it.
    let cursor = canonical_cursor(call.get(CURSOR_AT));
    let mut deadline = None;
    loop {
        operation.may_serve()?;
        let route = operation.routes().slots[usize::from(slot.0)];
        if route.hold.0 != 0 {
            operation.park(&mut deadline).await?;
            continue;
        }
        let group = route.group.ok_or_else(|| RefusalReason::Unassigned(slot).to_string())?;
        let (worker, session) = (&operation.worker, &operation.session);
        let backend = session.backend_set().backend(worker, &session.product, group);
        let backend = backend.ok_or_else(|| session.product.too_many_dedicated(worker))?;
        let Some(run_id) = operation.process(&backend).await.map_err(text)? else { continue };
        // In the same turn.
        let at_server = cursor.map(|cursor| key_cursor_at_server(cursor, &run_id).to_string());
        let args: Vec<&[u8]> = (0..call.args.len())
            .map(|i| match &at_server {
                Some(cursor) if i == CURSOR_AT => cursor.as_bytes(),
                _ => call.get(i),
            })
            .collect();
        let mut request = Vec::new();
        write::request(&mut request, &args);
        let result = match operation.send(&backend, &request, StepSlots::One(slot, route.epoch), false) {
            Err(StepError::Full) => {
                operation.wait_for_room().await;
                continue;
            }
            result => result.map_err(text)?,
        };
        match received(result).await {
            Err(StepError::CutOff) => {}
            Err(error) => return Err(text(error)),
            Ok(reply) => return with_cursor_for_client(reply, &run_id),
        }
    }
}

/// The reply with the cursor that the client gets. An error of the server stays as it is.
fn with_cursor_for_client(reply: Vec<u8>, run_id: &str) -> Result<Pieces, String> {
    let mut pieces = Pieces::default();
    match cursor_of(&reply) {
        None | Some((0, _)) => pieces.push(reply),
        Some((server, rest)) => {
            let cursor = key_cursor_for_client(server, run_id).map_err(|error| error.to_string())?;
            let mut head = Vec::new();
            write::array(&mut head, 2);
            write::bulk(&mut head, cursor.to_string().as_bytes());
            pieces.append(&head);
            pieces.append(&reply[rest..]);
        }
    }
    Ok(pieces)
}

/// The cursor of a reply, and the position behind it. `None`: the reply is an error.
fn cursor_of(reply: &[u8]) -> Option<(u64, usize)> {
    let rest = reply.strip_prefix(b"*2\r\n$")?;
    let Header::Number(len, from) = header(rest, 0) else { return None };
    let to = from.checked_add(usize::try_from(len).ok()?)?;
    let cursor = std::str::from_utf8(rest.get(from..to)?).ok()?.parse().ok()?;
    Some((cursor, reply.len() - rest.len() + to + 2))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_cursor_of_a_reply_is_replaced() {
        let marked = |reply: &str| {
            let reply = with_cursor_for_client(reply.as_bytes().to_vec(), "one").unwrap().concat();
            String::from_utf8(reply).unwrap()
        };
        for reply in ["*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n", "-WRONGTYPE no\r\n"] {
            assert_eq!(marked(reply), reply);
        }
        let cursor = key_cursor_for_client(7, "one").unwrap().to_string();
        let rest = "*2\r\n$1\r\n7\r\n$1\r\n0\r\n";
        assert_eq!(
            marked(&format!("*2\r\n$1\r\n7\r\n{rest}")),
            format!("*2\r\n${}\r\n{cursor}\r\n{rest}", cursor.len())
        );
        assert!(with_cursor_for_client(b"*2\r\n$20\r\n18446744073709551615\r\n*0\r\n".to_vec(), "one").is_err());
    }
}
