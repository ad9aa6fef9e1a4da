//! Carries out what `plan::scripts` decides: makes servers answer -BUSY soon, and ends scripts that run for too long.
//! One task per server and kind of action. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use crate::{
    control::leadership::context::LeaderContext,
    counters,
    model::{
        change::{Change, GroupNote, NoteGroup},
        ids::HostPort,
    },
    panics,
    plan::{
        scripts::{ScriptAction, ScriptFix},
        waiting::Wait,
    },
    redis::{Client, RedisError, Reply},
};

/// How long a server may take for a few answers: a busy server answers these commands at once.
const ACT_MAX: Duration = Duration::from_secs(2);
/// The pause between two tries to end a script at a server: nodes report within about a second that it was ended.
const END_PAUSE: Duration = Duration::from_secs(2);
/// The pause after `lua-time-limit` was set or refused: the prober reads it every 30 s, and a server that refuses CONFIG
/// keeps a record of it.
const SET_PAUSE: Duration = Duration::from_secs(120);
/// The interval between two events about one server: a client that repeats its script must not displace all other
/// events.
const EVENT_INTERVAL: Duration = Duration::from_secs(60);
/// How many servers are changed at the same time.
const CONCURRENT_MAX: usize = 16;
/// The name of `busy-reply-threshold` that all versions of Redis know.
const BUSY_REPLY: &[u8] = b"lua-time-limit";

/// A server, and whether a script is to be ended there.
type FixKey = (HostPort, bool);

/// The actions in progress, and the results of the last ones. Belongs to one term; dropping it ends them.
#[derive(Debug, Default)]
pub struct ScriptController {
    tasks: JoinSet<(FixKey, Result<ActionOutcome, String>)>,
    busy: BTreeSet<FixKey>,
    /// When the next action at a server may begin, and why the last one failed, if it did.
    not_before: BTreeMap<FixKey, (Instant, Option<String>)>,
    /// When the last event about a server was written.
    last_event: BTreeMap<HostPort, Instant>,
}

/// The result of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ActionOutcome {
    /// No event was written: none was due, or nothing ran any more.
    NoEvent,
    /// A script was ended, and an event says so.
    EventWritten,
}

impl ScriptController {
    /// Begins the actions that are due. Returns the scripts that cannot be ended.
    pub fn step(&mut self, ctx: &LeaderContext, fixes: Vec<ScriptFix>) -> Vec<Wait> {
        let now = Instant::now();
        while let Some(ended) = self.tasks.try_join_next() {
            let Some((key, result)) = panics::pass_on(ended) else { continue };
            let pause = if key.1 { END_PAUSE } else { SET_PAUSE };
            if result == Ok(ActionOutcome::EventWritten) {
                self.last_event.insert(key.0.clone(), now);
            }
            self.busy.remove(&key);
            self.not_before.insert(key, (now + pause, result.err()));
        }
        let wanted: BTreeSet<FixKey> = fixes.iter().map(key).collect();
        self.not_before.retain(|key, (at, _)| *at > now || wanted.contains(key));
        self.last_event.retain(|_, at| now.saturating_duration_since(*at) < EVENT_INTERVAL);
        let mut waiting = Vec::new();
        for fix in fixes {
            let key = key(&fix);
            let last = self.not_before.get(&key);
            if let (ScriptAction::EndScript { busy_ms }, Some((_, Some(why)))) = (fix.action, last) {
                let (group, seconds) = (fix.group, busy_ms / 1000);
                let wait = Wait::new(
                    format!("{} of group {group} is busy with a script that could not be ended", fix.addr),
                    "the script has ended by itself, or it can be ended, which is tried every two seconds",
                );
                waiting.push(wait.with_detail(format!(" ({seconds} s): {why}")));
            }
            let pausing = last.is_some_and(|(at, _)| *at > now);
            if pausing || self.busy.contains(&key) || self.busy.len() >= CONCURRENT_MAX {
                continue;
            }
            let event_is_due = key.1 && !self.last_event.contains_key(&fix.addr);
            self.busy.insert(key.clone());
            let ctx = ctx.clone();
            self.tasks.spawn(async move {
                let done = timeout(ACT_MAX, act(&ctx, &fix, event_is_due)).await;
                (key, done.unwrap_or_else(|_| Err("it does not answer".into())))
            });
        }
        waiting
    }
}

fn key(fix: &ScriptFix) -> FixKey {
    (fix.addr.clone(), matches!(fix.action, ScriptAction::EndScript { .. }))
}

/// Carries out one fix.
///
/// # Errors
/// Returns why it failed, as text for the operator.
async fn act(ctx: &LeaderContext, fix: &ScriptFix, event_is_due: bool) -> Result<ActionOutcome, String> {
    let deadline = Instant::now() + ACT_MAX;
    let name = format!("pt:{}:scripts:{}", ctx.cluster, ctx.me);
    let credentials = fix.credentials.as_ref();
    let client = Client::connect_to_busy(&fix.addr, credentials, &name, deadline).await;
    let mut client = client.map_err(|error| error.to_string())?;
    match fix.action {
        ScriptAction::ShortenBusyReply { to_ms } => {
            let to = to_ms.to_string();
            let set = client.ask(&[b"CONFIG", b"SET", BUSY_REPLY, to.as_bytes()], deadline).await;
            set.map_err(|error| error.to_string())?;
            info!(addr = %fix.addr, ms = to_ms, "a server answers -BUSY earlier: lua-time-limit is set");
            Ok(ActionOutcome::NoEvent)
        }
        ScriptAction::EndScript { busy_ms } => {
            let Some(command) = end_script(&mut client, deadline).await? else { return Ok(ActionOutcome::NoEvent) };
            // Nodes see no break between two scripts that follow each other closely.
            let text = format!(
                "{} had been busy with scripts for {}.{} s; the one that ran, which had written nothing, was ended by node {} \
                 ({command})",
                fix.addr,
                busy_ms / 1000,
                busy_ms % 1000 / 100,
                ctx.me
            );
            warn!(text, "a script was ended");
            counters::SCRIPTS_ENDED.increment();
            if !event_is_due {
                return Ok(ActionOutcome::NoEvent);
            }
            let (product, group, note) = (fix.product, fix.group, GroupNote::ScriptEnded);
            ctx.propose(Change::NoteGroup(NoteGroup { product, group, note, text })).await?;
            Ok(ActionOutcome::EventWritten)
        }
    }
}

/// Ends the script or function that runs. Returns the command that did; `None`: nothing runs any more.
///
/// # Errors
/// Returns why it could not be ended, as text for the operator.
async fn end_script(client: &mut Client, deadline: Instant) -> Result<Option<&'static str>, String> {
    let commands: [(&str, &[&[u8]]); 2] =
        [("SCRIPT KILL", &[b"SCRIPT", b"KILL"]), ("FUNCTION KILL", &[b"FUNCTION", b"KILL"])];
    let replies = client.pipeline(&commands.map(|(_, command)| command), deadline).await;
    let replies = replies.map_err(|error| error.to_string())?;
    let mut refused = None;
    for ((name, _), reply) in commands.into_iter().zip(replies) {
        match reply {
            Reply::Error(text) if text.starts_with("NOTBUSY") => return Ok(None),
            Reply::Error(text) if text.starts_with("UNKILLABLE") => {
                return Err("its script has written, so it cannot be ended without a loss; wait for it".into());
            }
            // The other command is the right one, or the server has no functions.
            Reply::Error(text) => refused = Some(RedisError::of_answer(client.addr(), name, &text).to_string()),
            _ => return Ok(Some(name)),
        }
    }
    refused.map_or(Ok(None), Err)
}
