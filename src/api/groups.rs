//! Changes of groups and their servers. Servers are asked before anything is proposed.
//! Knows nothing of what servers are asked; control::admission does.

use tokio::time::Instant;

use super::{
    Api,
    change::{self, ChangeSummary, MutationCall, MutationHandler, RecordedChange, forwardable, product_id},
    error::CallFailure,
    validate,
};
use crate::{
    control::admission::server::{ASK_MAX, AdmittedServer, ServerAdmission},
    model::{
        change::{AddServer, Change, CreateGroup, RemoveGroup, RemoveServer},
        ids::{GroupId, HostPort},
        limits::SERVERS_MAX,
        outcome::Outcome,
        reject::Reject,
        state::Server,
    },
    wire::pb::admin::{AddServerRequest, ChangeReply, CreateGroupRequest, RemoveGroupRequest, RemoveServerRequest},
};

impl MutationHandler for CreateGroupRequest {
    forwardable!(create_group);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let group = validate::group(self.id)?;
        let primary = validate::address(&self.primary)?;
        if self.replicas.len() >= SERVERS_MAX {
            return Err(CallFailure::Bad(format!("a group has at most {SERVERS_MAX} servers")));
        }
        let replicas = self.replicas.iter().map(|text| validate::address(text)).collect::<Result<Vec<_>, _>>()?;
        let credentials = validate::credentials(&self.username, &self.password)?;
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        let admission =
            ServerAdmission { state: &state, product, credentials: credentials.as_ref(), deadline: admission(call) };
        if let Some(first) = api.recorded(call)? {
            let Some(made) = product.groups.get(&group) else { return api.gone(call, first).await };
            let mut said = said(group, &made.servers, &product.name);
            said.warnings.extend(admission.warnings(&primary).await);
            return api.repeated(call, first, said).await;
        }
        // Told before servers are asked: a repeated command would else be told that its servers are taken.
        if product.groups.contains_key(&group) {
            return Err(Reject::GroupExists { product: product.name.clone(), group }.into());
        }
        let AdmittedServer { server, mut warnings, .. } =
            admission.primary(&primary).await.map_err(CallFailure::Refused)?;
        let mut servers = vec![server];
        let mut wired = Vec::new();
        for replica in &replicas {
            let admitted = admission.replica(replica, &primary).await.map_err(CallFailure::Refused)?;
            wired.extend(becomes_replica(&admitted, &primary, state.settings.maintenance));
            warnings.extend(admitted.warnings.into_iter().filter(|w| !warnings.contains(w)).collect::<Vec<_>>());
            let server = admitted.server;
            if let Some(duplicate) =
                servers.iter().find(|known| known.addr == *replica || known.run_id == server.run_id)
            {
                return Err(CallFailure::Refused(format!(
                    "{replica} and {} are one and the same server; name it once",
                    duplicate.addr
                )));
            }
            servers.push(server);
        }
        let mut said = said(group, &servers, &product.name);
        said.done.extend(wired);
        said.warnings.extend(warnings);
        api.make(call, Change::CreateGroup(CreateGroup { product: product.id, group, servers, credentials }), said)
            .await
    }
}

/// What is told of a group that was made.
fn said(group: GroupId, servers: &[Server], product: &str) -> ChangeSummary {
    let mut done = vec![format!("group {group} is made in product '{product}'")];
    for (i, server) in servers.iter().enumerate() {
        done.push(told(server, if i == 0 { "primary" } else { "replica" }));
    }
    let mut warnings = Vec::new();
    if let Some(primary) = servers.first().filter(|primary| primary.keys_when_added > 0) {
        warnings.push(format!(
            "{} holds {} keys already; clients see those whose slots are assigned to group {group}",
            primary.addr, primary.keys_when_added
        ));
    }
    ChangeSummary { done, warnings, product: Some(product.to_owned()) }
}

fn told(server: &Server, role: &str) -> String {
    format!("{role} {}: {} keys", server.addr, server.keys_when_added)
}

/// What follows for a server that is not a replica yet.
fn becomes_replica(admitted: &AdmittedServer, primary: &HostPort, maintenance: bool) -> Option<String> {
    let addr = &admitted.server.addr;
    let when = if maintenance { " as soon as maintenance is off" } else { "" };
    admitted
        .becomes_replica
        .then(|| format!("{addr} is made to follow {primary}{when}; `pontoon group ls` shows when it does"))
}

