//! Changes of products: create, set, remove.
//! Knows nothing of listeners; nodes bind them according to the state.

use std::collections::BTreeSet;

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary, MutationHandler, forwardable},
    error::CallFailure,
    validate,
};
use crate::{
    model::{
        change::{Change, NewProduct, RemoveGroup, RemoveProduct, SetAuth, SetProduct, StartAssign},
        client_rules::SetClientRules,
        ids::SlotId,
        reads::{ReadFrom, ReadPolicy, SetReads},
        secret::Credentials,
        state::Product,
    },
    wire::pb::admin::{ChangeReply, CreateProductRequest, RemoveProductRequest, SetProductRequest},
};

impl MutationHandler for CreateProductRequest {
    forwardable!(create_product);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let name = validate::product_name(&self.name)?;
        let (mode, isolated) = validate::mode(self.mode, self.isolated)?;
        let new = NewProduct {
            name: name.clone(),
            port: validate::port(self.port)?,
            layout: validate::layout(self.layout)?,
            mode,
            isolated,
            databases: validate::databases(self.databases)?,
            auth: validate::credentials(&self.username, &self.password)?,
        };
        let state = api.state();
        let known = state.products.values().find(|product| product.name == name);
        if known.is_some_and(|known| is_as_new(known, &new)) && api.recorded(call)?.is_none() {
            return api.already(call, format!("there is this product '{name}' already")).await;
        }
        if !self.accept_shared_risk && api.recorded(call)?.is_none() {
            api.reached_by_nobody(&state, None, call.admission_deadline()).await?;
        }
        let mut summary = ChangeSummary::of(format!(
            "product '{name}' is created: port {} plus each node's offset, {} slots, {} databases",
            new.port,
            new.layout.slots(),
            new.databases
        ));
        if new.auth.is_none() {
            summary.warnings.push(open_to_all(&name));
        }
        api.make(call, Change::CreateProduct(new), summary.about(&name)).await
    }
}

/// Whether a product has what a new one would have. What can only be set later does not count.
fn is_as_new(known: &Product, new: &NewProduct) -> bool {
    let Product { port, layout, mode, isolated, databases, auth, .. } = known;
    (port, layout, mode, isolated, databases) == (&new.port, &new.layout, &new.mode, &new.isolated, &new.databases)
        && auth.credentials == new.auth
}

fn open_to_all(name: &str) -> String {
    format!(
        "product '{name}' has no password: nodes bind its port on loopback only, unless they run with --insecure; \
         pontoon product set {name} --password-file FILE opens it"
    )
}

/// A warning about groups without replicas (those without slots, or forced), where reads that never go to the primary find no server.
fn without_replicas(product: &Product, policy: ReadPolicy) -> Option<String> {
    let alone = product.groups.values().filter(|group| group.servers.len() < 2).map(|group| group.id.to_string());
    let alone: Vec<String> = alone.collect();
    (policy.from == ReadFrom::Replica && !alone.is_empty()).then(|| {
        format!(
            "group(s) {} of product '{}' have no replica: all reads of their slots are answered -TRYAGAIN; add replicas \
             (pontoon group add-server), or read from the primary where there is none (read-from=prefer-replica)",
            alone.join(", "),
            product.name
        )
    })
}

impl MutationHandler for SetProductRequest {
    forwardable!(set_product);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let state = api.state();
        let product = change::product(&state, &self.name)?;
        if self.databases == Some(0) {
            return Err(CallFailure::Bad("a product has at least 1 database".into()));
        }
        let settings = ProductSettings {
            port: self.port.map(validate::port).transpose()?,
            databases: self.databases.map(validate::databases).transpose()?,
            auth: self.auth(product.auth.credentials.as_ref())?,
            auto_rebalance: self.auto_rebalance,
            min_acks: self.min_acks.map(validate::min_acks).transpose()?,
            min_acks_ms: self.min_acks_timeout_ms.map(validate::min_acks_timeout_ms).transpose()?,
            reads: SetReads {
                from: self.read_from.map(validate::read_from).transpose()?,
                max_lag_ms: self.max_lag_ms,
                own_writes: self.read_your_writes,
                confirmed: self.read_confirmed,
            },
            clients_max: self.clients_max,
            rules: SetClientRules {
                ops_max: self.ops_max,
                bytes_max: self.bytes_max,
                scripts_off: self.scripts_off,
                script_loads_max: self.script_loads_max,
                errors_detailed: self.errors_detailed,
                blocked_errors: self.blocked_errors,
                server_commands: self.server_commands,
                debug_commands: self.debug_commands,
                redis_version: self.redis_version.as_deref().map(validate::redis_version).transpose()?,
                idle_ms: self.idle_timeout_ms,
            },
        };
        if settings.is_empty() {
            return Err(CallFailure::Bad(
                "nothing to set; give port=P, databases=N, auto-rebalance=on|off, min-acks=N, min-acks-timeout=TIME, \
                 read-from=WHERE, max-lag=1s, read-your-writes=on|off, read-confirmed=on|off, clients-max=N, \
                 ops-max=N, bytes-max=SIZE, scripts=on|off, script-loads-max=N, errors=short|detailed, \
                 blocked-unknown=close|error, server-commands=on|off, debug-commands=on|off, \
                 redis-version=7.2.4|servers, idle-timeout=5m|off, --password-file FILE or former-password="
                    .into(),
            ));
        }
        if !self.force {
            let (databases, deadline) = (settings.databases, call.admission_deadline());
            let hidden = api.hides_keys(&state, product, databases, deadline).await;
            let missing = api.exceeds_servers(&state, product, databases, deadline).await;
            if let Some(why) = hidden.or(missing) {
                return Err(CallFailure::Refused(why));
            }
        }
        let summary = settings.summary(product);
        let ProductSettings { port, databases, auth, auto_rebalance, min_acks, min_acks_ms, reads, clients_max, rules } =
            settings;
        let before = product;
        let product = product.id;
        let change = Change::SetProduct(SetProduct {
            product,
            port,
            databases,
            auth,
            auto_rebalance,
            min_acks,
            min_acks_ms,
            reads,
            clients_max,
            rules,
        });
        if !self.force {
            api.keeps_replicas(call, &change)?;
            api.keeps_reads(before, reads.of(before.reads)).map_err(CallFailure::Refused)?;
        }
        api.make(call, change, summary).await
    }
}

