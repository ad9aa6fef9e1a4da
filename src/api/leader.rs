//! Asks the leader for what only the leader knows, for the answer to a read.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::{Api, forward};
use crate::consensus::Leadership;

/// How long a read waits for the leader's part of the answer. An answer without that part says so.
pub(super) const ASK_LEADER_MAX: Duration = Duration::from_secs(2);

impl Api {
    /// Asks the leader, if that is another node and this call was not forwarded.
    /// `None`: no other node is to be asked. `Some(Err)`: why there is no answer, as text for the operator.
    pub(super) async fn ask_leader<T, F>(
        &self,
        forwarded: bool,
        ask: impl FnOnce(forward::Client) -> F,
    ) -> Option<Result<T, String>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let leadership = self.control.log.leadership().borrow().clone();
        if forwarded || leadership.is_me || leadership.leader == Some(self.control.me) {
            return None;
        }
        let Leadership { leader: Some(leader), leader_uuid: Some(uuid), leader_admin: Some(admin), .. } = leadership
        else {
            return Some(Err("no leader is known, so what nodes report is not known either".into()));
        };
        let answer = async {
            match tokio::time::timeout(
                ASK_LEADER_MAX,
                ask(self.leaders.client(&admin, self.control.log.header_for(leader, uuid))?),
            )
            .await
            {
                Ok(answer) => answer.map(Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded("no answer")),
            }
        };
        Some(answer.await.map_err(|status: Status| {
            format!("the leader (node {leader}, {admin}) did not say what nodes report: {}", status.message())
        }))
    }

    /// The leader's answer to the same request, to be passed on unchanged.
    ///
    /// # Errors
    /// Returns why the request must be answered here, as text for the operator; empty if this node is the one to ask.
    pub(super) async fn answer_of_leader<Q, T, F>(
        &self,
        forwarded: bool,
        request: Q,
        ask: impl FnOnce(forward::Client, Request<Q>) -> F,
    ) -> Result<Response<T>, String>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let request = forward::forwarded(request, ASK_LEADER_MAX);
        match self.ask_leader(forwarded, |client| ask(client, request)).await {
            Some(answer) => answer.map(Response::new),
            None => Err(String::new()),
        }
    }
}
