//! Commands about scripts and functions: what they do at all primaries, and what the cluster records of it.
//! Knows nothing of how a change is recorded.

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Duration, timeout},
};

use super::{
    Operation, StepError, functions,
    primaries::{GroupReply, first_error},
};
use crate::{
    clock,
    commands::{Args, ScriptCommand},
    model::{
        ids::{HostPort, ProductId},
        script::{CatalogueLimits, ScriptDigest},
    },
    proxy::{
        counters::count,
        scripts::{BodyRequest, ScriptChange, ScriptRequest, ScriptToLoad, ScriptsChanged},
        worker::Worker,
    },
    resp::{
        number::{Header, header},
        write::{self, Version},
    },
};

/// How long the control plane may take for a change: as long as it looks for a leader, and a second.
const CHANGE_MAX: Duration = Duration::from_secs(11);

/// How long this worker may take to get a catalogue that its node has. Later calls of the session then find in it what the
/// session has loaded.
const CATALOGUE_MAX: Duration = Duration::from_secs(1);

/// Runs a command about scripts or functions.
pub(in crate::proxy) async fn run(operation: Operation, command: ScriptCommand) {
    match command {
        ScriptCommand::ScriptLoad => load(operation).await,
        ScriptCommand::ScriptExists => exists(operation).await,
        ScriptCommand::ScriptFlush => flush(operation).await,
        ScriptCommand::ScriptKill => kill(operation, b"SCRIPT").await,
        ScriptCommand::ScriptShow => show(operation).await,
        ScriptCommand::FunctionKill => kill(operation, b"FUNCTION").await,
        ScriptCommand::FunctionLoad => functions::load(operation).await,
        ScriptCommand::FunctionDelete => functions::delete(operation).await,
        ScriptCommand::FunctionFlush => functions::flush(operation).await,
        ScriptCommand::FunctionRestore => functions::restore(operation).await,
        ScriptCommand::FunctionStats => functions::stats(operation).await,
        ScriptCommand::FunctionList | ScriptCommand::FunctionDump => functions::ask_one(operation).await,
    }
}

/// Whether a reply is an error about the script, and not about the state of the server.
fn is_about_script(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR ")
}

async fn load(operation: Operation) {
    let body = Bytes::copy_from_slice(operation.call().get(2));
    let digest = ScriptDigest::of(&body);
    let scripts = &operation.session.product.scripts;
    let is_known = scripts.body(&digest).is_some();
    if !is_known {
        // The leader decides; but what it would refuse should not be at the servers.
        let limits = CatalogueLimits::new(operation.routes().rules.script_loads_max, 1);
        if let Err(why) = scripts.catalogue().admits(body.len(), clock::wall_ms(), &limits) {
            count(&operation.worker.stats.scripts_refused);
            return operation.refuse(&format!("ERR {why}; not executed"));
        }
    }
    let request = ScriptToLoad { digest, body: body.clone() }.request();
    let replies = operation.ask_primaries(&request, Version::Resp2).await;
    if let Some(error) = replies.iter().filter_map(GroupReply::reply).find(|reply| is_about_script(reply)) {
        let error = error.to_vec();
        return operation.finish(&error);
    }
    let loaded: Vec<_> =
        replies.iter().filter(|group| group.reply().is_some_and(|reply| reply.starts_with(b"$"))).collect();
    loaded.iter().filter_map(|group| group.process.as_ref()).for_each(|process| process.note_loaded(digest));
    // The others get it with the first call that needs it.
    if loaded.is_empty() {
        let error = first_error(&replies);
        return operation.finish(&error);
    }
    if !is_known && let Err(text) = operation.change(ScriptChange::LoadScript(body)).await {
        return operation.refuse(&text);
    }
    let mut reply = Vec::new();
    write::bulk(&mut reply, digest.to_string().as_bytes());
    operation.finish(&reply);
}

