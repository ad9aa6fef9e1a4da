//! Executes a changing call: find the leader, propose, repeat under the same id, wait.
//! Knows nothing of the single changes; each is a [`MutationHandler`] in the file of its noun.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::{debug, info};

use super::{
    Api,
    call::MutationCall,
    error::{CallFailure, CallOutcome, quote, verdict},
    forward::{self, Client},
    origin,
};
use crate::{
    faults,
    model::{
        apply,
        author::{Author, Requester},
        change::Change,
        ids::{Epoch, NodeId, ProductId, Uuid},
        outcome::Outcome,
        reject::Reject,
        state::{ClusterState, Product},
    },
    wire::{
        hash::request_hash,
        pb::admin::{ChangeOptions, ChangeReply},
    },
};

/// The leader of a proposal that takes longer has lost its quorum: the call finds the new leader and repeats under its
/// id.
const PROPOSE_MAX: Duration = Duration::from_secs(3);
/// Pause between two tries, unless the leadership changes earlier.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long a node waits until it has applied the change itself, so that its next answers show the change.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Log index and result of an earlier call under the same id.
pub type RecordedChange = (Epoch, Result<Outcome, Reject>);

/// A request message that changes something.
pub trait MutationHandler: prost::Message + Clone + 'static {
    /// Name of its call.
    const CALL: &'static str;
    /// The options of the request.
    fn options(&mut self) -> &mut Option<ChangeOptions>;
    /// Sends the request to another node.
    fn send(
        client: Client,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<ChangeReply>, Status>> + Send;
    /// Executes it, on the leader.
    fn perform(&self, api: &Api, call: &MutationCall) -> impl Future<Output = Result<ChangeReply, CallFailure>> + Send;
}

/// The part of [`MutationHandler`] that is the same for all messages.
macro_rules! forwardable {
    ($rpc:ident) => {
        const CALL: &'static str = stringify!($rpc);

        fn options(&mut self) -> &mut Option<$crate::wire::pb::admin::ChangeOptions> {
            &mut self.options
        }

        async fn send(
            mut client: $crate::api::forward::Client,
            request: tonic::Request<Self>,
        ) -> Result<tonic::Response<$crate::wire::pb::admin::ChangeReply>, tonic::Status> {
            client.$rpc(request).await
        }
    };
}
pub(super) use forwardable;

/// How the text of an unknown outcome begins; what is in parts of it, it says once.
const OUTCOME_UNKNOWN: &str = "outcome unknown: ";

/// Why the outcome of a change is unknown, and the id under which logs have it, and a program may repeat it. `last`: what the
/// newest attempt says.
fn outcome_unknown(why: &str, last: &str, id: Uuid) -> String {
    let now = if last == why { String::new() } else { format!("; now: {last}") };
    format!("{OUTCOME_UNKNOWN}{} (change id {id})", format!("{why}{now}").replace(OUTCOME_UNKNOWN, ""))
}

impl Api {
    /// Executes a changing call: here if this node leads, else at the leader; repeats it while the leader changes.
    ///
    /// # Errors
    /// The status of the first final answer. At the deadline: UNAVAILABLE if nothing was executed, UNKNOWN if the
    /// change may have been executed.
    pub async fn change<M: MutationHandler>(&self, request: Request<M>) -> Result<Response<ChangeReply>, Status> {
        faults::panic_if_asked("admin-call");
        let forwarded = forward::was_forwarded(&request);
        let by = self.requester(&request);
        self.change_for(by, request.into_inner(), forwarded).await
    }

