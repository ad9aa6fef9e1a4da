//! Products: creation, settings, removal.
//! Knows nothing of listeners, except that no two of a host may use the same port.

use std::sync::Arc;

use super::{
    Apply,
    common::{product, product_mut, routed},
    events::When,
    guard::credentials_usable,
};
use crate::model::{
    auth::ProductAuth,
    change::{NewProduct, RemoveProduct, SetAuth, SetProduct},
    client_rules::ClientRules,
    ids::{Epoch, ProductId},
    limits::{
        CLIENTS_MAX, DATABASES_MAX, DEFAULT_MIN_ACKS_MS, MAX_LAG_MS, MIN_ACKS_MAX, MIN_ACKS_MS, NAME_LEN_MAX,
        PRODUCTS_MAX,
    },
    outcome::Outcome,
    ports::{NodePorts, check_listeners, products, servers},
    reads::{ReadFrom, ReadPolicy},
    reject::Reject,
    scan_history::ScanHistory,
    state::{ClusterState, Position, Product, SlotState},
};

impl Apply for NewProduct {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let at = when.at;
        if !name_allowed(&self.name) {
            return Err(Reject::BadProductName(self.name.chars().take(NAME_LEN_MAX).collect()));
        }
        if state.products.values().any(|p| p.name == self.name) {
            return Err(Reject::ProductExists(self.name.clone()));
        }
        if state.products.len() >= PRODUCTS_MAX {
            return Err(Reject::TooManyProducts { max: PRODUCTS_MAX });
        }
        databases_allowed(self.databases)?;
        if let Some(auth) = &self.auth {
            credentials_usable(auth)?;
        }
        let mut ports = products(state);
        ports.push((&self.name, self.port));
        check_listeners(state.members.values().map(NodePorts::from), &ports, servers(state))?;

        let id = insert(state, self, at);
        routed(state, at);
        Ok(Outcome::Product(id))
    }
}

impl Apply for SetProduct {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self {
            product: id,
            port,
            databases,
            ref auth,
            auto_rebalance,
            min_acks,
            min_acks_ms,
            reads,
            clients_max,
            rules,
        } = *self;
        let at = when.at;
        let before = product(state, id)?;
        if let Some(databases) = databases {
            databases_allowed(databases)?;
        }
        acks_allowed(min_acks, min_acks_ms)?;
        let auth = auth.as_ref().map(|set| auth_after(before, set, at.index)).transpose()?;
        if let Some(ms) = reads.max_lag_ms.filter(|ms| *ms != 0 && !MAX_LAG_MS.contains(ms)) {
            return Err(Reject::BadMaxLag(ms));
        }
        if let Some(clients) = clients_max.filter(|n| *n > CLIENTS_MAX) {
            return Err(Reject::BadClientsMax(clients));
        }
        rules.check()?;
        let wanted = reads.of(before.reads);
        if wanted.confirmed && wanted.from != ReadFrom::Primary {
            return Err(Reject::ConfirmedReadsAtReplicas(before.name.clone()));
        }
        let same = port.is_none_or(|p| p == before.port)
            && databases.is_none_or(|d| d == before.databases)
            && auth.as_ref().is_none_or(|a| *a == before.auth)
            && min_acks.is_none_or(|n| n == before.min_acks)
            && min_acks_ms.is_none_or(|ms| ms == before.min_acks_ms)
            && wanted == before.reads
            && clients_max.is_none_or(|n| n == before.clients_max)
            && rules.of(before.rules) == before.rules;
        let switched = auto_rebalance.is_some_and(|on| on != before.auto_rebalance);
        if same && !switched {
            return Ok(Outcome::Unchanged);
        }
        if let Some(port) = port {
            let ports: Vec<_> =
                state.products.values().map(|p| (p.name.as_str(), if p.id == id { port } else { p.port })).collect();
            check_listeners(state.members.values().map(NodePorts::from), &ports, servers(state))?;
        }