/// 1 if EVALSHA works at every group. A script whose body this node knows is loaded where it is missing: one of the catalogue,
/// or one that it has seen in an EVAL, if a server has accepted it.
async fn exists(operation: Operation) {
    let call = operation.call();
    let catalogue = operation.session.product.scripts.catalogue();
    let digests: Vec<_> = (2..call.len()).map(|i| ScriptDigest::parse(call.get(i))).collect();
    let is_known = |digest: &Option<ScriptDigest>| digest.is_some_and(|digest| catalogue.body(&digest).is_some());
    let unknown: Vec<String> =
        digests.iter().filter(|digest| !is_known(digest)).flatten().map(ToString::to_string).collect();
    let (mut everywhere, mut somewhere) = (vec![true; unknown.len()], vec![false; unknown.len()]);
    if !unknown.is_empty() {
        let mut words: Vec<&[u8]> = vec![b"SCRIPT", b"EXISTS"];
        words.extend(unknown.iter().map(String::as_bytes));
        let mut request = Vec::new();
        write::request(&mut request, &words);
        for group in operation.ask_primaries(&request, Version::Resp2).await {
            match group.result {
                Ok(reply) if reply.starts_with(b"-") => return operation.finish(&reply),
                Ok(reply) => note_exists(&reply, &mut everywhere, &mut somewhere),
                Err(error) => return operation.refuse(error.text()),
            }
        }
    }
    let product = operation.routes().id;
    let is_seen = |digest: &ScriptDigest| operation.worker.bodies.get(product, digest).is_some();
    let mut found = everywhere.into_iter().zip(somewhere);
    let mut reply = Vec::new();
    write::array(&mut reply, digests.len());
    for digest in &digests {
        let exists = is_known(digest)
            || digest.is_some_and(|digest| {
                found.next().is_some_and(|(everywhere, somewhere)| everywhere || (somewhere && is_seen(&digest)))
            });
        write::int(&mut reply, exists.into());
    }
    operation.finish(&reply);
}

/// Takes away from `everywhere` what is 0 in the reply of a group, and adds to `somewhere` what is 1.
fn note_exists(reply: &[u8], everywhere: &mut [bool], somewhere: &mut [bool]) {
    let mut at = match header(reply, 1) {
        Header::Number(_, at) => at,
        Header::Incomplete | Header::Bad => return everywhere.fill(false),
    };
    for (everywhere, somewhere) in everywhere.iter_mut().zip(somewhere) {
        match header(reply, at + 1) {
            Header::Number(number, next) => {
                *everywhere &= number == 1;
                *somewhere |= number == 1;
                at = next;
            }
            Header::Incomplete | Header::Bad => *everywhere = false,
        }
    }
}

async fn flush(operation: Operation) {
    let call = operation.call();
    let mode = (call.len() > 2).then(|| call.get(2).to_ascii_uppercase());
    if call.len() > 3 || mode.as_deref().is_some_and(|mode| mode != b"SYNC" && mode != b"ASYNC") {
        return operation.refuse("ERR SCRIPT FLUSH only support SYNC|ASYNC option");
    }
    // The catalogue first: otherwise a call in between would load a script again.
    if let Err(text) = operation.change(ScriptChange::FlushScripts).await {
        return operation.refuse(&text);
    }
    let product = operation.routes().id;
    operation.worker.bodies.flush(product);
    forget_at_other_nodes(&operation.worker, product).await;
    // This node may have asked one that was not told yet.
    operation.worker.bodies.flush(product);
    let request = operation.bytes.clone();
    let replies = operation.ask_primaries(&request, Version::Resp2).await;
    operation.session.product.scripts.forget_loaded();
    operation.finish(&all_ok(&replies, "scripts are forgotten"));
}

/// Has the other nodes forget the scripts that came by EVAL. One that does not answer soon may keep them.
async fn forget_at_other_nodes(worker: &Worker, product: ProductId) {
    let Some(link) = &worker.config.scripts else { return };
    let (reply, forgotten) = oneshot::channel();
    if link.bodies.send(BodyRequest::Forget { product, reply }).await.is_ok() {
        // An error: the node ends.
        let _ = forgotten.await;
    }
}

/// OK if all groups say so; else which ones do not.
fn all_ok(replies: &[GroupReply], what: &str) -> Vec<u8> {
    let is_ok = |group: &&GroupReply| group.reply().is_some_and(|reply| reply.starts_with(b"+"));
    let mut reply = Vec::new();
    if replies.iter().all(|group| is_ok(&group)) {
        write::simple(&mut reply, "OK");
        return reply;
    }
    let listed = |groups: Vec<&GroupReply>| match groups.as_slice() {
        [] => "none".to_owned(),
        some => some.iter().map(|group| group.group.to_string()).collect::<Vec<_>>().join(", "),
    };
    let (done, failed): (Vec<_>, Vec<_>) = replies.iter().partition(|group| is_ok(group));
    let why = String::from_utf8_lossy(&first_error(replies)[1..]).trim_end().to_owned();
    write::error(
        &mut reply,
        &format!("ERR {what} at group(s) {}, not at group(s) {}: {why}", listed(done), listed(failed)),
    );
    reply
}

