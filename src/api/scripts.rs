//! Changes the script catalogues of products, as their clients ask for it: nodes pass it on to the leader. Scripts are only
//! recorded, since the nodes load them. Libraries of functions change here: first at one primary, which checks them, then in
//! the log, then at all primaries.
//! Knows nothing of the clients' protocol.

use std::collections::BTreeSet;

use bytes::Bytes;
use tokio::{sync::Mutex, task::JoinSet, time::Instant};
use tracing::warn;

use super::{
    Api,
    call::MutationCall,
    change::{MutationHandler, forwardable},
    error::CallFailure,
};
use crate::{
    clock,
    control::servers::{
        first_primary::FirstPrimary,
        libraries::{ACT_MAX, Turn, list, make_equal, open},
    },
    model::{
        apply,
        change::{Change, DeleteLibraries, FlushScripts, LoadLibrary, LoadScript},
        ids::{Epoch, GroupId, HostPort, ProductId},
        secret::Credentials,
        state::Product,
    },
    plan::libraries::Libraries,
    wire::pb::admin::{self, ChangeReply, ChangeScriptsRequest, change_scripts_request::What},
};

/// One change of libraries at a time. They are rare, and each compares servers with the catalogue.
static LIBRARIES: Mutex<()> = Mutex::const_new(());

impl MutationHandler for ChangeScriptsRequest {
    forwardable!(change_scripts);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let product = ProductId(self.product);
        let Some(what) = &self.what else { return Err(CallFailure::Bad("nothing to change".into())) };
        match what {
            What::LoadScript(body) => {
                let change = Change::LoadScript(LoadScript { product, body: body.clone() });
                api.record(call, change).await
            }
            What::FlushScripts(_) => api.record(call, Change::FlushScripts(FlushScripts { product })).await,
            What::LoadLibrary(admin::LoadLibrary { code, replace }) => {
                let _turn = LIBRARIES.lock().await;
                api.load_library(call, product, code, *replace).await
            }
            What::DeleteLibrary(name) => {
                let _turn = LIBRARIES.lock().await;
                api.delete_library(call, product, name).await
            }
            What::FlushLibraries(_) => {
                let _turn = LIBRARIES.lock().await;
                api.flush_libraries(call, product).await
            }
            What::RestoreLibraries(restored) => {
                let _turn = LIBRARIES.lock().await;
                api.restore_libraries(call, product, restored).await
            }
        }
    }
}

fn done(index: Epoch) -> ChangeReply {
    ChangeReply { index: index.0, ..ChangeReply::default() }
}

/// The primary of a group, and how to log in there.
#[derive(Clone, Debug)]
struct Primary {
    group: GroupId,
    addr: HostPort,
    credentials: Option<Credentials>,
}

fn unreachable(why: &str) -> CallFailure {
    warn!(why, "a change of libraries was given up");
    CallFailure::Refused("TRYAGAIN not executed: a primary does not answer".into())
}

impl Api {
    /// Records a change of a catalogue. What changes nothing, or would be refused, is not appended: clients may ask for it
    /// without end.
    async fn record(&self, call: &MutationCall, change: Change) -> Result<ChangeReply, CallFailure> {
        if let Some((index, outcome)) = self.recorded(call)? {
            outcome?;
            return Ok(done(index));
        }
        let state = self.state();
        if apply::changes_catalogue(&state, &change, clock::wall_ms())? {
            return Ok(done(self.propose(call, change).await?.0));
        }
        // Another leader may have changed it since.
        self.control.log.confirm_leadership(call.left()).await?;
        Ok(ChangeReply { unchanged: true, ..done(state.applied) })
    }

    /// Connects to the first primary that answers, and brings its libraries to the catalogue.
    async fn first_primary(&self, product: ProductId, deadline: Instant) -> Result<FirstPrimary, CallFailure> {
        let state = self.state();
        let product = state.products.get(&product).ok_or_else(removed)?;
        let mut why = "the product has no groups".to_owned();
        for primary in primaries(product) {
            let by = deadline.min(Instant::now() + ACT_MAX);
            let login = (&primary.addr, primary.credentials.as_ref(), self.connection_name());
            match FirstPrimary::open(login, &product.scripts, by).await {
                Ok(first) => return Ok(first),
                Err(error) => why = error,
            }
        }
        Err(unreachable(&why))
    }

