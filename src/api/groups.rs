//! Changes of groups and their servers. Servers are probed before anything is proposed.
//! Knows nothing of the server admission itself; that is in control::admission.

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary, MutationHandler, RecordedChange, forwardable, product_id},
    data_user,
    error::CallFailure,
    shared_risk::reaches_nobody,
    validate,
};
use crate::{
    control::admission::{
        data_user::ScriptRights,
        server::{AdmittedServer, ServerAdmission},
    },
    model::{
        change::{AddServer, Change, CreateGroup, RemoveGroup, RemoveServer},
        ids::{GroupId, HostPort},
        limits::SERVERS_MAX,
        outcome::Outcome,
        reject::Reject,
        state::{Group, Server},
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
        let admission = ServerAdmission {
            state: &state,
            product,
            credentials: credentials.as_ref(),
            cluster: api.control.log.cluster_id(),
            deadline: call.admission_deadline(),
        };
        if let Some(first) = api.recorded(call)? {
            let Some(made) = product.groups.get(&group) else { return api.gone(call, first).await };
            let mut summary = created(group, &made.servers, &product.name);
            summary.warnings.extend(admission.warnings(&primary).await);
            return api.repeated(call, first, summary).await;
        }
        // Checked before servers are probed: otherwise a repeated command would report that its servers are in use.
        if let Some(known) = product.groups.get(&group) {
            if is_made_of(known, &primary, &replicas) && known.credentials == credentials {
                return api.already(call, format!("product '{}' has this group {group} already", product.name)).await;
            }
            return Err(Reject::GroupExists { product: product.name.clone(), group }.into());
        }
        let AdmittedServer { server, mut warnings, .. } =
            admission.primary(&primary).await.map_err(CallFailure::Refused)?;
        let mut servers = vec![server];
        let mut made_to_follow = Vec::new();
        for replica in &replicas {
            let admitted = admission.replica(replica, &primary).await.map_err(CallFailure::Refused)?;
            made_to_follow.extend(becomes_replica(&admitted, &primary, state.settings.maintenance));
            warnings.extend(admitted.warnings.into_iter().filter(|w| !warnings.contains(w)).collect::<Vec<_>>());
            let server = admitted.server;
            if let Some(duplicate) =
                servers.iter().find(|known| known.addr == *replica || known.run_id == server.run_id)
            {
                return Err(CallFailure::Refused(format!(
                    "{replica} and {} are the same server; name it once",
                    duplicate.addr
                )));
            }
            servers.push(server);
        }
        if !self.accept_shared_risk {
            api.reached_by_nobody(&state, Some(product.id), call.admission_deadline()).await?;
        }
        let addresses: Vec<_> = servers.iter().map(|server| &server.addr).collect();
        let (data_user, risks) = data_user::choose(self, &admission, &addresses, call.dry_run).await?;
        let mut summary = created(group, &servers, &product.name);
        summary.done.extend(made_to_follow);
        summary.warnings.extend(warnings);
        summary.warnings.extend(risks);
        let product = product.id;
        let change = Change::CreateGroup(CreateGroup { product, group, servers, credentials, data_user });
        api.make(call, change, summary).await
    }
}

/// Whether a group has this primary and these replicas, and no other server.
fn is_made_of(group: &Group, primary: &HostPort, replicas: &[HostPort]) -> bool {
    let mut wanted: Vec<&HostPort> = replicas.iter().collect();
    let mut found: Vec<&HostPort> = group.servers.iter().skip(1).map(|server| &server.addr).collect();
    wanted.sort_unstable();
    found.sort_unstable();
    group.servers.first().is_some_and(|server| server.addr == *primary) && wanted == found
}

/// What a reply says about a new group.
fn created(group: GroupId, servers: &[Server], product: &str) -> ChangeSummary {
    let mut done = vec![format!("group {group} is created in product '{product}'")];
    for (i, server) in servers.iter().enumerate() {
        done.push(describe(server, if i == 0 { "primary" } else { "replica" }));
    }
    let mut warnings = Vec::new();
    if let Some(primary) = servers.first().filter(|primary| primary.keys_when_added > 0) {
        warnings.push(format!(
            "{} already holds {} keys; clients see those whose slots are assigned to group {group}",
            primary.addr, primary.keys_when_added
        ));
    }
    ChangeSummary { done, warnings, product: Some(product.to_owned()) }
}

fn describe(server: &Server, role: &str) -> String {
    format!("{role} {}: {} keys", server.addr, server.keys_when_added)
}

/// What happens to a server that does not follow the primary yet.
fn becomes_replica(admitted: &AdmittedServer, primary: &HostPort, maintenance: bool) -> Option<String> {
    let addr = &admitted.server.addr;
    let when = if maintenance { " as soon as maintenance is off" } else { "" };
    admitted
        .becomes_replica
        .then(|| format!("{addr} is made to follow {primary}{when}; `pontoon group ls` shows when it does"))
}

