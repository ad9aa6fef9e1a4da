//! Whether scripts of one product's clients could reach servers of another one: an operator must accept that. It is checked
//! before every change after which two products may have servers.
//! Knows nothing of the rights of a data user; that is for control::admission.

use tokio::time::Instant;

use super::{Api, error::CallFailure};
use crate::{
    control::admission::server::ServerAdmission,
    model::{
        data_user::DataUser,
        ids::ProductId,
        state::{ClusterState, Group, Product},
    },
};

const ACCEPT: &str = "or accept this risk with --accept-shared-risk";

/// Refuses a data user whose scripts reach other servers (`reach` says how) while other products have servers.
///
/// # Errors
/// [`CallFailure::Refused`], with what to do.
pub fn reaches_nobody(admission: &ServerAdmission<'_>, reach: Option<&str>) -> Result<(), CallFailure> {
    let Some((reach, other)) = reach.zip(other_product(admission.state, admission.product.id)) else { return Ok(()) };
    Err(CallFailure::Refused(format!(
        "{reach}. Scripts of product '{}' could then read and overwrite keys of product '{other}'. Forbid it, {ACCEPT}",
        admission.product.name
    )))
}

/// Another product that has groups.
pub fn other_product(state: &ClusterState, than: ProductId) -> Option<&str> {
    let mut others = state.products.values().filter(|product| product.id != than && !product.groups.is_empty());
    others.next().map(|product| product.name.as_str())
}

impl Api {
    /// Refuses servers for a product, or for a new one (`None`), while scripts of clients of another one could reach them.
    ///
    /// # Errors
    /// [`CallFailure::Refused`] with the first group whose scripts could do that, or of which it is not known.
    pub(super) async fn reached_by_nobody(
        &self,
        state: &ClusterState,
        product: Option<ProductId>,
        deadline: Instant,
    ) -> Result<(), CallFailure> {
        for other in state.products.values().filter(|other| Some(other.id) != product) {
            for group in other.groups.values() {
                if let Some(why) = self.reach(state, other, group, deadline).await {
                    let (id, name) = (group.id, &other.name);
                    return Err(CallFailure::Refused(format!(
                        "group {id} of product '{name}' {why}: scripts of its clients could read and overwrite keys of another \
                         product. Give it a data user (pontoon group set {id} data-user=new --product {name}), {ACCEPT}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Why scripts of a group's clients may reach other servers. A server whose user cannot be checked counts as one that
    /// lets them.
    async fn reach(&self, state: &ClusterState, product: &Product, group: &Group, deadline: Instant) -> Option<String> {
        let user = match &group.data_user {
            None => return Some("has no data user".into()),
            Some(DataUser { managed: true, .. }) => return None,
            Some(user) => user,
        };
        let credentials = group.credentials.as_ref();
        let admission =
            ServerAdmission { state, product, credentials, cluster: self.control.log.cluster_id(), deadline };
        for server in &group.servers {
            match admission.script_rights(&server.addr, user).await {
                Ok(rights) if rights.reach.is_none() => {}
                Ok(_) => return Some(format!("has a data user whom {} lets run MIGRATE", server.addr)),
                Err(why) => return Some(format!("has a data user whose rights are not known ({why})")),
            }
        }
        None
    }
}
