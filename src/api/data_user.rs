//! Chooses the data user of a group, lets the nodes change to another one, and says what its clients can do if there is none.
//! Knows nothing of how it is made.

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary},
    error::CallFailure,
    validate,
};
use crate::{
    control::{admission::server::ServerAdmission, handle::WaitError},
    faults::{self, Point},
    model::{
        change::{Change, SetDataUser},
        data_user::DataUser,
        ids::{HostPort, ProductId},
        outcome::Outcome,
        reject::Reject,
        state::{ClusterState, Product},
    },
    wire::pb::admin::{ChangeReply, CreateGroupRequest, SetGroupRequest},
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
    let why = match admission.new_data_user(servers, None, dry_run).await {
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
             another product. Give it one (pontoon group set {group} data-user=new --product {product}), or accept this risk with \
             --accept-shared-risk"
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Gives a group another data user: makes it at all servers, lets all nodes change to it, and switches the former one off.
///
/// # Errors
/// [`CallFailure::Bad`] if more is asked for, or what is given cannot be used; [`CallFailure::Refused`] if a server does not
/// answer or does not allow it, and then nothing has changed but that some servers have a user that nobody uses.
pub async fn renew(request: &SetGroupRequest, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
    let id = validate::group(request.id)?;
    let state = api.state();
    let product = change::product(&state, &request.product)?;
    let Some(group) = product.groups.get(&id) else {
        return Err(Reject::UnknownGroup { product: product.name.clone(), group: id }.into());
    };
    let mut summary = ChangeSummary::of(format!("nodes carry out what clients of group {id} ask for as another user"));
    let admission = ServerAdmission {
        state: &state,
        product,
        credentials: group.credentials.as_ref(),
        cluster: api.control.log.cluster_id(),
        deadline: call.admission_deadline(),
    };
    let servers: Vec<_> = group.servers.iter().map(|server| &server.addr).collect();
    let former = group.data_user.as_ref();
    if let Some((index, outcome)) = api.recorded(call)? {
        // The leader that made the change may have ended before it switched the former user off.
        let unchanged = outcome? == Outcome::Unchanged;
        if let Some(user) = former {
            summary.warnings.extend(switch_off_others(api, call, &admission, &servers, user).await?);
        }
        return api.conclude(call, index, unchanged, summary.about(&product.name)).await;
    }
    let data_user = match validate::credentials(&request.data_username, &request.data_password)? {
        None => admission.new_data_user(&servers, former, call.dry_run).await.map_err(CallFailure::Refused)?,
        Some(credentials) => {
            let user = DataUser { credentials, managed: false };
            user.check().map_err(|why| CallFailure::Bad(why.to_string()))?;
            for addr in &servers {
                let warnings = admission.make_data_user(addr, &user, call.dry_run).await;
                summary.warnings.extend(warnings.map_err(CallFailure::Refused)?);
            }
            user
        }
    };
    let change = Change::SetDataUser(SetDataUser { product: product.id, group: id, data_user: data_user.clone() });
    if call.dry_run {
        return api.dry_run(&change, summary.warnings);
    }
    let (index, outcome) = api.propose(call, change).await?;
    faults::pause_at(Point::DataUserChanged).await;
    summary.warnings.extend(switch_off_others(api, call, &admission, &servers, &data_user).await?);
    api.conclude(call, index, outcome == Outcome::Unchanged, summary.about(&product.name)).await
}

/// When all live nodes use this data user, switches off the others that Pontoon has made. Returns a warning about servers where
/// that failed: there, the nodes do it later (`src/node/data_users.rs`).
///
/// # Errors
/// [`CallFailure::Unknown`] if another node leads now, or this one not yet: the call is repeated.
async fn switch_off_others(
    api: &Api,
    call: &MutationCall,
    admission: &ServerAdmission<'_>,
    servers: &[&HostPort],
    user: &DataUser,
) -> Result<Option<String>, CallFailure> {
    let epoch = api.state().route_epoch;
    let changed = api.control.wait_epoch(epoch, Some(admission.product.id), call.deadline).await;
    if let Err(error @ WaitError::NotLeader) = changed {
        return Err(error.into());
    }
    let mut left = Vec::new();
    for addr in servers {
        let switched_off = match &changed {
            Ok(_) => admission.switch_off_other_data_users(addr, user).await,
            Err(why) => Err(why.to_string()),
        };
        left.extend(switched_off.err().map(|why| format!("{addr} ({why})")));
    }
    Ok((!left.is_empty()).then(|| {
        let left = left.join(", ");
        format!(
            "the former data user can still log in at {left}; nodes switch it off within a minute after these answer"
        )
    }))
}
