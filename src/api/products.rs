//! Changes of products: create, set, remove.
//! Knows nothing of listeners; nodes bind them when the state says so.

use super::{
    Api,
    change::{self, ChangeSummary, MutationCall, MutationHandler, forwardable, product_id},
    error::CallFailure,
    validate,
};
use crate::{
    model::{
        change::{Change, NewProduct, RemoveProduct, SetProduct},
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
        let (mode, isolated) = validate::mode(&self.mode, &self.isolated)?;
        let new = NewProduct {
            name: name.clone(),
            port: validate::port(self.port)?,
            layout: validate::layout(&self.layout)?,
            mode,
            isolated,
            databases: validate::databases(self.databases)?,
            auth: validate::credentials(&self.username, &self.password)?,
        };
        let mut said = ChangeSummary::of(format!(
            "product '{name}' is made: port {} plus each node's offset, {} slots, {} databases",
            new.port,
            new.layout.slots(),
            new.databases
        ));
        if new.auth.is_none() {
            said.warnings.push(open_to_all(&name));
        }
        api.make(call, Change::CreateProduct(new), said.about(&name)).await
    }
}

fn open_to_all(name: &str) -> String {
    format!(
        "product '{name}' has no password: nodes bind its port on loopback only, unless they run with --insecure; \
         pontoon product set {name} --password-file FILE opens it"
    )
}

/// Reads that never go to the primary find nobody in a group without replicas.
fn without_replicas(product: &Product, policy: ReadPolicy) -> Option<String> {
    let alone = product.groups.values().filter(|group| group.servers.len() < 2).map(|group| group.id.to_string());
    let alone: Vec<String> = alone.collect();
    (policy.from == ReadFrom::Replica && !alone.is_empty()).then(|| {
        format!(
            "group {} of product '{}' has no replica: all reads of its slots are answered -TRYAGAIN; pontoon group \
             add-server gives it one, read-from=prefer-replica reads from its primary",
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
        let name = &product.name;
        let port = self.port.map(validate::port).transpose()?;
        if self.databases == Some(0) {
            return Err(CallFailure::Bad("a product has at least 1 database".into()));
        }
        let databases = self.databases.map(validate::databases).transpose()?;
        let auth = self.auth(product.auth.as_ref())?;
        let min_acks = self.min_acks.map(validate::min_acks).transpose()?;
        let min_acks_ms = self.min_acks_ms.map(validate::min_acks_ms).transpose()?;
        let reads = SetReads {
            from: self.read_from.as_deref().map(validate::read_from).transpose()?,
            max_lag_ms: self.max_lag_ms,
            own_writes: self.read_your_writes,
        };
        let setting = self.auto_rebalance.is_some() || min_acks.is_some() || min_acks_ms.is_some();
        let setting = setting || reads.says_something();
        if port.is_none() && databases.is_none() && auth.is_none() && !setting {
            return Err(CallFailure::Bad(
                "nothing to set; give port=P, databases=N, auto-rebalance=on|off, min-acks=N, min-acks-timeout=TIME, \
                 read-from=WHERE, max-lag=1s, read-your-writes=on|off or --password-file FILE"
                    .into(),
            ));
        }
        let mut said = ChangeSummary::default().about(name);
        said.done.extend(port.map(|port| format!("product '{name}': port {port}; clients have to follow")));
        said.done.extend(databases.map(|n| format!("product '{name}': {n} databases")));
        said.done.extend(self.auto_rebalance.map(|on| match on {
            true => format!("product '{name}': slots are rebalanced by themselves when groups change or load drifts"),
            false => format!("product '{name}': slots move only when told"),
        }));
        said.done.extend(min_acks.map(|n| match n {
            0 => format!("product '{name}': writes are acknowledged without waiting for replicas"),
            n => format!("product '{name}': a write is acknowledged when {n} replica(s) have it"),
        }));
        said.done.extend(min_acks_ms.map(|ms| format!("product '{name}': replicas are waited for {ms} ms")));
        said.warnings.extend(min_acks.and_then(|n| too_few_replicas(product, n)));
        if reads.says_something() {
            let policy = reads.of(product.reads);
            said.done.push(format!("product '{name}': {policy}"));
            said.warnings.extend(without_replicas(product, policy));
        }
        match &auth {
            None => {}
            Some(None) => {
                said.done.push(format!("product '{name}': clients need no password any more"));
                said.warnings.push(open_to_all(name));
            }
            Some(Some(_)) => said.done.push(format!("product '{name}': clients log in with the given credentials")),
        }
        api.make(
            call,
            Change::SetProduct(SetProduct {
                product: product.id,
                port,
                databases,
                auth,
                auto_rebalance: self.auto_rebalance,
                min_acks,
                min_acks_ms,
                reads,
            }),
            said,
        )
        .await
    }
}

/// Groups in which no write can be confirmed.
fn too_few_replicas(product: &Product, min_acks: u8) -> Option<String> {
    let few = |servers: usize| servers <= usize::from(min_acks);
    let groups: Vec<_> =
        product.groups.values().filter(|g| few(g.servers.len())).map(|group| group.id.to_string()).collect();
    (min_acks > 0 && !groups.is_empty()).then(|| {
        format!(
            "group(s) {} of product '{}' have fewer than {min_acks} replica(s): every write there is answered -NOREPLICAS \
             until there are enough (pontoon group add-server)",
            groups.join(", "),
            product.name
        )
    })
}

impl SetProductRequest {
    /// What becomes of the clients' credentials; what is absent stays.
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
        let said = ChangeSummary::of(format!(
            "product '{name}' is removed; nodes close its port and its clients' connections"
        ));
        let state = api.state();
        if let Some((index, outcome)) = api.recorded(call)? {
            outcome?;
            return api.conclude(call, index, false, said).await;
        }
        let product = product_id(&state, &name)?;
        api.make(call, Change::RemoveProduct(RemoveProduct { product }), said).await
    }
}
