//! Answers with the events of the replicated state.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Response, Status};

use super::Api;
use crate::{
    model::{
        event::{Event, EventKind, for_every_event_kind},
        ids::Epoch,
        state::ClusterState,
    },
    wire::pb::admin::{self, ListEventsReply, ListEventsRequest},
};

/// Longest wait for an event: shorter than the time after which proxies and clients consider a connection dead.
const WAIT_MAX: Duration = Duration::from_secs(30);

impl Api {
    /// The events after an entry. If there are none, waits for one for as long as the request says. Every node has all
    /// events.
    ///
    /// # Errors
    /// Never fails; the type is that of the service.
    pub async fn events(&self, request: &ListEventsRequest) -> Result<Response<ListEventsReply>, Status> {
        let after = Epoch(request.after);
        if request.wait_ms > 0 {
            let wait = Duration::from_millis(request.wait_ms.into()).min(WAIT_MAX);
            self.control.wait_event(after, Instant::now() + wait).await;
        }
        let state = self.state();
        let events = state.events.iter().filter(|event| event.index > after).map(|event| shown(&state, event));
        Ok(Response::new(ListEventsReply { events: events.collect() }))
    }
}

fn shown(state: &ClusterState, event: &Event) -> admin::Event {
    let present = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let Event { index, at_ms, kind, product, product_name, subject, text, .. } = event;
    let Event { actor, declared, address, node, before, after, .. } = event;
    admin::Event {
        index: index.0,
        at_ms: *at_ms,
        kind: shown_kind(*kind).into(),
        // An earlier version has not recorded the name.
        product: present(product_name).or_else(|| Some(state.products.get(&(*product)?)?.name.clone())),
        subject: subject.clone(),
        text: text.clone(),
        actor: present(actor),
        declared: present(declared),
        origin: present(address),
        node: node.map(|id| id.0),
        before: present(before),
        after: present(after),
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        const fn shown_kind(kind: EventKind) -> admin::EventKind {
            match kind {
                $(EventKind::$kind => admin::EventKind::$kind,)*
            }
        }
    };
}
for_every_event_kind!(kinds);
