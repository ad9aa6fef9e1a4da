//! Changes of groups and their servers. Servers are asked before anything is proposed.
//! Knows nothing of what servers are asked; control::admission does.

use tokio::time::Instant;

use super::{
    Api,
    change::{self, Call, Perform, Recorded, Said, forwardable, product_id},
    error::Failure,
    validate,
};
use crate::{
    control::admission::{ASK_MAX, Asking, Fit},
    model::{
        change::Change,
        ids::{GroupId, HostPort},
        limits::SERVERS_MAX,
        outcome::Outcome,
        reject::Reject,
        state::Server,
    },
    wire::pb::admin::{AddServerRequest, ChangeReply, CreateGroupRequest, RemoveGroupRequest, RemoveServerRequest},
};

impl Perform for CreateGroupRequest {
    forwardable!(create_group);

    async fn perform(&self, api: &Api, call: &Call) -> Result<ChangeReply, Failure> {
        let group = validate::group(self.id)?;
        let primary = validate::address(&self.primary)?;
        if self.replicas.len() >= SERVERS_MAX {
            return Err(Failure::Bad(format!("a group has at most {SERVERS_MAX} servers")));
        }
        let replicas = self.replicas.iter().map(|text| validate::address(text)).collect::<Result<Vec<_>, _>>()?;
        let credentials = validate::credentials(&self.username, &self.password)?;
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        let unasked = |addr: &HostPort| Server::new(addr.clone(), String::new(), 0);
        let repeat = Change::CreateGroup {
            product: product.id,
            group,
            servers: std::iter::once(&primary).chain(&replicas).map(unasked).collect(),
            credentials: credentials.clone(),
        };
        let asking = Asking { state: &state, product, credentials: credentials.as_ref(), deadline: asking_by(call) };
        if let Some(first) = api.recorded(call, &repeat)? {
            let Some(made) = product.groups.get(&group) else { return api.gone(call, first).await };
            let mut said = said(group, &made.servers, &product.name);
            said.warnings.extend(asking.warnings(&primary).await);
            return api.repeated(call, first, said).await;
        }
        // Told before servers are asked: a repeated command would else be told that its servers are taken.
        if product.groups.contains_key(&group) {
            return Err(Reject::GroupExists { product: product.name.clone(), group }.into());
        }
        let Fit { server, mut warnings, .. } = asking.primary(&primary).await.map_err(Failure::Refused)?;
        let mut servers = vec![server];
        let mut wired = Vec::new();
        for replica in &replicas {
            let fit = asking.replica(replica, &primary).await.map_err(Failure::Refused)?;
            wired.extend(to_be_wired(&fit, &primary, state.settings.maintenance));
            warnings.extend(fit.warnings.into_iter().filter(|w| !warnings.contains(w)).collect::<Vec<_>>());
            let server = fit.server;
            if let Some(twin) = servers.iter().find(|known| known.addr == *replica || known.run_id == server.run_id) {
                return Err(Failure::Refused(format!(
                    "{replica} and {} are one and the same server; name it once",
                    twin.addr
                )));
            }
            servers.push(server);
        }
        let mut said = said(group, &servers, &product.name);
        said.done.extend(wired);
        said.warnings.extend(warnings);
        api.make(call, Change::CreateGroup { product: product.id, group, servers, credentials }, said).await
    }
}

/// What is told of a group that was made.
fn said(group: GroupId, servers: &[Server], product: &str) -> Said {
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
    Said { done, warnings, product: Some(product.to_owned()) }
}

fn told(server: &Server, role: &str) -> String {
    format!("{role} {}: {} keys", server.addr, server.keys_when_added)
}

/// What follows for a server that is not a replica yet.
fn to_be_wired(fit: &Fit, primary: &HostPort, maintenance: bool) -> Option<String> {
    let addr = &fit.server.addr;
    let when = if maintenance { " as soon as maintenance is off" } else { "" };
    fit.to_be_wired.then(|| format!("{addr} is made to follow {primary}{when}; `pontoon group ls` shows when it does"))
}

/// Servers are asked one after the other, and a commit must still follow.
fn asking_by(call: &Call) -> Instant {
    call.deadline.min(Instant::now() + ASK_MAX * 4)
}

