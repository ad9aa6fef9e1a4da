//! The Redis clients of all nodes: listed, and closed. The node that is asked asks all others, each for its own. The clients
//! that were closed are recorded as an event of their node. Knows nothing of connections.

use std::time::Duration;

use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use super::{Api, error::CallFailure, forward, leader::ASK_LEADER_MAX, origin};
use crate::{
    model::{author::Requester, ids::NodeId},
    proxy::{self, ClientCondition, ClientView},
    wire::pb::admin::{
        ChangeOptions, Client, ClientFilter, ClientsReply, KillClientsRequest, ListClientsRequest, NodeNoteKind,
        NoteNodeRequest, SilentNode,
    },
};

/// Clients that a node tells of: below 4 MB, which a caller takes.
const CLIENTS_MAX: usize = 10_000;

/// Clients in an answer: below 16 MB, which the command line takes.
const ANSWERED_MAX: usize = 40_000;

/// Ids in a filter; the largest request of an operator has room for them.
const IDS_MAX: usize = 10_000;

/// Ids that an event names; of more it has the number.
const NAMED_MAX: usize = 8;

impl Api {
    /// The clients of all nodes, or of one.
    pub(super) async fn clients(&self, request: Request<ListClientsRequest>) -> Result<Response<ClientsReply>, Status> {
        let was_forwarded = forward::was_forwarded(&request);
        let filter = request.into_inner().filter.unwrap_or_default();
        let own = self.own_filter(&filter)?;
        if was_forwarded {
            return Ok(Response::new(self.own_clients(&own).await?));
        }
        let mut reply = match self.is_meant(&filter) {
            true => self.own_clients(&own).await?,
            false => ClientsReply::default(),
        };
        let call = |mut client: forward::Client| {
            let request = ListClientsRequest { filter: Some(filter.clone()) };
            async move { client.list_clients(forward::forwarded(request, ASK_LEADER_MAX)).await }
        };
        self.ask_others(&filter, call, &mut reply).await?;
        Ok(Response::new(sorted(reply)))
    }

    /// Closes clients of all nodes, or of one.
    pub(super) async fn kill(&self, request: Request<KillClientsRequest>) -> Result<Response<ClientsReply>, Status> {
        let was_forwarded = forward::was_forwarded(&request);
        let by = self.requester(&request);
        let by = Requester { declared: origin::declared(&request.get_ref().declared), ..by };
        let KillClientsRequest { filter, dry_run, declared } = request.into_inner();
        let filter = filter.unwrap_or_default();
        let own = self.own_filter(&filter)?;
        let says_which = filter.node != 0 || !filter.product.is_empty() || !own.is_empty();
        if !says_which {
            return Err(
                CallFailure::Bad("say which clients: by id, address, user, name, age, product or node".into()).into()
            );
        }
        if was_forwarded {
            return Ok(Response::new(self.kill_own(&own, dry_run).await?));
        }
        let mut reply = match self.is_meant(&filter) {
            true => self.kill_own(&own, dry_run).await?,
            false => ClientsReply::default(),
        };
        let call = |mut client: forward::Client| {
            let request = KillClientsRequest { filter: Some(filter.clone()), dry_run, declared: declared.clone() };
            let mut forwarded = forward::forwarded(request, ASK_LEADER_MAX);
            origin::pass_on(&mut forwarded, &by);
            async move { client.kill_clients(forwarded).await }
        };
        self.ask_others(&filter, call, &mut reply).await?;
        let reply = sorted(reply);
        if !dry_run {
            self.note_killed(&by, &reply.clients);
        }
        Ok(Response::new(reply))
    }

    /// Asks the other nodes that a filter means, all at once.
    async fn ask_others<F>(
        &self,
        filter: &ClientFilter,
        call: impl Fn(forward::Client) -> F,
        reply: &mut ClientsReply,
    ) -> Result<(), Status>
    where
        F: Future<Output = Result<Response<ClientsReply>, Status>> + Send + 'static,
    {
        let state = self.state();
        if filter.node != 0 && !state.members.contains_key(&NodeId(filter.node)) {
            return Err(CallFailure::NotFound(format!("there is no node {}", filter.node)).into());
        }
        let mut asked = JoinSet::new();
        let others = state.members.iter().filter(|(id, _)| **id != self.control.me);
        for (id, member) in others.filter(|(id, _)| filter.node == 0 || id.0 == filter.node) {
            let header = self.control.log.header_for(*id, member.uuid);
            let (id, answer) = (id.0, call(self.leaders.client(member.admin.as_str(), header)?));
            asked.spawn(async move { (id, tokio::time::timeout(ASK_LEADER_MAX, answer).await) });
        }
        while let Some(answered) = asked.join_next().await {
            let Ok((id, answer)) = answered else { continue };
            let why = match answer {
                Ok(Ok(answer)) => {
                    let mut answer = answer.into_inner();
                    reply.clients.append(&mut answer.clients);
                    reply.silent.append(&mut answer.silent);
                    reply.more |= answer.more;
                    continue;
                }
                Ok(Err(status)) => status.message().to_owned(),
                Err(_) => format!("no answer within {} s", Duration::as_secs(&ASK_LEADER_MAX)),
            };
            reply.silent.push(SilentNode { id, why });
        }
        Ok(())
    }