/// SCRIPT KILL, FUNCTION KILL. Not on a connection on which a script runs: there it would wait for its end.
async fn kill(operation: Operation, container: &[u8]) {
    let mut request = Vec::new();
    write::request(&mut request, &[container, b"KILL"]);
    let replies = operation.ask_primaries(&request, Version::Resp2).await;
    let with = |start: &[u8]| replies.iter().filter_map(GroupReply::reply).find(|reply| reply.starts_with(start));
    // One that runs comes before those that do not, and a server that does not answer may run one.
    let worth = with(b"+").or_else(|| with(b"-UNKILLABLE")).or_else(|| with(b"-BUSY")).or_else(|| with(b"-ERR"));
    let answer = match worth {
        Some(reply) => reply.to_vec(),
        None if replies.iter().any(|group| group.result.is_err()) => first_error(&replies),
        None => with(b"-NOTBUSY").map_or_else(|| first_error(&replies), <[u8]>::to_vec),
    };
    operation.finish(&answer);
}

async fn show(operation: Operation) {
    let request = operation.bytes.clone();
    let replies = operation.ask_primaries(&request, Version::Resp2).await;
    let with = |start: &[u8]| replies.iter().filter_map(GroupReply::reply).find(|reply| reply.starts_with(start));
    let digest = ScriptDigest::parse(operation.call().get(2));
    let body = digest.and_then(|digest| operation.session.product.scripts.body(&digest));
    let reply = match (with(b"$"), with(b"-NOSCRIPT"), body) {
        (Some(reply), _, _) => reply.to_vec(),
        // The servers know the command, and lack the script.
        (None, Some(_), Some(body)) => {
            let mut reply = Vec::new();
            write::bulk(&mut reply, &body);
            reply
        }
        (None, _, _) => first_error(&replies),
    };
    operation.finish(&reply);
}

/// Repeats an EVALSHA as EVAL. `noscript`: the error of the server, which is delivered unless it is certain that the script did
/// not run: one that runs may end with such an error itself.
pub(in crate::proxy) async fn repeat_with_body(
    operation: Operation,
    addr: HostPort,
    script: ScriptToLoad,
    noscript: Vec<u8>,
) {
    let mut question = Vec::new();
    write::request(&mut question, &[b"SCRIPT", b"EXISTS", script.digest.to_string().as_bytes()]);
    let lacks = operation.ask_primary(&addr, &question, Version::Resp2).await;
    if lacks.as_deref() != Ok(b"*1\r\n:0\r\n") {
        return operation.finish(&noscript);
    }
    count(&operation.worker.stats.script_repeats);
    let request = {
        let call = operation.call();
        let name: &[u8] = if call.get(0).eq_ignore_ascii_case(b"EVALSHA_RO") { b"EVAL_RO" } else { b"EVAL" };
        let mut words: Vec<&[u8]> = vec![name, &script.body];
        words.extend((2..call.len()).map(|i| call.get(i)));
        let mut request = Vec::new();
        write::request(&mut request, &words);
        request
    };
    operation.forward(&request).await;
}

impl Operation {
    /// Asks the control plane for a change, and waits until this worker has it.
    ///
    /// # Errors
    /// Returns the text for the client.
    pub(super) async fn change(&self, change: ScriptChange) -> Result<ScriptsChanged, String> {
        let Some(link) = &self.worker.config.scripts else {
            return Err("ERR this node cannot record scripts and functions, not executed".into());
        };
        let (reply, result) = oneshot::channel();
        let request = ScriptRequest { product: self.routes().id, change, client: self.session.addr, reply };
        if link.changes.try_send(request).is_err() {
            return Err("TRYAGAIN not executed: too many changes of scripts and functions wait".into());
        }
        let unknown = || "TRYAGAIN it is not known whether it was recorded; it is safe to repeat".to_owned();
        let changed = match timeout(CHANGE_MAX, result).await {
            Ok(Ok(Ok(changed))) => changed,
            Ok(Ok(Err(text))) => {
                count(&self.worker.stats.scripts_refused);
                return Err(text);
            }
            Ok(Err(_)) | Err(_) => return Err(unknown()),
        };
        // If that takes longer, later calls are served by an older catalogue.
        let _ = timeout(CATALOGUE_MAX, self.session.product.scripts.wait_for(changed.at)).await;
        Ok(changed)
    }

    /// The text of the error for a step.
    pub(super) fn refuse_step(self, error: &StepError) {
        self.refuse(error.text());
    }
}