impl Api {
    /// The reply to a repeat of a change for which servers were asked: not asked again, since they are ours by now.
    async fn repeated(&self, call: &Call, (index, outcome): Recorded, said: Said) -> Result<ChangeReply, Failure> {
        let outcome = outcome?;
        self.conclude(call, index, outcome == Outcome::Unchanged, said).await
    }

    /// The same where what was made is there no more.
    async fn gone(&self, call: &Call, first: Recorded) -> Result<ChangeReply, Failure> {
        self.repeated(call, first, Said::of("it was made, and is gone again".into())).await
    }
}

impl Perform for AddServerRequest {
    forwardable!(add_server);

    async fn perform(&self, api: &Api, call: &Call) -> Result<ChangeReply, Failure> {
        let id = validate::group(self.group)?;
        let addr = validate::address(&self.address)?;
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        let Some(group) = product.groups.get(&id) else {
            return Err(Reject::UnknownGroup { product: product.name.clone(), group: id }.into());
        };
        let Some(primary) = group.servers.first() else { return Err(Reject::NoServers(id).into()) };
        let asking =
            Asking { state: &state, product, credentials: group.credentials.as_ref(), deadline: asking_by(call) };
        let said = |server: &Server| {
            Said::of(format!("{} is added to group {id}", told(server, "replica"))).about(&product.name)
        };
        let unasked = Server::new(addr.clone(), String::new(), 0);
        let repeat = Change::AddServer { product: product.id, group: id, server: unasked };
        if let Some(first) = api.recorded(call, &repeat)? {
            let Some(added) = group.servers.iter().find(|server| server.addr == addr) else {
                return api.gone(call, first).await;
            };
            let mut said = said(added);
            said.warnings = asking.warnings(&primary.addr).await;
            return api.repeated(call, first, said).await;
        }
        if group.servers.iter().any(|server| server.addr == addr) {
            return Err(Failure::Refused(format!("{addr} is in group {id} already; there is nothing to do")));
        }
        let fit = asking.replica(&addr, &primary.addr).await.map_err(Failure::Refused)?;
        let mut said = said(&fit.server);
        let maintenance = state.settings.maintenance || group.options.maintenance;
        said.done.extend(to_be_wired(&fit, &primary.addr, maintenance));
        said.warnings = fit.warnings;
        api.make(call, Change::AddServer { product: product.id, group: id, server: fit.server }, said).await
    }
}

impl Perform for RemoveServerRequest {
    forwardable!(remove_server);

    async fn perform(&self, api: &Api, call: &Call) -> Result<ChangeReply, Failure> {
        let group = validate::group(self.group)?;
        let addr: HostPort = validate::address(&self.address)?;
        let state = api.state();
        let product = product_id(&state, &self.product)?;
        let of = state.products.get(&product).and_then(|product| Some((product, product.groups.get(&group)?)));
        if let Some((product, group)) = of.filter(|(_, g)| g.servers.iter().skip(1).any(|s| s.addr == addr)) {
            api.may_leave(product, group, &addr).map_err(Failure::Refused)?;
        }
        let said = Said::of(format!(
            "{addr} is taken out of group {group}; it goes on replicating until it is told otherwise"
        ));
        api.make(call, Change::RemoveServer { product, group, addr }, said.about(&self.product)).await
    }
}

impl Perform for RemoveGroupRequest {
    forwardable!(remove_group);

    async fn perform(&self, api: &Api, call: &Call) -> Result<ChangeReply, Failure> {
        let id = validate::group(self.id)?;
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        let mut said =
            Said::of(format!("group {id} is removed; its servers are left as they are")).about(&product.name);
        if let Some(group) = product.groups.get(&id).filter(|group| !group.given_away.is_empty()) {
            let servers: Vec<_> = group.servers.iter().map(|server| server.addr.as_str()).collect();
            said.warnings.push(format!(
                "keys of {} slots that it gave away may be left on {}; they were not cleaned",
                group.given_away.len(),
                servers.join(", ")
            ));
        }
        api.make(call, Change::RemoveGroup { product: product.id, group: id }, said).await
    }
}
