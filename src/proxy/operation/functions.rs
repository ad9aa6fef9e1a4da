//! Commands about libraries of functions, and calls of functions at a server that may lack them.
//! Knows nothing of how libraries are brought to servers.

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Duration, timeout},
};

use super::{
    Operation,
    primaries::{GroupReply, first_error},
};
use crate::{
    commands::Args,
    model::ids::HostPort,
    proxy::{
        local::QUOTED_MAX,
        product::ProductView,
        scripts::{LibraryRequest, ScriptChange},
        worker::Worker,
    },
    resp::write,
};

/// How long libraries may take to be loaded before a call, which is then tried without: a server answers in milliseconds.
const LIBRARIES_MAX: Duration = Duration::from_secs(3);

impl Operation {
    fn argument(&self, i: usize) -> Bytes {
        Bytes::copy_from_slice(self.call().get(i))
    }

    /// Makes a change, and answers OK, or with the name of the library.
    async fn change_libraries(self, change: ScriptChange) {
        let changed = match self.change(change).await {
            Ok(changed) => changed,
            Err(text) => return self.refuse(&text),
        };
        let mut reply = Vec::new();
        match (changed.partial, changed.library) {
            (Some(partial), _) => write::error(&mut reply, &format!("ERR {partial}")),
            (None, Some(name)) => write::bulk(&mut reply, name.as_bytes()),
            (None, None) => write::simple(&mut reply, "OK"),
        }
        self.finish(&reply);
    }

    /// What Redis answers to a subcommand with too many arguments whose arity allows any number. It repeats the name as the
    /// client wrote it.
    fn refuse_arguments(self) {
        let name = self.argument(1);
        let name = String::from_utf8_lossy(&name[..name.len().min(QUOTED_MAX)]).into_owned();
        self.refuse(&format!("ERR unknown subcommand or wrong number of arguments for '{name}'. Try FUNCTION HELP."));
    }
}

/// FUNCTION LOAD [REPLACE] code.
pub(super) async fn load(operation: Operation) {
    let last = operation.call().len() - 1;
    let options = 2..last;
    let mut replace = false;
    for i in options {
        let option = operation.argument(i);
        if !option.eq_ignore_ascii_case(b"REPLACE") {
            let option = String::from_utf8_lossy(&option).into_owned();
            return operation.refuse(&format!("ERR Unknown option given: {option}"));
        }
        replace = true;
    }
    let code = operation.argument(last);
    operation.change_libraries(ScriptChange::LoadLibrary { code, replace }).await;
}

/// FUNCTION DELETE name.
pub(super) async fn delete(operation: Operation) {
    let name = operation.argument(2);
    operation.change_libraries(ScriptChange::DeleteLibrary(name)).await;
}

/// FUNCTION FLUSH [ASYNC|SYNC].
pub(super) async fn flush(operation: Operation) {
    let len = operation.call().len();
    if len > 3 {
        return operation.refuse_arguments();
    }
    if len == 3 {
        let mode = operation.argument(2);
        if !mode.eq_ignore_ascii_case(b"SYNC") && !mode.eq_ignore_ascii_case(b"ASYNC") {
            return operation.refuse("ERR FUNCTION FLUSH only supports SYNC|ASYNC option");
        }
    }
    operation.change_libraries(ScriptChange::FlushLibraries).await;
}

/// FUNCTION RESTORE payload [FLUSH|APPEND|REPLACE]. A server checks the arguments.
pub(super) async fn restore(operation: Operation) {
    let len = operation.call().len();
    if len > 4 {
        return operation.refuse_arguments();
    }
    let payload = operation.argument(2);
    let policy = if len == 4 { operation.argument(3) } else { Bytes::new() };
    operation.change_libraries(ScriptChange::RestoreLibraries { payload, policy }).await;
}

/// FUNCTION LIST, FUNCTION DUMP: all primaries have the same libraries.
pub(super) async fn ask_one(operation: Operation) {
    let version = operation.session.client.borrow().version;
    let request = operation.bytes.clone();
    match operation.ask_a_primary(&request, version).await {
        Ok(reply) => operation.finish(&reply),
        Err(error) => operation.refuse_step(&error),
    }
}

/// FUNCTION STATS: of the first primary that runs a function or script, else of the first one.
pub(super) async fn stats(operation: Operation) {
    let version = operation.session.client.borrow().version;
    let request = operation.bytes.clone();
    let replies = operation.ask_primaries(&request, version).await;
    let answers: Vec<&[u8]> = replies.iter().filter_map(GroupReply::reply).collect();
    // The names of a running script are in it only while one runs.
    let runs = |reply: &&&[u8]| contains(reply, b"duration_ms");
    let reply = match answers.iter().find(runs).or(answers.first()) {
        Some(reply) => reply.to_vec(),
        None => first_error(&replies),
    };
    operation.finish(&reply);
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Has the libraries that a primary lacks loaded, and forwards the call of a function then.
pub(in crate::proxy) async fn call_after_loading(operation: Operation, addr: HostPort) {
    load_libraries(&operation.worker, &operation.session.product, addr).await;
    operation.forward_own().await;
}

/// Has the libraries that a primary lacks loaded. If that fails, a call is tried all the same: the server may have the function, or
/// answers that it does not.
pub(in crate::proxy) async fn load_libraries(worker: &Worker, product: &ProductView, primary: HostPort) {
    let Some(link) = &worker.config.scripts else { return };
    let (reply, result) = oneshot::channel();
    let id = product.routes.borrow().id;
    let request = LibraryRequest { product: id, server: primary, reply };
    if link.libraries.try_send(request).is_ok()
        && let Ok(Ok(loaded)) = timeout(LIBRARIES_MAX, result).await
    {
        let process = product.scripts.process(&loaded.run_id.into());
        process.libraries.set(process.libraries.get().max(loaded.at));
    }
}
