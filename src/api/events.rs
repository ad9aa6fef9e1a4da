//! What happened: the events of the replicated state.
//! Knows nothing of how they came to be.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Response, Status};

use super::Api;
use crate::{
    model::{event::Event, ids::Epoch, state::ClusterState},
    wire::pb::admin::{self, ListEventsReply, ListEventsRequest},
};

/// Longest wait for news: below what proxies and clients take for a dead connection.
const WAIT_MAX: Duration = Duration::from_secs(30);

impl Api {
    /// The events after an entry; where there are none, waits for one if asked to. Any node has them.
    ///
    /// # Errors
    /// None.
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
    let product = event.product.and_then(|id| state.products.get(&id));
    admin::Event {
        index: event.index.0,
        at_ms: event.at_ms,
        kind: event.kind.name().to_owned(),
        product: product.map(|product| product.name.clone()).unwrap_or_default(),
        subject: event.subject.clone(),
        text: event.text.clone(),
    }
}