    fn connection_name(&self) -> String {
        let cluster = self.control.log.cluster_id().unwrap_or_default();
        format!("pt:{cluster}:libraries:{}", self.control.me)
    }

    /// Brings all primaries to the catalogue. Returns the reply, which says where that failed.
    async fn spread(
        &self,
        call: &MutationCall,
        product: ProductId,
        recorded: ChangeReply,
        name: Option<String>,
    ) -> Result<ChangeReply, CallFailure> {
        let state = self.state();
        let Some(product) = state.products.get(&product) else { return Ok(recorded) };
        let deadline = call.deadline;
        let mut tasks = JoinSet::new();
        for primary in primaries(product) {
            let (catalogue, connection) = (product.scripts.clone(), self.connection_name());
            tasks.spawn(async move {
                let equal = async {
                    let _turn = Turn::at(&primary.addr).await;
                    let by = deadline.min(Instant::now() + ACT_MAX);
                    let mut client = open(&primary.addr, primary.credentials.as_ref(), &connection, by).await?;
                    make_equal(&mut client, &catalogue, by).await
                };
                (primary.group, equal.await.map_err(|error| error.to_string()))
            });
        }
        let (mut at, mut not_at) = (BTreeSet::new(), BTreeSet::new());
        for (group, result) in tasks.join_all().await {
            match result {
                Ok(_) => at.insert(group),
                Err(why) => {
                    warn!(%group, why, "libraries could not be changed at a group; it is tried again");
                    not_at.insert(group)
                }
            };
        }
        let listed = |groups: &BTreeSet<GroupId>| {
            let all: Vec<String> = groups.iter().map(ToString::to_string).collect();
            if all.is_empty() { "none".to_owned() } else { all.join(", ") }
        };
        let partial = format!(
            "done at group(s) {}, not yet at group(s) {}, where it will be as soon as they answer",
            listed(&at),
            listed(&not_at)
        );
        let warnings = if not_at.is_empty() { Vec::new() } else { vec![partial] };
        Ok(ChangeReply { done: name.into_iter().collect(), warnings, ..recorded })
    }

    async fn load_library(
        &self,
        call: &MutationCall,
        product: ProductId,
        code: &Bytes,
        replace: bool,
    ) -> Result<ChangeReply, CallFailure> {
        let recorded = self.recorded(call)?;
        let mut first = self.first_primary(product, call.deadline).await?;
        let known =
            |libraries: &Libraries| libraries.iter().find(|(_, text)| *text == code).map(|(name, _)| name.clone());
        if let Some((index, outcome)) = recorded {
            outcome?;
            let name = known(&first.before);
            drop(first);
            return self.spread(call, product, done(index), name).await;
        }
        let mut command: Vec<&[u8]> = vec![b"FUNCTION", b"LOAD"];
        command.extend(replace.then_some(b"REPLACE".as_slice()));
        command.push(code);
        let name = match first.ask(&command, call.deadline).await.map_err(|why| unreachable(&why))? {
            Ok(reply) => reply.text().unwrap_or_default().to_owned(),
            Err(text) => {
                // A call that broke off may have loaded it, and not recorded it.
                let state = self.state();
                let recorded = |name: &String| {
                    let product = state.products.get(&product);
                    product.is_some_and(|product| product.scripts.libraries().contains_key(name))
                };
                match known(&first.before).filter(|name| text.contains("already exists") && !recorded(name)) {
                    Some(name) => name,
                    None => return Err(CallFailure::Refused(text)),
                }
            }
        };
        let change = Change::LoadLibrary(LoadLibrary { product, name: name.clone(), code: code.clone() });
        match self.record(call, change).await {
            Ok(recorded) => {
                drop(first);
                self.spread(call, product, recorded, Some(name)).await
            }
            Err(failure) => {
                if is_unmade(&failure) {
                    first.restore(call.deadline).await;
                }
                Err(failure)
            }
        }
    }