        let product = product_mut(state, id)?;
        product.port = port.unwrap_or(product.port);
        product.databases = databases.unwrap_or(product.databases);
        if let Some(auth) = auth {
            product.auth = auth;
        }
        product.min_acks = min_acks.unwrap_or(product.min_acks);
        product.min_acks_ms = min_acks_ms.unwrap_or(product.min_acks_ms);
        product.auto_rebalance = auto_rebalance.unwrap_or(product.auto_rebalance);
        product.reads = reads.of(product.reads);
        product.clients_max = clients_max.unwrap_or(product.clients_max);
        product.rules = rules.of(product.rules);
        // Workers do not need to know whether migrations are planned automatically.
        if !same {
            routed(state, at);
        }
        Ok(Outcome::Done)
    }
}

impl Apply for RemoveProduct {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: id } = *self;
        let at = when.at;
        let product = product(state, id)?;
        if let Some(group) = product.groups.keys().next() {
            let count = product.groups.len();
            return Err(Reject::ProductHasGroups { product: product.name.clone(), count, group: *group });
        }

        // Without groups no slot has an owner, so there are no assignments and no holds either.
        state.products.remove(&id);
        routed(state, at);
        Ok(Outcome::Done)
    }
}

/// Adds a product that was checked.
pub(super) fn insert(state: &mut ClusterState, new: &NewProduct, at: Position) -> ProductId {
    let id = ProductId(state.next_product.max(1));
    state.next_product = id.0 + 1;
    let product = Product {
        id,
        name: new.name.clone(),
        port: new.port,
        layout: new.layout,
        mode: new.mode,
        isolated: new.isolated,
        databases: new.databases,
        auth: ProductAuth::default().replaced(new.auth.clone(), at.index),
        groups: Default::default(),
        auto_rebalance: false,
        min_acks: 0,
        min_acks_ms: DEFAULT_MIN_ACKS_MS,
        reads: ReadPolicy::default(),
        clients_max: 0,
        rules: ClientRules::default(),
        scripts: Arc::default(),
        sweep_runs: 0,
        slots: vec![SlotState::default(); usize::from(new.layout.slots())],
        scans: ScanHistory::default(),
    };
    state.products.insert(id, product);
    id
}

/// What clients of `product` log in with after a change at log index `at`.
fn auth_after(product: &Product, set: &SetAuth, at: Epoch) -> Result<ProductAuth, Reject> {
    let before = &product.auth;
    match set {
        SetAuth::Replace(None) => Ok(before.replaced(None, at)),
        SetAuth::Replace(Some(credentials)) => {
            credentials_usable(credentials)?;
            Ok(before.replaced(Some(credentials.clone()), at))
        }
        SetAuth::Add(credentials) => {
            credentials_usable(credentials)?;
            let Some(newest) = &before.credentials else { return Err(Reject::NoPasswordToKeep(product.name.clone())) };
            let after = before.added(newest, credentials.clone(), at);
            // A third would end the sessions of the first without a word.
            match &before.former {
                Some(former) if !after.is_valid(former.version) => Err(Reject::TwoPasswords(product.name.clone())),
                Some(_) | None => Ok(after),
            }
        }
        SetAuth::RemoveFormer => Ok(before.without_former()),
    }
}

/// 1 to 64 of `[A-Za-z0-9_.-]`, not beginning with a dot or dash, because it is used in file names and on command
/// lines.
fn name_allowed(name: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !name.starts_with(['.', '-'])
}

fn databases_allowed(databases: u32) -> Result<(), Reject> {
    if (1..=DATABASES_MAX).contains(&databases) { Ok(()) } else { Err(Reject::BadDatabases(databases)) }
}

fn acks_allowed(replicas: Option<u8>, ms: Option<u32>) -> Result<(), Reject> {
    if let Some(replicas) = replicas.filter(|n| *n > MIN_ACKS_MAX) {
        return Err(Reject::BadMinAcks(replicas));
    }
    match ms {
        Some(ms) if !MIN_ACKS_MS.contains(&ms) => Err(Reject::BadMinAcksMs(ms)),
        Some(_) | None => Ok(()),
    }
}