/// The settings of a request, checked. `None`: not changed.
struct ProductSettings {
    port: Option<u16>,
    databases: Option<u32>,
    auth: Option<SetAuth>,
    auto_rebalance: Option<bool>,
    min_acks: Option<u8>,
    min_acks_ms: Option<u32>,
    reads: SetReads,
    clients_max: Option<u32>,
    rules: SetClientRules,
}

impl ProductSettings {
    fn is_empty(&self) -> bool {
        let Self { port, databases, auth, auto_rebalance, min_acks, min_acks_ms, reads, clients_max, rules } = self;
        port.is_none()
            && databases.is_none()
            && auth.is_none()
            && auto_rebalance.is_none()
            && min_acks.is_none()
            && min_acks_ms.is_none()
            && !reads.changes_anything()
            && clients_max.is_none()
            && !rules.changes_anything()
    }

    fn summary(&self, product: &Product) -> ChangeSummary {
        let name = &product.name;
        let mut summary = ChangeSummary::default().about(name);
        let mut set = |what: String| summary.done.push(format!("product '{name}': {what}"));
        if let Some(port) = self.port {
            set(format!("port {port}; clients must connect to it"));
        }
        if let Some(databases) = self.databases {
            set(format!("{databases} databases"));
        }
        match self.auto_rebalance {
            None => {}
            Some(true) => set("slots are rebalanced automatically when groups change or load drifts".into()),
            Some(false) => set("slots move only when an operator moves them".into()),
        }
        match self.min_acks {
            None => {}
            Some(0) => set("writes are acknowledged without waiting for replicas".into()),
            Some(n) => set(format!("a write is acknowledged when {n} replica(s) have it")),
        }
        if let Some(ms) = self.min_acks_ms {
            set(format!("a write waits for replicas for up to {ms} ms"));
        }
        let policy = self.reads.of(product.reads);
        if self.reads.changes_anything() {
            set(policy.to_string());
        }
        match self.clients_max {
            None => {}
            Some(0) => set("only a node's own limit of clients applies".into()),
            Some(n) => set(format!("each node accepts {n} client(s); those that are connected stay")),
        }
        if self.rules.changes_anything() {
            set(self.rules.of(product.rules).to_string());
        }
        match &self.auth {
            None => {}
            Some(SetAuth::Replace(None)) => set("clients no longer need a password; all clients are closed".into()),
            Some(SetAuth::Replace(Some(_))) => {
                set("clients log in with the given credentials; those that logged in with others are closed".into())
            }
            Some(SetAuth::Add(_)) => {
                set("clients log in with the given credentials, or with those until now; no client is closed".into());
                set(format!("two passwords are valid until: pontoon product set {name} former-password="));
            }
            Some(SetAuth::RemoveFormer) => {
                set("the former password is not valid; clients that logged in with it are closed".into())
            }
        }
        summary.warnings.extend(self.min_acks.and_then(|n| too_few_replicas(product, n)));
        if self.reads.changes_anything() {
            summary.warnings.extend(without_replicas(product, policy));
        }
        if policy.confirmed && self.min_acks.unwrap_or(product.min_acks) == 0 {
            let text = format!("read-confirmed has no effect on product '{name}' while its min-acks is 0");
            summary.warnings.push(text);
        }
        if matches!(self.auth, Some(SetAuth::Replace(None))) {
            summary.warnings.push(open_to_all(name));
        }
        summary
    }
}

/// A warning about groups in which no write can have the demanded acknowledgements.
fn too_few_replicas(product: &Product, min_acks: u8) -> Option<String> {
    let few = |servers: usize| servers <= usize::from(min_acks);
    let groups: Vec<_> =
        product.groups.values().filter(|g| few(g.servers.len())).map(|group| group.id.to_string()).collect();
    (min_acks > 0 && !groups.is_empty()).then(|| {
        format!(
            "group(s) {} of product '{}' have fewer than {min_acks} replica(s): every write there is answered -NOREPLICAS \
             until replicas are added (pontoon group add-server)",
            groups.join(", "),
            product.name
        )
    })
}

