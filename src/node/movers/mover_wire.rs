//! Runs, reports and authorizations between this node's types and node.proto.
//! Knows nothing of how they are sent.

use crate::{
    control::{servers::authorizer::AuthorizationRequest, slots::job::job_to_wire},
    model::{
        ids::{GroupId, HoldId, HostPort, MigrationId, NodeId, ProductId},
        migration::{ConnectionId, Counters, Job, Verified},
    },
    mover,
    plan::{
        authorization::CONNECTIONS_MAX,
        mover::{MoverState, MoverView},
    },
    wire::pb::node as pb,
};

/// Longest text of a mover that is accepted, in characters.
const TEXT_MAX: usize = 500;

/// The job that a message about a run names.
///
/// # Errors
/// The message names none.
pub fn job(job: Option<pb::Job>) -> Result<Job, String> {
    let job = job.ok_or("no job is named")?;
    Ok(match job.migration {
        0 => Job::Sweep { product: ProductId(job.product), group: GroupId(job.group) },
        id => Job::Migration(MigrationId(id)),
    })
}

/// A request for authorization.
///
/// # Errors
/// Returns which part of the request is wrong, as text for the operator.
pub fn authorization_request(request: pb::AuthorizeRequest) -> Result<AuthorizationRequest, String> {
    if request.connections.len() > CONNECTIONS_MAX {
        return Err(format!("a run has more than {CONNECTIONS_MAX} connections"));
    }
    let connection = |c: pb::ConnectionId| {
        Ok::<_, String>(ConnectionId { server: HostPort::parse(&c.server)?, client_id: c.client_id })
    };
    Ok(AuthorizationRequest {
        job: job(request.job)?,
        run: request.run,
        node: NodeId(request.node),
        connections: request.connections.into_iter().map(connection).collect::<Result<_, _>>()?,
    })
}

/// A request for the authorization of a mover's connections.
#[must_use]
pub fn authorize_request(job: Job, run: u32, node: NodeId, connections: Vec<ConnectionId>) -> pb::AuthorizeRequest {
    let connection = |c: ConnectionId| pb::ConnectionId { server: c.server.to_string(), client_id: c.client_id };
    pb::AuthorizeRequest {
        job: Some(job_to_wire(job)),
        run,
        node: node.0,
        connections: connections.into_iter().map(connection).collect(),
    }
}

/// The report of a run that this node cannot execute.
#[must_use]
pub fn failed(job: Job, run: u32, why: &str) -> pb::MoverReport {
    pb::MoverReport {
        job: Some(job_to_wire(job)),
        run,
        work: pb::MoverState::Failed.into(),
        failed: why.to_owned(),
        ..pb::MoverReport::default()
    }
}

/// A mover's report, for a heartbeat.
#[must_use]
pub fn report(job: Job, run: u32, report: &mover::Report) -> pb::MoverReport {
    use mover::State;
    let (work, hold, failed) = match &report.state {
        State::Opening => (pb::MoverState::Opening, 0, ""),
        State::CleaningTarget => (pb::MoverState::CleaningTarget, 0, ""),
        State::Copying => (pb::MoverState::Copying, 0, ""),
        State::Verifying => (pb::MoverState::Verifying, 0, ""),
        State::CaughtUp => (pb::MoverState::CaughtUp, 0, ""),
        State::Finishing(hold) => (pb::MoverState::Finishing, hold.0, ""),
        State::Finished(hold) => (pb::MoverState::Finished, hold.0, ""),
        State::Cleaning => (pb::MoverState::Cleaning, 0, ""),
        State::Cleaned => (pb::MoverState::Cleaned, 0, ""),
        State::Failed(why) => (pb::MoverState::Failed, 0, why.as_str()),
    };
    let Counters { scanned, keys, bytes, refetched, deleted, .. } = report.counters;
    let verified = report.verified.unwrap_or_default();
    pb::MoverReport {
        job: Some(job_to_wire(job)),
        run,
        work: work.into(),
        hold,
        failed: failed.to_owned(),
        scanned,
        keys,
        bytes,
        refetched,
        deleted,
        dirty: report.dirty,
        keys_total: report.keys_total,
        keys_per_second: report.keys_per_second,
        lag_bytes: report.lag_bytes,
        queue_ms: report.queue_ms,
        waiting_on: report.waiting_on.clone(),
        verified: report.verified.is_some(),
        verified_keys: verified.keys,
        verified_different: verified.different,
        write_contended: report.write_contended.clone(),
    }
}

/// The report of a run from a heartbeat. Node and incarnation are those of the heartbeat; the caller fills them in.
///
/// # Errors
/// Returns which part of the report is wrong, as text for the operator.
pub fn view(report: pb::MoverReport) -> Result<(Job, MoverView), String> {
    let text = |text: String| text.chars().take(TEXT_MAX).collect::<String>();
    let hold = HoldId(report.hold);
    let work = match report.work() {
        pb::MoverState::Opening => MoverState::Opening,
        pb::MoverState::CleaningTarget => MoverState::CleaningTarget,
        pb::MoverState::Copying => MoverState::Copying,
        pb::MoverState::Verifying => MoverState::Verifying,
        pb::MoverState::CaughtUp => MoverState::CaughtUp,
        pb::MoverState::Finishing => MoverState::Finishing(hold),
        pb::MoverState::Finished => MoverState::Finished(hold),
        pb::MoverState::Cleaning => MoverState::Cleaning,
        pb::MoverState::Cleaned => MoverState::Cleaned,
        pb::MoverState::Failed => MoverState::Failed(text(report.failed)),
    };
    let verified = Verified { keys: report.verified_keys, different: report.verified_different };
    let counters = Counters {
        scanned: report.scanned,
        keys: report.keys,
        bytes: report.bytes,
        refetched: report.refetched,
        deleted: report.deleted,
        // What a run that cleans deletes is counted when it is done.
        cleaned: 0,
        dirty: report.dirty,
    };
    let view = MoverView {
        run: report.run,
        work,
        counters,
        keys_total: report.keys_total,
        keys_per_second: report.keys_per_second,
        lag_bytes: report.lag_bytes,
        queue_ms: report.queue_ms,
        waiting_on: text(report.waiting_on),
        verified: report.verified.then_some(verified),
        write_contended: report.write_contended.into_iter().take(mover::Report::CONTENDED_MAX).map(text).collect(),
        ..MoverView::default()
    };
    Ok((job(report.job)?, view))
}
