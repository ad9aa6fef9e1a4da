//! Answers with the events of the replicated state.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Response, Status};

use super::Api;
use crate::{
    model::{
        event::{Event, EventKind},
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
    let product = event.product.and_then(|id| state.products.get(&id));
    admin::Event {
        index: event.index.0,
        at_ms: event.at_ms,
        kind: kind(event.kind).into(),
        product: product.map(|product| product.name.clone()),
        subject: event.subject.clone(),
        text: event.text.clone(),
    }
}

const fn kind(kind: EventKind) -> admin::EventKind {
    match kind {
        EventKind::Planned => admin::EventKind::Planned,
        EventKind::Started => admin::EventKind::Started,
        EventKind::Copying => admin::EventKind::Copying,
        EventKind::CaughtUp => admin::EventKind::CaughtUp,
        EventKind::Verified => admin::EventKind::Verified,
        EventKind::Held => admin::EventKind::Held,
        EventKind::Released => admin::EventKind::Released,
        EventKind::Switched => admin::EventKind::Switched,
        EventKind::Restarted => admin::EventKind::Restarted,
        EventKind::Cancelling => admin::EventKind::Cancelling,
        EventKind::Paused => admin::EventKind::Paused,
        EventKind::Resumed => admin::EventKind::Resumed,
        EventKind::LimitsSet => admin::EventKind::LimitsSet,
        EventKind::RunStarted => admin::EventKind::RunStarted,
        EventKind::Done => admin::EventKind::Done,
        EventKind::Cancelled => admin::EventKind::Cancelled,
        EventKind::SweepEnded => admin::EventKind::SweepEnded,
        EventKind::Swept => admin::EventKind::Swept,
        EventKind::PromotionStarted => admin::EventKind::PromotionStarted,
        EventKind::PromotionHeld => admin::EventKind::PromotionHeld,
        EventKind::PromotionReleased => admin::EventKind::PromotionReleased,
        EventKind::Promoted => admin::EventKind::Promoted,
        EventKind::PromotionGivenUp => admin::EventKind::PromotionGivenUp,
        EventKind::PrimaryNoted => admin::EventKind::PrimaryNoted,
        EventKind::Resynced => admin::EventKind::Resynced,
        EventKind::MaintenanceOn => admin::EventKind::MaintenanceOn,
        EventKind::MaintenanceOff => admin::EventKind::MaintenanceOff,
        EventKind::Ejected => admin::EventKind::Ejected,
        EventKind::Reinstated => admin::EventKind::Reinstated,
        EventKind::Reconciled => admin::EventKind::Reconciled,
        EventKind::FailoverHeldBack => admin::EventKind::FailoverHeldBack,
        EventKind::ScriptEnded => admin::EventKind::ScriptEnded,
        EventKind::WritesRefused => admin::EventKind::WritesRefused,
        EventKind::ClientsClosed => admin::EventKind::ClientsClosed,
        EventKind::NotFailedOver => admin::EventKind::NotFailedOver,
    }
}