/// Servers are asked one after the other, and a commit must still follow.
fn admission(call: &MutationCall) -> Instant {
    call.deadline.min(Instant::now() + ASK_MAX * 4)
}

impl Api {
    /// The reply to a repeat of a change for which servers were asked: not asked again, since they are ours by now.
    async fn repeated(
        &self,
        call: &MutationCall,
        (index, outcome): RecordedChange,
        said: ChangeSummary,
    ) -> Result<ChangeReply, CallFailure> {
        let outcome = outcome?;
        self.conclude(call, index, outcome == Outcome::Unchanged, said).await
    }

    /// The same where what was made is there no more.
    async fn gone(&self, call: &MutationCall, first: RecordedChange) -> Result<ChangeReply, CallFailure> {
        self.repeated(call, first, ChangeSummary::of("it was made, and is gone again".into())).await
    }
}

impl MutationHandler for AddServerRequest {
    forwardable!(add_server);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let id = validate::group(self.group)?;
        let addr = validate::address(&self.address)?;
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        let Some(group) = product.groups.get(&id) else {
            return Err(Reject::UnknownGroup { product: product.name.clone(), group: id }.into());
        };
        let Some(primary) = group.servers.first() else { return Err(Reject::NoServers(id).into()) };
        let admission = ServerAdmission {
            state: &state,
            product,
            credentials: group.credentials.as_ref(),
            deadline: admission(call),
        };
        let said = |server: &Server| {
            ChangeSummary::of(format!("{} is added to group {id}", told(server, "replica"))).about(&product.name)
        };
        if let Some(first) = api.recorded(call)? {
            let Some(added) = group.servers.iter().find(|server| server.addr == addr) else {
                return api.gone(call, first).await;
            };
            let mut said = said(added);
            said.warnings = admission.warnings(&primary.addr).await;
            return api.repeated(call, first, said).await;
        }
        if group.servers.iter().any(|server| server.addr == addr) {
            return Err(CallFailure::Refused(format!("{addr} is in group {id} already; there is nothing to do")));
        }
        let admitted = admission.replica(&addr, &primary.addr).await.map_err(CallFailure::Refused)?;
        let mut said = said(&admitted.server);
        let maintenance = state.settings.maintenance || group.options.maintenance;
        said.done.extend(becomes_replica(&admitted, &primary.addr, maintenance));
        said.warnings = admitted.warnings;
        api.make(call, Change::AddServer(AddServer { product: product.id, group: id, server: admitted.server }), said)
            .await
    }
}

impl MutationHandler for RemoveServerRequest {
    forwardable!(remove_server);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let group = validate::group(self.group)?;
        let addr: HostPort = validate::address(&self.address)?;
        let state = api.state();
        let product = product_id(&state, &self.product)?;
        let of = state.products.get(&product).and_then(|product| Some((product, product.groups.get(&group)?)));
        if let Some((product, group)) = of.filter(|(_, g)| g.servers.iter().skip(1).any(|s| s.addr == addr)) {
            api.may_leave(product, group, &addr).map_err(CallFailure::Refused)?;
        }
        let said = ChangeSummary::of(format!(
            "{addr} is taken out of group {group}; it goes on replicating until it is told otherwise"
        ));
        api.make(call, Change::RemoveServer(RemoveServer { product, group, addr }), said.about(&self.product)).await
    }
}

impl MutationHandler for RemoveGroupRequest {
    forwardable!(remove_group);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let id = validate::group(self.id)?;
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        let mut said =
            ChangeSummary::of(format!("group {id} is removed; its servers are left as they are")).about(&product.name);
        if let Some(group) = product.groups.get(&id).filter(|group| !group.given_away.is_empty()) {
            let servers: Vec<_> = group.servers.iter().map(|server| server.addr.as_str()).collect();
            said.warnings.push(format!(
                "keys of {} slots that it gave away may be left on {}; they were not cleaned",
                group.given_away.len(),
                servers.join(", ")
            ));
        }
        api.make(call, Change::RemoveGroup(RemoveGroup { product: product.id, group: id }), said).await
    }
}
