//! Changes that would break every request of a group, or hide data: an operator must force them.
//! Knows nothing of how they are made.

use tokio::time::Instant;

use super::{Api, call::MutationCall, error::CallFailure};
use crate::{
    control::admission::server::ServerAdmission,
    model::{
        apply,
        change::Change,
        state::{ClusterState, Group, Product},
    },
    plan::shortage,
};

impl Api {
    /// Refuses a change after which clients of slots would lack the replicas that their product demands.
    ///
    /// # Errors
    /// [`CallFailure::Refused`] if the log would reject the change, or replicas would be missing.
    pub(super) fn keeps_replicas(&self, call: &MutationCall, change: &Change) -> Result<(), CallFailure> {
        // A repeat asks what became of the change.
        if self.recorded(call)?.is_some() {
            return Ok(());
        }
        let state = self.state();
        shortage::objection(&state, &apply::after(&state, change)?).map_or(Ok(()), |why| Err(CallFailure::Refused(why)))
    }

    /// Why an operator must force this number of databases, as text; `None`: it hides nothing.
    pub(super) async fn hides_keys(
        &self,
        state: &ClusterState,
        product: &Product,
        databases: Option<u32>,
        deadline: Instant,
    ) -> Option<String> {
        let fewer = databases.filter(|databases| *databases < product.databases)?;
        for group in serving(product) {
            let admission = self.asking(state, product, group, deadline);
            let addr = &group.servers.first()?.addr;
            let hidden = match admission.keyspace(addr).await {
                Ok(keys) => keys.into_iter().find(|(db, _)| *db >= fewer),
                Err(error) => {
                    return Some(format!(
                        "it is not known whether database {fewer} and higher ones have keys at {addr} (group {}): {error}; try \
                         again when it answers, or --force",
                        group.id
                    ));
                }
            };
            if let Some((db, keys)) = hidden {
                return Some(format!(
                    "database {db} at {addr} (group {}) has {keys} key(s), which clients of product '{}' could no longer reach \
                     with databases={fewer}; move or delete them first, or --force",
                    group.id, product.name
                ));
            }
        }
        None
    }

    /// Why an operator must force this number of databases, as text; `None`: all servers have them. Those of groups without
    /// slots and replicas count, too, since slots come to them, and they become primaries.
    pub(super) async fn exceeds_servers(
        &self,
        state: &ClusterState,
        product: &Product,
        databases: Option<u32>,
        deadline: Instant,
    ) -> Option<String> {
        let more = databases.filter(|databases| *databases > product.databases)?;
        for group in product.groups.values() {
            for server in &group.servers {
                let (addr, id) = (&server.addr, group.id);
                let why = match self.asking(state, product, group, deadline).databases(addr).await {
                    Ok(Some(has)) if has < more => format!(
                        "{addr} (group {id}) has {has} databases: every request in database {has} and higher ones of product '{}' \
                         would fail there; set 'databases {more}' in its redis.conf and restart it first",
                        product.name
                    ),
                    Ok(_) => continue,
                    Err(error) => format!(
                        "it is not known whether {addr} (group {id}) has {more} databases: {error}; try again when it answers"
                    ),
                };
                return Some(format!("{why}, or --force"));
            }
        }
        None
    }

    fn asking<'a>(
        &self,
        state: &'a ClusterState,
        product: &'a Product,
        group: &'a Group,
        deadline: Instant,
    ) -> ServerAdmission<'a> {
        let (credentials, cluster) = (group.credentials.as_ref(), self.control.log.cluster_id());
        ServerAdmission { state, product, credentials, cluster, deadline }
    }
}

/// The groups that own slots.
fn serving(product: &Product) -> impl Iterator<Item = &Group> {
    product.groups.values().filter(|group| product.slots.iter().any(|slot| slot.owner == Some(group.id)))
}
