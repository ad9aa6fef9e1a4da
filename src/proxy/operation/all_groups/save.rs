//! SAVE, BGSAVE, BGREWRITEAOF and LASTSAVE at all primaries. Knows nothing of how a request is sent.

use std::time::Duration;

use super::{
    super::{Operation, StepSlots},
    broadcast::{Broadcast, Replies},
    options::SYNTAX,
};
use crate::{
    commands::Args,
    resp::{
        number::{Header, header},
        write,
    },
};

/// Pause between two questions whether a server has saved.
const POLL: Duration = Duration::from_millis(20);
/// The longest pause: a save of many gigabytes takes minutes.
const POLL_MAX: Duration = Duration::from_millis(500);
/// A client waits at most this long for SAVE; the servers go on saving.
const SAVE_MAX: Duration = Duration::from_secs(3600);

/// Runs SAVE: the servers save in the background, and the client gets its reply when all have. A server that saves in the
/// foreground answers nobody, and would be failed over.
pub(super) async fn save(operation: Operation) {
    match saved(&operation).await {
        Ok(()) => operation.finish(b"+OK\r\n"),
        Err(text) => operation.refuse(&text),
    }
}

async fn saved(operation: &Operation) -> Result<(), String> {
    ask(operation, &[b"BGSAVE"]).await?;
    let began = tokio::time::Instant::now();
    let mut pause = POLL;
    while began.elapsed() < SAVE_MAX {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL_MAX);
        if operation.session.is_closed() {
            return Ok(());
        }
        let replies = ask(operation, &[b"INFO", b"persistence"]).await?;
        let has = |reply: &Vec<u8>, line: &[u8]| reply.split(|c| *c == b'\n').any(|found| found.trim_ascii() == line);
        if replies.list.iter().any(|reply| !has(reply, b"rdb_bgsave_in_progress:0")) {
            continue;
        }
        let failed = replies.list.iter().position(|reply| !has(reply, b"rdb_last_bgsave_status:ok"));
        return match failed.and_then(|index| replies.routes.groups.get(index)) {
            None => Ok(()),
            Some(group) => Err(format!("ERR the server of group {} could not save: see its log", group.id)),
        };
    }
    Err(format!("ERR outcome unknown: a server is still saving after {} s", SAVE_MAX.as_secs()))
}

/// Runs BGSAVE.
pub(super) async fn save_in_background(operation: Operation) {
    let call = operation.call();
    let args: &[&[u8]] = match call.args.len() {
        1 => &[b"BGSAVE"],
        2 if call.get(1).eq_ignore_ascii_case(b"schedule") => &[b"BGSAVE", b"SCHEDULE"],
        _ => return operation.refuse(SYNTAX),
    };
    let result = ask(&operation, args).await;
    answer_last(operation, result);
}

/// Runs BGREWRITEAOF.
pub(super) async fn rewrite(operation: Operation) {
    let result = ask(&operation, &[b"BGREWRITEAOF"]).await;
    answer_last(operation, result);
}

/// Runs LASTSAVE: the time before which every primary has saved.
pub(super) async fn last_save(operation: Operation) {
    let replies = match ask(&operation, &[b"LASTSAVE"]).await {
        Ok(replies) => replies,
        Err(text) => return operation.refuse(&text),
    };
    let mut oldest = i64::MAX;
    for reply in &replies.list {
        match (reply.first(), header(reply, 1)) {
            (Some(b':'), Header::Number(time, _)) => oldest = oldest.min(time),
            _ => return operation.finish(reply),
        }
    }
    let mut reply = Vec::new();
    write::int(&mut reply, oldest);
    operation.finish(&reply);
}

/// Answers with the reply of the server that is last: "scheduled" sorts before "started".
fn answer_last(operation: Operation, result: Result<Replies, String>) {
    match result {
        Ok(replies) => match replies.list.iter().min() {
            Some(reply) => operation.finish(reply),
            None => operation.refuse("ERR not executed: the product has no groups"),
        },
        Err(text) => operation.refuse(&text),
    }
}

/// Asks all primaries; what they do concerns no keys, so no hold waits for it.
async fn ask(operation: &Operation, args: &[&[u8]]) -> Result<Replies, String> {
    let mut request = Vec::new();
    write::request(&mut request, args);
    let broadcast = Broadcast { request: &request, db: 0, slots: StepSlots::None, is_write: false };
    broadcast.send(operation, &mut None).await
}
