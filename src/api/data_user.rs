//! Chooses the data user of a new group, and says what its clients can do if there is none.
//! Knows nothing of how it is made.

use super::{error::CallFailure, validate};
use crate::{
    control::admission::server::ServerAdmission,
    model::{
        data_user::DataUser,
        ids::{HostPort, ProductId},
        state::{ClusterState, Product},
    },
    wire::pb::admin::CreateGroupRequest,
};

/// The data user of a new group with these servers, and what the operator should know: the one that is given, or one that
/// Pontoon makes there now. `None`: the servers do not allow it.
///
/// # Errors
/// [`CallFailure::Bad`] if what is given cannot be used; [`CallFailure::Refused`] if servers refuse it, or if there is none
/// and clients of other products would be at risk, unless the operator accepts that.
pub async fn choose(
    request: &CreateGroupRequest,
    admission: &ServerAdmission<'_>,
    servers: &[&HostPort],
    dry_run: bool,
) -> Result<(Option<DataUser>, Vec<String>), CallFailure> {
    if let Some(credentials) = validate::credentials(&request.data_username, &request.data_password)? {
        let user = DataUser { credentials, managed: false };
        user.check().map_err(|why| CallFailure::Bad(why.to_string()))?;
        let mut warnings = Vec::new();
        for addr in servers {
            warnings.extend(admission.make_data_user(addr, &user, dry_run).await.map_err(CallFailure::Refused)?);
        }
        return Ok((Some(user), warnings));
    }
    let why = match admission.new_data_user(servers, dry_run).await {
        Ok(user) => return Ok((Some(user), Vec::new())),
        Err(why) => why,
    };
    let Product { name, id, .. } = admission.product;
    if let Some(other) = other_product(admission.state, *id)
        && !request.accept_shared_risk
    {
        return Err(CallFailure::Refused(format!(
            "the group would have no data user, since {why}. Scripts of product '{name}' could then read and overwrite keys of \
             product '{other}'. Let the servers allow it, or make a user there and give --data-username and \
             --data-password-file, or accept this risk with --accept-shared-risk"
        )));
    }
    Ok((
        None,
        vec![format!(
            "the group has no data user, since {why}. Scripts of its clients may do whatever the user of the nodes may, such as \
         FLUSHALL, and MIGRATE to any server that this one reaches"
        )],
    ))
}

/// Another product that has groups.
fn other_product(state: &ClusterState, than: ProductId) -> Option<&str> {
    let mut others = state.products.values().filter(|product| product.id != than && !product.groups.is_empty());
    others.next().map(|product| product.name.as_str())
}

/// Refuses a further product while scripts of another one could reach its data.
///
/// # Errors
/// [`CallFailure::Refused`] with the first group that has no data user.
pub fn may_add_product(state: &ClusterState, accept_shared_risk: bool) -> Result<(), CallFailure> {
    let groups = state.products.values().flat_map(|product| product.groups.values().map(move |group| (product, group)));
    let without =
        groups.filter(|(_, group)| group.data_user.is_none()).map(|(product, group)| (&product.name, group.id));
    match without.min() {
        Some((product, group)) if !accept_shared_risk => Err(CallFailure::Refused(format!(
            "group {group} of product '{product}' has no data user: scripts of its clients could read and overwrite keys of \
             another product. Create the group again on servers that let Pontoon make one (pontoon group show {group}), or \
             accept this risk with --accept-shared-risk"
        ))),
        Some(_) | None => Ok(()),
    }
}
