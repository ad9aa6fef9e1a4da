//! Changes of products: create, set, remove.
//! Knows nothing of listeners; nodes bind them according to the state.

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary, MutationHandler, forwardable, product_id},
    data_user,
    error::CallFailure,
    validate,
};
use crate::{
    model::{
        change::{Change, NewProduct, RemoveProduct, SetProduct},
        client_rules::SetClientRules,
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
        if api.recorded(call)?.is_none() {
            data_user::may_add_product(&api.state(), self.accept_shared_risk)?;
        }
        let new = NewProduct {
            name: name.clone(),
            port: validate::port(self.port)?,
            layout: validate::layout(self.layout)?,
            mode,
            isolated,
            databases: validate::databases(self.databases)?,
            auth: validate::credentials(&self.username, &self.password)?,
        };
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

fn open_to_all(name: &str) -> String {
    format!(
        "product '{name}' has no password: nodes bind its port on loopback only, unless they run with --insecure; \
         pontoon product set {name} --password-file FILE opens it"
    )
}

/// A warning about groups without replicas, where reads that never go to the primary find no server.
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
        let product = change::product(&state, &self.name).map_err(change::refused)?;
        if self.databases == Some(0) {
            return Err(CallFailure::Bad("a product has at least 1 database".into()));
        }
        let settings = ProductSettings {
            port: self.port.map(validate::port).transpose()?,
            databases: self.databases.map(validate::databases).transpose()?,
            auth: self.auth(product.auth.as_ref())?,
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
                idle_ms: self.idle_timeout_ms,
            },
        };
        if settings.is_empty() {
            return Err(CallFailure::Bad(
                "nothing to set; give port=P, databases=N, auto-rebalance=on|off, min-acks=N, min-acks-timeout=TIME, \
                 read-from=WHERE, max-lag=1s, read-your-writes=on|off, read-confirmed=on|off, clients-max=N, \
                 ops-max=N, bytes-max=SIZE, scripts=on|off, idle-timeout=5m|off or \
                 --password-file FILE"
                    .into(),
            ));
        }
        let summary = settings.summary(product);
        let ProductSettings { port, databases, auth, auto_rebalance, min_acks, min_acks_ms, reads, clients_max, rules } =
            settings;
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
        api.make(call, change, summary).await
    }
}

/// The settings of a request, checked. `None`: not changed.
struct ProductSettings {
    port: Option<u16>,
    databases: Option<u32>,
    /// `Some(None)`: removed.
    auth: Option<Option<Credentials>>,
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
            Some(None) => set("clients no longer need a password".into()),
            Some(Some(_)) => set("clients log in with the given credentials".into()),
        }
        summary.warnings.extend(self.min_acks.and_then(|n| too_few_replicas(product, n)));
        if self.reads.changes_anything() {
            summary.warnings.extend(without_replicas(product, policy));
        }
        if policy.confirmed && self.min_acks.unwrap_or(product.min_acks) == 0 {
            let text = format!("read-confirmed has no effect on product '{name}' while its min-acks is 0");
            summary.warnings.push(text);
        }
        if matches!(self.auth, Some(None)) {
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
    /// The new credentials of the clients; `None`: not changed, `Some(None)`: removed.
    fn auth(&self, now: Option<&Credentials>) -> Result<Option<Option<Credentials>>, CallFailure> {
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
        let product = product_id(&state, &name)?;
        api.make(call, Change::RemoveProduct(RemoveProduct { product }), summary).await
    }
}