impl SetProductRequest {
    /// How the credentials of the clients change; `None`: not at all.
    fn auth(&self, now: Option<&Credentials>) -> Result<Option<SetAuth>, CallFailure> {
        let credentials = self.credentials(now)?;
        let bad = |text: &str| Err(CallFailure::Bad(text.into()));
        match (credentials, self.keep_sessions, self.remove_former_password) {
            (Some(_), _, true) => bad("set the new password first, and remove the former one with a second command"),
            (None, false, true) => Ok(Some(SetAuth::RemoveFormer)),
            (None, true, _) => bad("--keep-sessions needs the new password; give --password-file FILE"),
            (Some(None), true, false) => bad(
                "clients that logged in cannot stay when the password is removed; repeat this without --keep-sessions",
            ),
            (Some(Some(credentials)), true, false) => Ok(Some(SetAuth::Add(credentials))),
            (Some(credentials), false, false) => Ok(Some(SetAuth::Replace(credentials))),
            (None, false, false) => Ok(None),
        }
    }

    /// The new credentials of the clients; `None`: not changed, `Some(None)`: removed.
    fn credentials(&self, now: Option<&Credentials>) -> Result<Option<Option<Credentials>>, CallFailure> {
        let kept = now.and_then(|now| now.username.as_deref()).unwrap_or_default();
        match (&self.username, &self.password) {
            (None, None) => Ok(None),
            (None, Some(password)) if password.is_empty() => Ok(Some(None)),
            (username, Some(password)) => {
                validate::credentials(username.as_deref().unwrap_or(kept), password).map(Some)
            }
            (Some(username), None) => match now {
                Some(now) => validate::credentials(username, now.password.reveal()).map(Some),
                None => Err(CallFailure::Bad("a user name needs a password; give --password-file".into())),
            },
        }
    }
}

impl MutationHandler for RemoveProductRequest {
    forwardable!(remove_product);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let name = validate::product_name(&self.name)?;
        let summary = ChangeSummary::of(format!(
            "product '{name}' is removed; nodes close its port and its clients' connections"
        ));
        let state = api.state();
        if let Some((index, outcome)) = api.recorded(call)? {
            outcome?;
            return api.conclude(call, index, false, summary).await;
        }
        if state.products.values().all(|product| product.name != name) {
            return api.already(call, format!("there is no product '{name}'")).await;
        }
        let found = change::product(&state, &name)?;
        let remove = Change::RemoveProduct(RemoveProduct { product: found.id });
        if !self.abandon_data || found.groups.is_empty() {
            return api.make(call, remove, summary).await;
        }
        let emptied = emptied(found);
        if call.dry_run {
            let done = [emptied.done, summary.done].concat();
            return Ok(ChangeReply { done, warnings: emptied.warnings, ..ChangeReply::default() });
        }
        api.empty(call, found).await?;
        let warnings = emptied.warnings;
        api.make(call, remove, ChangeSummary { warnings, ..summary }).await
    }
}

/// What happens to the slots and groups of a product that is removed with its data.
fn emptied(product: &Product) -> ChangeSummary {
    let groups: Vec<String> = product.groups.keys().map(ToString::to_string).collect();
    let servers = product.groups.values().flat_map(|group| &group.servers).map(|server| server.addr.as_str());
    let servers = servers.collect::<Vec<_>>().join(", ");
    ChangeSummary {
        done: vec![
            format!("{} slots of product '{}' are released, under a hold", owned(product).len(), product.name),
            format!("group(s) {} are removed", groups.join(", ")),
        ],
        warnings: vec![format!("the keys stay on {servers}; delete them there before you use these servers again")],
        product: None,
    }
}

fn owned(product: &Product) -> BTreeSet<SlotId> {
    (0..).zip(&product.slots).filter(|(_, state)| state.owner.is_some()).map(|(slot, _)| SlotId(slot)).collect()
}

impl Api {
    /// Releases all slots of a product and removes its groups, each step under an id of its own, so that a repeat of the
    /// call goes on where the first one ended.
    async fn empty(&self, call: &MutationCall, product: &Product) -> Result<(), CallFailure> {
        // Group ids begin at 1.
        let step = |n: u32| call.step(n);
        let slots = owned(product);
        if !slots.is_empty() {
            let release = StartAssign { product: product.id, slots, to: None, abandon: true };
            let (index, outcome) = self.propose(&step(0), Change::StartAssign(release)).await?;
            self.assigned(&step(0), index, outcome, ChangeSummary::default()).await?;
        }
        for group in product.groups.keys() {
            let remove = RemoveGroup { product: product.id, group: *group, keys_left: None };
            // The slots are released already: a repeat of the command goes on.
            self.propose(&step(group.0), Change::RemoveGroup(remove)).await.map_err(|failure| match failure {
                CallFailure::Refused(why) => {
                    CallFailure::Stuck(format!("the slots are released, but group {group} stays: {why}"))
                }
                other => other,
            })?;
        }
        Ok(())
    }
}