    /// As [`Api::change`], for a request that `by` has made and that another node has forwarded, or not.
    ///
    /// # Errors
    /// As [`Api::change`].
    pub async fn change_for<M: MutationHandler>(
        &self,
        by: Requester,
        mut message: M,
        forwarded: bool,
    ) -> Result<Response<ChangeReply>, Status> {
        let options = message.options().take().unwrap_or_default();
        let request_hash = request_hash(M::CALL, &message.encode_to_vec());
        let call = MutationCall::new(&options, request_hash, by)?;
        let options = message.options().insert(options);
        options.change_id = call.id.0.to_be_bytes().to_vec().into();

        let mut leadership = self.control.log.leadership();
        // Why the change may have been executed. It is reported in preference to later failures.
        let mut unknown: Option<String> = None;
        let mut last;
        loop {
            let known = leadership.borrow_and_update().clone();
            if known.is_me {
                match message.perform(self, &call).await {
                    Ok(reply) => return Ok(Response::new(reply)),
                    Err(failure) if failure.is_retryable() && !forwarded => {
                        last = failure.to_string();
                        if matches!(failure, CallFailure::Unknown(_)) {
                            unknown = Some(last.clone());
                        }
                    }
                    Err(failure) => return Err(failure.into()),
                }
            } else if forwarded {
                return Err(CallFailure::NotLeader(format!(
                    "node {} is not the leader; not executed",
                    self.control.me
                ))
                .into());
            } else if let (Some(leader), Some(uuid), Some(admin)) =
                (known.leader, known.leader_uuid, known.leader_admin.as_deref())
                && leader != self.control.me
            {
                match self.forward(message.clone(), &call, (leader, uuid), admin).await {
                    Ok(reply) => {
                        self.catch_up(Epoch(reply.index)).await;
                        return Ok(Response::new(reply));
                    }
                    Err(status) => match verdict(&status) {
                        CallOutcome::Final => return Err(status),
                        is => {
                            last = format!("node {leader} ({admin}): {}", status.message());
                            if is == CallOutcome::Unknown {
                                unknown = Some(last.clone());
                            }
                            debug!(%leader, admin, change = %call.id, error = status.message(), "a forwarded change has no answer yet");
                        }
                    },
                }
            } else {
                last = "no leader is known (no majority of the voters is reachable, or an election is running)".into();
            }
            if Instant::now() >= call.deadline {
                let id = call.id;
                return Err(match unknown {
                    Some(why) => CallFailure::Unknown(outcome_unknown(&why, &last, id)),
                    None => CallFailure::NotLeader(format!("not executed: {last}")),
                }
                .into());
            }
            let next = call.deadline.min(Instant::now() + RETRY_INTERVAL);
            let _ = tokio::time::timeout_at(next, leadership.changed()).await;
        }
    }

    /// Sends the request to another node once. Gives up early when that node is no longer the leader.
    async fn forward<M: MutationHandler>(
        &self,
        mut message: M,
        call: &MutationCall,
        (leader, uuid): (NodeId, Uuid),
        admin: &str,
    ) -> Result<ChangeReply, Status> {
        let left = call.left();
        if let Some(options) = message.options() {
            options.timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        }
        let client = self.leaders.client(admin, self.control.log.header_for(leader, uuid))?;
        // The leader answers at the deadline with the reason. The longer timeout is for a leader that does not answer
        // at all.
        let mut forwarded = forward::forwarded(message, left + RETRY_INTERVAL);
        origin::pass_on(&mut forwarded, &call.by);
        let answer = M::send(client, forwarded);
        let mut leadership = self.control.log.leadership();
        let other = leadership.wait_for(|now| now.leader.is_some_and(|id| id != leader));
        tokio::select! {
            biased;
            answer = answer => answer.map(Response::into_inner),
            Ok(_) = other => Err(Status::unknown("it is no longer the leader")),
            () = tokio::time::sleep(left + RETRY_INTERVAL) => Err(Status::unknown("no answer in time")),
        }
    }

    async fn catch_up(&self, index: Epoch) {
        let _ = self.control.wait_applied(index, Instant::now() + CATCH_UP).await;
    }