    fn is_meant(&self, filter: &ClientFilter) -> bool {
        filter.node == 0 || filter.node == self.control.me.0
    }

    /// The filter for this node's clients.
    fn own_filter(&self, filter: &ClientFilter) -> Result<proxy::ClientFilter, CallFailure> {
        if filter.ids.len() > IDS_MAX {
            return Err(CallFailure::Bad(format!("at most {IDS_MAX} ids")));
        }
        let mut own = proxy::ClientFilter::default();
        if !filter.product.is_empty() {
            let state = self.state();
            let product = super::change::product(&state, &filter.product)?;
            own.product = Some(product.id);
        }
        if !filter.ids.is_empty() {
            own.require(false, ClientCondition::Ids(filter.ids.iter().copied().collect()));
        }
        if !filter.addr.is_empty() {
            own.require(false, ClientCondition::Addr(filter.addr.clone()));
        }
        if !filter.ip.is_empty() {
            let ip = filter.ip.parse();
            let ip = ip.map_err(|_| CallFailure::Bad(format!("'{}' is no IP address", filter.ip)))?;
            own.require(false, ClientCondition::Ip(ip));
        }
        if !filter.user.is_empty() {
            own.require(false, ClientCondition::User(filter.user.clone()));
        }
        if !filter.name.is_empty() {
            own.require(false, ClientCondition::Name(filter.name.clone()));
        }
        if filter.age_min_ms > 0 {
            own.require(false, ClientCondition::MinAge(Duration::from_millis(filter.age_min_ms)));
        }
        Ok(own)
    }

    async fn own_clients(&self, filter: &proxy::ClientFilter) -> Result<ClientsReply, CallFailure> {
        let listed = self.clients.list(filter, CLIENTS_MAX).await;
        let (clients, more) = listed.map_err(|unanswered| CallFailure::Refused(unanswered.to_string()))?;
        Ok(ClientsReply { clients: self.to_messages(&clients), silent: Vec::new(), more })
    }

    async fn kill_own(&self, filter: &proxy::ClientFilter, dry_run: bool) -> Result<ClientsReply, CallFailure> {
        if dry_run {
            return self.own_clients(filter).await;
        }
        let killed = self.clients.kill(filter).await;
        let killed = killed.map_err(|unanswered| CallFailure::Refused(unanswered.to_string()))?;
        let more = killed.len() > CLIENTS_MAX;
        tracing::warn!(clients = killed.len(), "an operator has closed clients");
        let told = &killed[..killed.len().min(CLIENTS_MAX)];
        Ok(ClientsReply { clients: self.to_messages(told), silent: Vec::new(), more })
    }

    fn to_messages(&self, clients: &[ClientView]) -> Vec<Client> {
        let state = self.state();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let message = |view: &ClientView| Client {
            node: self.control.me.0,
            id: view.id,
            product: state.products.get(&view.product).map(|product| product.name.clone()).unwrap_or_default(),
            addr: view.addr.to_string(),
            laddr: view.laddr.to_string(),
            name: view.name.clone(),
            age_ms: ms(view.age),
            idle_ms: ms(view.idle),
            flags: view.flags.clone(),
            db: view.db,
            queued: view.queued.map(|n| n as u64),
            command: view.command.to_owned(),
            user: view.user.clone(),
            resp: view.resp.into(),
            library: view.library.clone(),
            library_version: view.library_version.clone(),
            memory_bytes: view.memory as u64,
        };
        clients.iter().map(message).collect()
    }

    /// Records the clients that were closed, an event for each node. Does not wait for the log of the cluster, which may have no
    /// leader now.
    fn note_killed(&self, by: &Requester, clients: &[Client]) {
        for of_node in clients.chunk_by(|a, b| a.node == b.node) {
            let options = Some(ChangeOptions { declared: by.declared.clone(), ..ChangeOptions::default() });
            let (node, text) = (of_node[0].node, killed_text(of_node));
            let note = NoteNodeRequest { node, text, options, kind: NodeNoteKind::ClientsKilled.into() };
            let (by, api) = (by.clone(), self.clone());
            tokio::spawn(async move {
                let node = note.node;
                if let Err(status) = api.change_for(by, note, false).await {
                    tracing::warn!(
                        node,
                        error = status.message(),
                        "an event about closed clients could not be written"
                    );
                }
            });
        }
    }
}

/// What an event says of the clients of a node that were closed.
fn killed_text(clients: &[Client]) -> String {
    let named: Vec<_> = clients
        .iter()
        .take(NAMED_MAX)
        .map(|client| format!("{} of product '{}' ({})", client.id, client.product, client.addr))
        .collect();
    let rest = match clients.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        rest => format!(" and {rest} others"),
    };
    format!("closed {} clients: {}{rest}", clients.len(), named.join(", "))
}

fn sorted(mut reply: ClientsReply) -> ClientsReply {
    reply.clients.sort_unstable_by_key(|client| (client.node, client.id));
    reply.silent.sort_unstable_by_key(|node| node.id);
    reply.more |= reply.clients.len() > ANSWERED_MAX;
    reply.clients.truncate(ANSWERED_MAX);
    reply
}
