//! The life of a changing call: options, who leads, propose, repeat under the same id, wait.
//! Knows nothing of the single changes; each is a [`MutationHandler`] in the file of its noun.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::{debug, info};

use super::{
    Api,
    error::{CallFailure, CallOutcome, verdict},
    forward::{self, Client},
    validate,
};
use crate::{
    model::{
        apply,
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

/// A proposal that takes longer has lost its quorum: the call probes for another leader and repeats it under its id.
const PROPOSE_MAX: Duration = Duration::from_secs(3);
/// Between two attempts when nothing tells that another one is worth it.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a node waits until it has itself applied what the leader made, so that its next answers show it.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What every changing call has.
#[derive(Clone, Copy, Debug)]
pub struct MutationCall {
    /// Its change id.
    pub id: Uuid,
    /// Hash of the request without its options: a repeat under the same id has the same.
    pub request_hash: u64,
    /// Nothing is to happen.
    pub dry_run: bool,
    /// Wait for all live nodes.
    pub wait: bool,
    /// When to give up.
    pub deadline: Instant,
}

impl MutationCall {
    /// Time left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Where an earlier attempt stands in the log, and what came of it.
pub type RecordedChange = (Epoch, Result<Outcome, Reject>);

/// A request message that changes something.
pub trait MutationHandler: prost::Message + Clone + 'static {
    /// Name of its call.
    const CALL: &'static str;
    /// Its options.
    fn options(&mut self) -> &mut Option<ChangeOptions>;
    /// Its call at another node.
    fn send(
        client: Client,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<ChangeReply>, Status>> + Send;
    /// Does it, on the leader.
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

impl Api {
    /// Runs a changing call: here if this node leads, else at the leader, and again while leaders change.
    ///
    /// # Errors
    /// The status of the first answer that is one; UNAVAILABLE when surely nothing was executed, UNKNOWN when perhaps.
    pub async fn change<M: MutationHandler>(&self, request: Request<M>) -> Result<Response<ChangeReply>, Status> {
        let once = forward::was_forwarded(&request);
        let mut message = request.into_inner();
        let options = message.options().take().unwrap_or_default();
        let request_hash = request_hash(M::CALL, &message.encode_to_vec());
        let call = MutationCall { request_hash, ..validate::options(&options)? };
        let options = message.options().insert(options);
        options.change_id = call.id.0.to_be_bytes().to_vec().into();

        let mut leadership = self.control.log.leadership();
        // Why an attempt may have been executed; told rather than what came after it.
        let mut perhaps: Option<String> = None;
        let mut last;
        loop {
            let who = leadership.borrow_and_update().clone();
            if who.is_me {
                match message.perform(self, &call).await {
                    Ok(reply) => return Ok(Response::new(reply)),
                    Err(failure) if failure.again() && !once => {
                        last = failure.to_string();
                        if matches!(failure, CallFailure::Unknown(_)) {
                            perhaps = Some(last.clone());
                        }
                    }
                    Err(failure) => return Err(failure.into()),
                }
            } else if once {
                return Err(CallFailure::NotLeader(format!(
                    "node {} is not the leader; not executed",
                    self.control.me
                ))
                .into());
            } else if let (Some(leader), Some(admin)) = (who.leader, who.leader_admin.as_deref())
                && leader != self.control.me
            {
                match self.forward(message.clone(), &call, leader, admin).await {
                    Ok(reply) => {
                        self.catch_up(Epoch(reply.index)).await;
                        return Ok(Response::new(reply));
                    }
                    Err(status) => match verdict(&status) {
                        CallOutcome::Final => return Err(status),
                        is => {
                            last = format!("node {leader} ({admin}): {}", status.message());
                            if is == CallOutcome::Perhaps {
                                perhaps = Some(last.clone());
                            }
                            debug!(%leader, admin, change = %call.id, error = status.message(), "a forwarded change has no answer yet");
                        }
                    },
                }
            } else {
                last = "no leader is known (fewer than half of the voters are there, or an election goes on)".into();
            }
            if Instant::now() >= call.deadline {
                let id = call.id;
                return Err(match perhaps {
                    Some(why) => CallFailure::Unknown(format!(
                        "outcome unknown ({why}; now: {last}); repeat it under the same change id ({id}) to learn it"
                    )),
                    None => CallFailure::NotLeader(format!("not executed: {last}")),
                }
                .into());
            }
            let next = call.deadline.min(Instant::now() + AGAIN);
            let _ = tokio::time::timeout_at(next, leadership.changed()).await;
        }
    }

    /// One attempt at another node; given up early when it is no longer the leader.
    async fn forward<M: MutationHandler>(
        &self,
        mut message: M,
        call: &MutationCall,
        leader: NodeId,
        admin: &str,
    ) -> Result<ChangeReply, Status> {
        let left = call.left();
        if let Some(options) = message.options() {
            options.timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        }
        let client = self.leaders.client(admin)?;
        // The leader ends by itself at the deadline and says how it stands; this is for one that does not answer.
        let answer = M::send(client, forward::forwarded(message, left + AGAIN));
        let mut leadership = self.control.log.leadership();
        let other = leadership.wait_for(|now| now.leader.is_some_and(|id| id != leader));
        tokio::select! {
            biased;
            answer = answer => answer.map(Response::into_inner),
            Ok(_) = other => Err(Status::unknown("it is not the leader any more")),
            () = tokio::time::sleep(left + AGAIN) => Err(Status::unknown("no answer in time")),
        }
    }

    async fn catch_up(&self, index: Epoch) {
        let _ = self.control.wait_applied(index, Instant::now() + CATCH_UP).await;
    }

    /// Newest state here.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.control.log.state().borrow().clone()
    }

    /// The result of an earlier attempt under this id. Calls that ask servers first check here, so that a repeat does not ask
    /// them again.
    ///
    /// # Errors
    /// The id belongs to another request.
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
    /// Why it would be refused.
    pub fn dry_run(&self, change: &Change, warnings: Vec<String>) -> Result<ChangeReply, CallFailure> {
        let done = apply::dry_run(&self.state(), change)?;
        Ok(ChangeReply { unchanged: done.is_empty(), done, warnings, ..ChangeReply::default() })
    }

    /// Proposes a change here.
    ///
    /// # Errors
    /// Its refusal, or why there is no answer.
    pub async fn propose(&self, call: &MutationCall, change: Change) -> Result<(Epoch, Outcome), CallFailure> {
        let applied =
            self.control.log.propose(call.id, call.request_hash, change, call.left().min(PROPOSE_MAX)).await?;
        let outcome = applied.result?;
        info!(change = %call.id, index = %applied.index, ?outcome, "a change was made");
        Ok((applied.index, outcome))
    }

    /// Dry run, or propose and wait: all that most changes need. `said` is told when something changed.
    ///
    /// # Errors
    /// As [`Api::propose`]; with `wait` also what is missing at the deadline.
    pub async fn make(
        &self,
        call: &MutationCall,
        change: Change,
        said: ChangeSummary,
    ) -> Result<ChangeReply, CallFailure> {
        if call.dry_run {
            return self.dry_run(&change, said.warnings);
        }
        let (index, outcome) = self.propose(call, change).await?;
        self.conclude(call, index, outcome == Outcome::Unchanged, said).await
    }

    /// The reply to a change that was made; waits first, if asked to.
    ///
    /// # Errors
    /// With `wait`: what is missing at the deadline, or which port cannot be bound.
    pub async fn conclude(
        &self,
        call: &MutationCall,
        index: Epoch,
        unchanged: bool,
        said: ChangeSummary,
    ) -> Result<ChangeReply, CallFailure> {
        let ChangeSummary { done, mut warnings, product } = said;
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

/// What is told of a change.
#[derive(Clone, Debug, Default)]
pub struct ChangeSummary {
    /// What was done, a sentence each.
    pub done: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// The product it is about; its ports are waited for.
    pub product: Option<String>,
}

impl ChangeSummary {
    /// One sentence, about no product.
    #[must_use]
    pub fn of(done: String) -> Self {
        Self { done: vec![done], ..Self::default() }
    }

    /// About a product.
    #[must_use]
    pub fn about(mut self, product: &str) -> Self {
        self.product = Some(product.to_owned());
        self
    }
}

/// The product of this name.
///
/// # Errors
/// A sentence when the name is empty or there is none.
pub fn product<'a>(state: &'a ClusterState, name: &str) -> Result<&'a Product, CallFailure> {
    if name.is_empty() {
        return Err(CallFailure::Bad("name a product (--product NAME; there is one called 'default')".into()));
    }
    state.products.values().find(|product| product.name == name).ok_or_else(|| {
        CallFailure::NotFound(format!(
            "there is no product '{}'; `pontoon product ls` shows all",
            validate::quote(name)
        ))
    })
}

/// The id of the product of this name, for a change.
///
/// # Errors
/// As [`product`], as a refusal.
pub fn product_id(state: &ClusterState, name: &str) -> Result<ProductId, CallFailure> {
    product(state, name).map(|product| product.id).map_err(refused)
}

/// In a change, what does not exist is a refusal (proto/admin.proto, ChangeReply).
#[must_use]
pub fn refused(failure: CallFailure) -> CallFailure {
    match failure {
        CallFailure::NotFound(text) => CallFailure::Refused(text),
        other => other,
    }
}
