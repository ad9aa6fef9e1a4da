//! INFO with figures of the servers: asks all primaries, and answers within a short time whoever answers.
//! Knows nothing of what the figures mean.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Operation, all_groups::count_keys, step::received};
use crate::{
    proxy::local::info::{Section, Sections, ServerFigures, databases_with_keys, info as text, text_of},
    resp::write::{self, Version},
};

/// How long a primary may take for its answer. Client libraries send INFO when they connect, and wait.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// How much longer it may take to count keys, if some of them are no keys of the product.
const COUNT_MAX: Duration = Duration::from_millis(500);

/// Runs INFO.
pub(in crate::proxy) async fn info(operation: Operation) {
    let sections = Sections::of(&operation.call());
    let mut figures = ask(&operation, sections).await;
    if sections.has(Section::Keyspace) && figures.unanswered.is_empty() {
        count_own(&operation, &mut figures).await;
    }
    let (session, routes) = (&operation.session, operation.routes());
    let text = text(&operation.worker, session, &routes, sections, Some(&figures));
    let mut reply = Vec::new();
    write::verbatim(&mut reply, &text, session.client.borrow().version);
    operation.finish(&reply);
}

/// Asks the primaries of all groups for these sections.
async fn ask(operation: &Operation, sections: Sections) -> ServerFigures {
    let mut request = Vec::new();
    let mut of_servers = sections.of_servers();
    match (of_servers.next(), of_servers.next()) {
        (Some(only), None) => write::request(&mut request, &[b"INFO", only.name().as_bytes()]),
        // Servers before Redis 7 take one section, and none of them has these two by default.
        _ if sections.has(Section::Commandstats) || sections.has(Section::Latencystats) => {
            write::request(&mut request, &[b"INFO", b"all"]);
        }
        _ => write::request(&mut request, &[b"INFO"]),
    }
    let mut figures = ServerFigures::default();
    for (group, reply) in operation.ask_primaries_until(&request, Instant::now() + ANSWER_MAX).await {
        match reply.as_deref().and_then(text_of) {
            Some(text) => figures.texts.push(text),
            None => figures.unanswered.push(group),
        }
    }
    figures
}

impl Operation {
    /// Asks the primaries of all groups, in the order of the groups. `None`: there is no reply until `deadline`.
    pub(super) async fn ask_primaries_until(
        &self,
        request: &[u8],
        deadline: Instant,
    ) -> Vec<(crate::model::ids::GroupId, Option<Vec<u8>>)> {
        let mut pending = Vec::new();
        for (index, group) in self.routes().groups.iter().enumerate() {
            let sent = timeout_at(deadline, self.send_to_primary(index, &group.primary, request, Version::Resp2)).await;
            pending.push((group.id, sent));
        }
        let mut replies = Vec::with_capacity(pending.len());
        for (group, sent) in pending {
            let reply = match sent {
                Ok(Ok((_, result))) => timeout_at(deadline, received(result)).await.ok().and_then(Result::ok),
                Ok(Err(_)) | Err(_) => None,
            };
            replies.push((group, reply));
        }
        replies
    }
}

/// Counts the keys of the product in each database, as DBSIZE does: servers may have others, copies under way and leftovers.
/// What is not known in time is left out.
async fn count_own(operation: &Operation, figures: &mut ServerFigures) {
    let until = Instant::now() + COUNT_MAX;
    for db in databases_with_keys(figures, operation.routes().databases) {
        // Behind its own deadline, so that it never ends while it waits for a hold, which would stay counted.
        match timeout_at(until + ANSWER_MAX, count_keys(operation, db, Some(until))).await {
            Ok(Ok(keys)) => {
                figures.own_keys.insert(db, keys);
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
