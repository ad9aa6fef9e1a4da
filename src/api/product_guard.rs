//! New settings of a product that would break every request of a group, or hide data: an operator must force them.
//! Knows nothing of how settings are changed.

use tokio::time::Instant;

use super::Api;
use crate::{
    control::admission::server::ServerAdmission,
    model::state::{ClusterState, Group, Product},
};

/// Groups that are named in a refusal. The rest is only counted.
const NAMED_MAX: usize = 10;

impl Api {
    /// Why an operator must force these settings, as text; `None`: they break nothing.
    pub(super) async fn objection(
        &self,
        state: &ClusterState,
        product: &Product,
        (min_acks, databases): (Option<u8>, Option<u32>),
        deadline: Instant,
    ) -> Option<String> {
        if let Some(why) = min_acks.and_then(|min_acks| unconfirmed(product, min_acks)) {
            return Some(why);
        }
        let fewer = databases.filter(|databases| *databases < product.databases)?;
        for group in serving(product) {
            let admission = ServerAdmission {
                state,
                product,
                credentials: group.credentials.as_ref(),
                cluster: self.control.log.cluster_id(),
                deadline,
            };
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
}

/// Groups of which every write would be answered -NOREPLICAS, if there are any and this is new.
fn unconfirmed(product: &Product, min_acks: u8) -> Option<String> {
    let few = |group: &&Group| group.servers.len() <= usize::from(min_acks);
    let groups: Vec<String> = serving(product).filter(few).map(|group| group.id.to_string()).collect();
    if min_acks <= product.min_acks || groups.is_empty() {
        return None;
    }
    let more = groups.len().saturating_sub(NAMED_MAX);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(format!(
        "group(s) {}{rest} of product '{}' have fewer than {min_acks} replica(s): every write there would be answered \
         -NOREPLICAS; add replicas first (pontoon group add-server), or --force",
        groups[..groups.len() - more].join(", "),
        product.name
    ))
}

/// The groups that own slots.
fn serving(product: &Product) -> impl Iterator<Item = &Group> {
    product.groups.values().filter(|group| product.slots.iter().any(|slot| slot.owner == Some(group.id)))
}