    /// The newest state that this node has applied.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.control.log.state().borrow().clone()
    }

    /// The result of an earlier call under the same id. Calls that probe servers check this first: a repeat probes no
    /// server.
    ///
    /// # Errors
    /// [`CallFailure::Refused`] if the id belongs to another request, see [`Reject::ChangeIdReused`].
    pub fn recorded(&self, call: &MutationCall) -> Result<Option<RecordedChange>, CallFailure> {
        if call.dry_run {
            return Ok(None);
        }
        let state = self.state();
        let Some(first) = state.results.get(&call.id) else { return Ok(None) };
        if first.request_hash != call.request_hash {
            return Err(Reject::ChangeIdReused { id: call.id, first: first.index }.into());
        }
        Ok(Some((first.index, first.outcome.clone())))
    }

    /// What a change would do.
    ///
    /// # Errors
    /// [`CallFailure::Refused`] with the reason if the log would reject it.
    pub fn dry_run(&self, change: &Change, warnings: Vec<String>) -> Result<ChangeReply, CallFailure> {
        let done = apply::dry_run(&self.state(), change)?;
        Ok(ChangeReply { unchanged: done.is_empty(), done, warnings, ..ChangeReply::default() })
    }

    /// Proposes a change on this node.
    ///
    /// # Errors
    /// [`CallFailure::Refused`] if the log rejects it, [`CallFailure::NotLeader`] if this node does not lead (not
    /// executed), [`CallFailure::Unknown`] if the outcome is unknown, [`CallFailure::Bad`] if the entry is too large.
    pub async fn propose(&self, call: &MutationCall, change: Change) -> Result<(Epoch, Outcome), CallFailure> {
        let within = call.left().min(PROPOSE_MAX);
        let author = Author::Request(call.by.clone());
        let name = change.name();
        let applied = self.control.log.propose(call.id, call.request_hash, author, change, within).await?;
        let outcome = applied.result?;
        let Requester { actor, declared, address, node } = &call.by;
        info!(
            change = %call.id, index = %applied.index, name, ?outcome, actor, declared, address, received_by = %node,
            "a change was made"
        );
        Ok((applied.index, outcome))
    }

    /// Dry run, or propose and wait: all that most changes need. `summary` is returned if something changed.
    ///
    /// # Errors
    /// As [`Api::dry_run`], [`Api::propose`] and [`Api::conclude`].
    pub async fn make(
        &self,
        call: &MutationCall,
        change: Change,
        summary: ChangeSummary,
    ) -> Result<ChangeReply, CallFailure> {
        if call.dry_run {
            return self.dry_run(&change, summary.warnings);
        }
        let (index, outcome) = self.propose(call, change).await?;
        self.conclude(call, index, outcome == Outcome::Unchanged, summary).await
    }

    /// The reply to a change that was made. With `wait`, first waits until every live node serves by it.
    ///
    /// # Errors
    /// [`CallFailure::Deadline`] with what is missing at the deadline, [`CallFailure::Stuck`] if a port cannot be
    /// bound, [`CallFailure::Unknown`] if the leader changed meanwhile.
    pub async fn conclude(
        &self,
        call: &MutationCall,
        index: Epoch,
        unchanged: bool,
        summary: ChangeSummary,
    ) -> Result<ChangeReply, CallFailure> {
        let ChangeSummary { done, mut warnings, product } = summary;
        let state = self.state();
        if call.wait {
            let product = product.and_then(|name| state.products.values().find(|p| p.name == name)).map(|p| p.id);
            warnings.extend(self.control.wait_epoch(state.route_epoch, product, call.deadline).await?);
        }
        let done = if unchanged { vec!["nothing had to change".to_owned()] } else { done };
        Ok(ChangeReply {
            index: index.0,
            route_epoch: state.route_epoch.0,
            done,
            warnings,
            unchanged,
            ..ChangeReply::default()
        })
    }
}

impl Api {
    /// The reply to a change that finds what it wants; with `wait`, first waits as for a change. `what`: how it is.
    ///
    /// # Errors
    /// As [`Api::conclude`].
    pub async fn already(&self, call: &MutationCall, what: String) -> Result<ChangeReply, CallFailure> {
        let done = format!("{what}; nothing had to change");
        if call.dry_run {
            return Ok(ChangeReply { unchanged: true, done: vec![done], ..ChangeReply::default() });
        }
        let reply = self.conclude(call, Epoch(0), false, ChangeSummary::of(done)).await?;
        Ok(ChangeReply { unchanged: true, ..reply })
    }
}

/// What a reply says about a change.
#[derive(Clone, Debug, Default)]
pub struct ChangeSummary {
    /// What was done, one sentence each.
    pub done: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// The product it is about; its ports are waited for.
    pub product: Option<String>,
}

impl ChangeSummary {
    /// One sentence that is about no product.
    #[must_use]
    pub fn of(done: String) -> Self {
        Self { done: vec![done], ..Self::default() }
    }

    /// Names the product that the change is about.
    #[must_use]
    pub fn about(mut self, product: &str) -> Self {
        self.product = Some(product.to_owned());
        self
    }
}

/// The product of this name.
///
/// # Errors
/// [`CallFailure::Bad`] if the name is empty, [`CallFailure::NotFound`] if there is no such product.
pub fn product<'a>(state: &'a ClusterState, name: &str) -> Result<&'a Product, CallFailure> {
    if name.is_empty() {
        return Err(CallFailure::Bad("name a product (--product NAME; there is one called 'default')".into()));
    }
    state.products.values().find(|product| product.name == name).ok_or_else(|| {
        CallFailure::NotFound(format!("there is no product '{}'; `pontoon product ls` shows all", quote(name)))
    })
}

/// The id of the product of this name, for a change.
///
/// # Errors
/// As [`product`].
pub fn product_id(state: &ClusterState, name: &str) -> Result<ProductId, CallFailure> {
    product(state, name).map(|product| product.id)
}

/// What a change of maintenance means, for the whole cluster or a group.
#[must_use]
pub fn maintenance(on: bool, whose: &str) -> String {
    if on {
        format!("maintenance is on in {whose}: no automatic failover and no replication reconciliation until it is off")
    } else {
        format!("maintenance is off in {whose}")
    }
}
