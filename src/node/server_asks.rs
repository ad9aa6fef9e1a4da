//! Records what clients have asked single servers (PONTOON ON) as an event of this node, with the client as its author.
//! Knows nothing of which commands those are.

use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    api::Api,
    model::author::Requester,
    proxy::ServerAsk,
    wire::pb::admin::{ChangeOptions, NodeNoteKind, NoteNodeRequest},
};

/// Reports that may wait: each product makes one in ten minutes.
pub const REPORTS_MAX: usize = 64;

/// Runs until the proxy has ended.
pub async fn run(api: Api, mut reports: mpsc::Receiver<ServerAsk>) {
    while let Some(ask) = reports.recv().await {
        let by = Requester {
            actor: format!("a client of product '{}'", ask.product),
            declared: String::new(),
            address: ask.client.to_string(),
            node: api.control.me,
        };
        let note = NoteNodeRequest {
            node: api.control.me.0,
            text: text(&ask),
            options: Some(ChangeOptions::default()),
            kind: NodeNoteKind::ServersAsked.into(),
        };
        if let Err(status) = api.change_for(by, note, false).await {
            warn!(product = ask.product, error = status.message(), "an event about PONTOON ON could not be written");
        }
    }
}

/// What the event says.
fn text(ask: &ServerAsk) -> String {
    let ServerAsk { product, client, server, command, count } = ask;
    let before = match count {
        1 => String::new(),
        n => format!(", the last of {n} commands since the event before"),
    };
    format!("the client {client} of product '{product}' sent {command} to {server} (PONTOON ON){before}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::HostPort;

    #[test]
    fn the_event_says_who_asked_which_server() {
        let ask = ServerAsk {
            product: "shop".into(),
            client: [10, 0, 0, 9].into(),
            server: HostPort::parse("10.0.0.1:6379").expect("an address"),
            command: "INFO".into(),
            count: 1,
        };
        assert_eq!(text(&ask), "the client 10.0.0.9 of product 'shop' sent INFO to 10.0.0.1:6379 (PONTOON ON)");
        assert!(text(&ServerAsk { count: 7, ..ask }).ends_with(", the last of 7 commands since the event before"));
    }
}
