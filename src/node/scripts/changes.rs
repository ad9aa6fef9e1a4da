//! Passes changes of script catalogues on to the leader, each with the client that asks for it as its author.
//! Decides nothing: the leader does.

use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Code, Status};
use tracing::{debug, info};

use crate::{
    api::{
        Api,
        error::{CallOutcome, verdict},
    },
    model::{author::Requester, ids::Epoch},
    panics,
    proxy::{ScriptChange, ScriptRequest, ScriptsChanged},
    wire::pb::admin::{
        ChangeOptions, ChangeReply, ChangeScriptsRequest, LoadLibrary, RestoreLibraries, change_scripts_request::What,
    },
};

/// Changes that are made at the same time. The leader makes those of libraries one by one.
const CONCURRENT_MAX: usize = 64;

/// How long a change may take, milliseconds: an election takes about a second, and a server that does not answer three.
const CHANGE_MS_MAX: u32 = 10_000;

/// Runs until the proxy has ended.
pub async fn run(api: Api, mut requests: mpsc::Receiver<ScriptRequest>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            request = requests.recv(), if tasks.len() < CONCURRENT_MAX => {
                let Some(request) = request else { return };
                tasks.spawn(make(api.clone(), request));
            }
            Some(ended) = tasks.join_next() => {
                panics::pass_on(ended);
            }
        }
    }
}

async fn make(api: Api, request: ScriptRequest) {
    let ScriptRequest { product, change, client, reply } = request;
    let name = api.state().products.get(&product).map_or_else(String::new, |product| product.name.clone());
    let by = Requester {
        actor: format!("a client of product '{name}'"),
        declared: String::new(),
        address: client.to_string(),
        node: api.control.me,
    };
    let options = Some(ChangeOptions { timeout_ms: CHANGE_MS_MAX, ..ChangeOptions::default() });
    let message = ChangeScriptsRequest { product: product.0, what: Some(what(change)), options };
    let result = api.change_for(by, message, false).await;
    if let Err(status) = &result {
        info!(%client, product = name, error = status.message(), "a change of scripts or functions failed");
    }
    let result = result.map(|reply| changed(reply.into_inner())).map_err(|status| text(&status));
    if reply.send(result).is_err() {
        debug!(%client, "the client that wanted a change of scripts or functions is gone");
    }
}

fn what(change: ScriptChange) -> What {
    match change {
        ScriptChange::LoadScript(body) => What::LoadScript(body),
        ScriptChange::FlushScripts => What::FlushScripts(true),
        ScriptChange::LoadLibrary { code, replace } => What::LoadLibrary(LoadLibrary { code, replace }),
        ScriptChange::DeleteLibrary(name) => What::DeleteLibrary(name),
        ScriptChange::FlushLibraries => What::FlushLibraries(true),
        ScriptChange::RestoreLibraries { payload, policy } => {
            What::RestoreLibraries(RestoreLibraries { payload, policy })
        }
    }
}

fn changed(reply: ChangeReply) -> ScriptsChanged {
    ScriptsChanged {
        at: if reply.unchanged { Epoch(0) } else { Epoch(reply.index) },
        library: reply.done.into_iter().next(),
        partial: reply.warnings.into_iter().next(),
    }
}

/// The error for the client. What other nodes and their addresses have to do with it is not for clients.
fn text(status: &Status) -> String {
    match (verdict(status), status.code()) {
        (CallOutcome::Final, Code::FailedPrecondition | Code::InvalidArgument) => {
            let message = status.message();
            if begins_with_code(message) { message.to_owned() } else { format!("ERR not recorded: {message}") }
        }
        (CallOutcome::NotExecuted, _) => {
            "TRYAGAIN not executed: the cluster has no leader now that could record it".to_owned()
        }
        (CallOutcome::Final | CallOutcome::Unknown, _) => {
            "TRYAGAIN it is not known whether it was recorded; it is safe to repeat".to_owned()
        }
    }
}

/// Whether a text is an error as Redis words them: `ERR ...`, `OOM ...`.
fn begins_with_code(text: &str) -> bool {
    text.split_once(' ').is_some_and(|(code, _)| code.len() > 1 && code.bytes().all(|c| c.is_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_errors_of_servers_and_nothing_about_nodes() {
        for (status, want) in [
            (Status::failed_precondition("ERR Library not found"), "ERR Library not found"),
            (Status::failed_precondition("a script is too long"), "ERR not recorded: a script is too long"),
            (Status::invalid_argument("A script"), "ERR not recorded: A script"),
            (
                Status::unavailable("node 2 (10.0.0.2:19101): gone"),
                "TRYAGAIN it is not known whether it was recorded; it is safe to repeat",
            ),
        ] {
            assert_eq!(text(&status), want);
        }
    }

    #[test]
    fn what_was_so_already_is_not_waited_for() {
        let reply = ChangeReply { index: 7, warnings: vec!["w".into()], ..ChangeReply::default() };
        let partial = Some("w".to_owned());
        assert_eq!(changed(reply.clone()), ScriptsChanged { at: Epoch(7), library: None, partial: partial.clone() });
        let unchanged = ChangeReply { unchanged: true, ..reply };
        assert_eq!(changed(unchanged), ScriptsChanged { at: Epoch(0), library: None, partial });
    }
}