impl Api {
    /// The reply to a repeat of a change for which servers were probed. They are not probed again: they belong to the
    /// group now.
    async fn repeated(
        &self,
        call: &MutationCall,
        (index, outcome): RecordedChange,
        summary: ChangeSummary,
    ) -> Result<ChangeReply, CallFailure> {
        let outcome = outcome?;
        self.conclude(call, index, outcome == Outcome::Unchanged, summary).await
    }

    /// The reply to a repeat if what the change created was removed since.
    async fn gone(&self, call: &MutationCall, first: RecordedChange) -> Result<ChangeReply, CallFailure> {
        self.repeated(call, first, ChangeSummary::of("it was created, and has been removed since".into())).await
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
            cluster: api.control.log.cluster_id(),
            deadline: call.admission_deadline(),
        };
        let added = |server: &Server| {
            ChangeSummary::of(format!("{} is added to group {id}", describe(server, "replica"))).about(&product.name)
        };
        if let Some(first) = api.recorded(call)? {
            let Some(known) = group.servers.iter().find(|server| server.addr == addr) else {
                return api.gone(call, first).await;
            };
            let mut summary = added(known);
            summary.warnings = admission.warnings(&primary.addr).await;
            return api.repeated(call, first, summary).await;
        }
        if group.servers.iter().any(|server| server.addr == addr) {
            return api.already(call, format!("{addr} is in group {id} already")).await;
        }
        let admitted = admission.replica(&addr, &primary.addr).await.map_err(CallFailure::Refused)?;
        let risks = match &group.data_user {
            Some(user) => admission.make_data_user(&addr, user, call.dry_run).await.map_err(CallFailure::Refused)?,
            None => ScriptRights::default(),
        };
        if !self.accept_shared_risk {
            reaches_nobody(&admission, risks.reach.as_deref())?;
        }
        let mut summary = added(&admitted.server);
        let maintenance = state.settings.maintenance || group.options.maintenance;
        summary.done.extend(becomes_replica(&admitted, &primary.addr, maintenance));
        summary.warnings = admitted.warnings;
        summary.warnings.extend(risks.texts());
        api.make(
            call,
            Change::AddServer(AddServer { product: product.id, group: id, server: admitted.server }),
            summary,
        )
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
        let gone = of.is_some_and(|(_, group)| group.servers.iter().all(|server| server.addr != addr));
        if gone && api.recorded(call)?.is_none() {
            return api.already(call, format!("group {group} has no server {addr}")).await;
        }
        if let Some((product, group)) = of.filter(|(_, g)| g.servers.iter().skip(1).any(|s| s.addr == addr)) {
            api.may_leave(product, group, &addr).map_err(CallFailure::Refused)?;
        }
        let summary = ChangeSummary::of(format!(
            "{addr} is removed from group {group}; it keeps replicating until an operator changes that (REPLICAOF NO \
             ONE)"
        ));
        let change = Change::RemoveServer(RemoveServer { product, group, addr });
        if !self.force {
            api.keeps_replicas(call, &change)?;
        }
        api.make(call, change, summary.about(&self.product)).await
    }
}

impl MutationHandler for RemoveGroupRequest {
    forwardable!(remove_group);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let id = validate::group(self.id)?;
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        if !product.groups.contains_key(&id) && api.recorded(call)?.is_none() {
            return api.already(call, format!("product '{}' has no group {id}", product.name)).await;
        }
        let mut summary =
            ChangeSummary::of(format!("group {id} is removed; its servers are left as they are")).about(&product.name);
        let mut keys_left = None;
        if let Some(group) = product.groups.get(&id).filter(|group| !group.given_away.is_empty()) {
            let admission = ServerAdmission {
                state: &state,
                product,
                credentials: group.credentials.as_ref(),
                cluster: api.control.log.cluster_id(),
                deadline: call.admission_deadline(),
            };
            if let Some(primary) = group.servers.first() {
                keys_left = admission.keyspace(&primary.addr).await.ok().map(|keys| keys.values().sum());
            }
            summary.warnings.extend(left_behind(group, keys_left));
        }
        let change = RemoveGroup { product: product.id, group: id, keys_left };
        api.make(call, Change::RemoveGroup(change), summary).await
    }
}

/// What the operator should know of the keys that a removed group keeps.
fn left_behind(group: &Group, keys: Option<u64>) -> Option<String> {
    let servers: Vec<_> = group.servers.iter().map(|server| server.addr.as_str()).collect();
    let (slots, servers) = (group.given_away.len(), servers.join(", "));
    match keys {
        Some(0) => None,
        Some(keys) => Some(format!(
            "{keys} key(s) are left on {servers}, of {slots} slots that the group gave away or of no product; they are not \
             deleted; before another product gets these servers: FLUSHALL"
        )),
        None => Some(format!(
            "keys of {slots} slots that the group gave away may be left on {servers}, whose primary does not answer; they \
             are not deleted; before another product gets these servers: FLUSHALL"
        )),
    }
}