    async fn delete_library(
        &self,
        call: &MutationCall,
        product: ProductId,
        name: &Bytes,
    ) -> Result<ChangeReply, CallFailure> {
        if let Some((index, outcome)) = self.recorded(call)? {
            outcome?;
            return self.spread(call, product, done(index), None).await;
        }
        let present = self.first_primary(product, call.deadline).await?.before.into_keys().collect::<BTreeSet<_>>();
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| present.contains(*name)) else {
            return Err(CallFailure::Refused("ERR Library not found".into()));
        };
        let names = [name.to_owned()].into();
        let recorded = self.record(call, Change::DeleteLibraries(DeleteLibraries { product, names })).await?;
        self.spread(call, product, recorded, None).await
    }

    async fn flush_libraries(&self, call: &MutationCall, product: ProductId) -> Result<ChangeReply, CallFailure> {
        if let Some((index, outcome)) = self.recorded(call)? {
            outcome?;
            return self.spread(call, product, done(index), None).await;
        }
        let state = self.state();
        let catalogue = state.products.get(&product).ok_or_else(removed)?.scripts.clone();
        let names: BTreeSet<String> =
            catalogue.libraries().keys().cloned().chain(self.listed(product, call.deadline).await?).collect();
        if names.is_empty() {
            self.control.log.confirm_leadership(call.left()).await?;
            return Ok(ChangeReply { unchanged: true, ..done(state.applied) });
        }
        let recorded = self.record(call, Change::DeleteLibraries(DeleteLibraries { product, names })).await?;
        self.spread(call, product, recorded, None).await
    }

    /// The names of the libraries that any primary has which answers.
    async fn listed(&self, product: ProductId, deadline: Instant) -> Result<BTreeSet<String>, CallFailure> {
        let state = self.state();
        let product = state.products.get(&product).ok_or_else(removed)?;
        let by = deadline.min(Instant::now() + ACT_MAX);
        let mut tasks = JoinSet::new();
        for primary in primaries(product) {
            let connection = self.connection_name();
            tasks.spawn(async move {
                let mut client = open(&primary.addr, primary.credentials.as_ref(), &connection, by).await?;
                list(&mut client, by).await
            });
        }
        Ok(tasks.join_all().await.into_iter().flatten().flat_map(Libraries::into_keys).collect())
    }

    async fn restore_libraries(
        &self,
        call: &MutationCall,
        product: ProductId,
        restored: &admin::RestoreLibraries,
    ) -> Result<ChangeReply, CallFailure> {
        // Its changes have ids of their own. A call that broke off goes on with what is not recorded yet.
        let began = self.recorded(&call.step(0))?.is_some();
        let mut first = self.first_primary(product, call.deadline).await?;
        let mut command: Vec<&[u8]> = vec![b"FUNCTION", b"RESTORE", &restored.payload];
        command.extend(Some(&*restored.policy).filter(|policy| !policy.is_empty()));
        if let Err(text) = first.ask(&command, call.deadline).await.map_err(|why| unreachable(&why))?
            && !began
        {
            return Err(CallFailure::Refused(text));
        }
        let after = first.list(call.deadline).await.map_err(|why| unreachable(&why))?;
        let state = self.state();
        let catalogue = state.products.get(&product).ok_or_else(removed)?.scripts.clone();
        let known = catalogue.libraries();
        let deleted: BTreeSet<String> = known.keys().filter(|name| !after.contains_key(*name)).cloned().collect();
        let mut changes = Vec::new();
        if !deleted.is_empty() {
            changes.push(Change::DeleteLibraries(DeleteLibraries { product, names: deleted }));
        }
        let changed =
            after.into_iter().filter(|(name, code)| known.get(name).map(|library| &library.text) != Some(code));
        changes.extend(changed.map(|(name, code)| Change::LoadLibrary(LoadLibrary { product, name, code })));
        let mut recorded = ChangeReply { unchanged: true, ..done(state.applied) };
        for (n, change) in (0..).zip(changes) {
            match self.record(&call.step(n), change).await {
                Ok(reply) if reply.unchanged => {}
                Ok(reply) => recorded = reply,
                Err(failure) => {
                    if n == 0 && is_unmade(&failure) {
                        first.restore(call.deadline).await;
                    }
                    return Err(failure);
                }
            }
        }
        drop(first);
        self.spread(call, product, recorded, None).await
    }
}

/// Whether the change was certainly not made.
const fn is_unmade(failure: &CallFailure) -> bool {
    matches!(failure, CallFailure::Refused(_) | CallFailure::NotLeader(_) | CallFailure::Bad(_))
}

fn primaries(product: &Product) -> Vec<Primary> {
    let primary = |group: &crate::model::state::Group| {
        let addr = group.servers.first()?.addr.clone();
        Some(Primary { group: group.id, addr, credentials: group.credentials.clone() })
    };
    product.groups.values().filter_map(primary).collect()
}

fn removed() -> CallFailure {
    CallFailure::Refused("ERR the product was removed, not executed".into())
}
