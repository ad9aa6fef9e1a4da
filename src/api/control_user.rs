//! Gives a group other credentials for its servers, under load. Knows nothing of how servers are changed.

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary},
    data_user,
    error::CallFailure,
    validate,
};
use crate::{
    control::{admission::server::ServerAdmission, handle::WaitError},
    model::{
        change::{Change, SetControlUser},
        outcome::Outcome,
        reject::Reject,
        secret::Credentials,
        state::Group,
    },
    wire::pb::admin::{ChangeReply, SetGroupRequest},
};

/// Adds a password at all servers of a group, lets the log name it, and waits until the leader has removed the former one
/// everywhere (`control::servers::control_user`).
///
/// # Errors
/// [`CallFailure::Bad`] if what is given cannot be used; [`CallFailure::Refused`] if a server does not answer or does not
/// accept the password, and then the nodes log in as before.
pub async fn rotate(request: &SetGroupRequest, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
    let id = validate::group(request.id)?;
    let Some(given) = validate::credentials(&request.username, &request.password)? else {
        return Err(CallFailure::Bad("a user name needs a password; give --password-file".into()));
    };
    let state = api.state();
    let product = change::product(&state, &request.product).map_err(change::refused)?;
    let Some(group) = product.groups.get(&id) else {
        return Err(Reject::UnknownGroup { product: product.name.clone(), group: id }.into());
    };
    let new = of_user(given, group);
    let mut summary = ChangeSummary::of(format!("nodes log in at the servers of group {id} with the new password"))
        .about(&product.name);
    if let Some(data) = group.data_user.as_ref().and_then(|user| user.credentials.username.as_deref()) {
        data_user::refuse_same(data, new.user())?;
    }
    let same_user = group.credentials.as_ref().map_or("default", Credentials::user) == new.user();
    let admission = ServerAdmission {
        state: &state,
        product,
        credentials: group.credentials.as_ref(),
        cluster: api.control.log.cluster_id(),
        deadline: call.admission_deadline(),
    };
    let (index, unchanged) = match api.recorded(call)? {
        Some((index, outcome)) => (index, outcome? == Outcome::Unchanged),
        None if group.credentials.as_ref().is_some_and(|present| present.is_same_login(&new))
            && group.former.is_none() =>
        {
            return api.already(call, format!("nodes log in at the servers of group {id} with this password")).await;
        }
        // Before a server gets a password that the log would refuse.
        None if group.former.is_some() => {
            return Err(Reject::FormerPassword { product: product.name.clone(), group: id }.into());
        }
        None => {
            for server in &group.servers {
                let added = admission.add_credentials(&server.addr, &new, call.dry_run).await;
                added.map_err(CallFailure::Refused)?;
            }
            let credentials = new.clone();
            let change = Change::SetControlUser(SetControlUser { product: product.id, group: id, credentials });
            if call.dry_run {
                return api.dry_run(&change, summary.warnings);
            }
            let (index, outcome) = api.propose(call, change).await?;
            (index, outcome == Outcome::Unchanged)
        }
    };
    match api.control.wait_former_removed((product.id, id), call.deadline).await {
        Ok(()) if same_user => summary.done.push("the servers do not accept the former one any more".into()),
        Ok(()) => {
            summary.warnings.push("the user before is still valid at the servers; remove it there yourself".into())
        }
        Err(WaitError::Deadline(left)) => {
            summary.warnings.push(format!("{left}; the leader goes on, and `pontoon status` shows it"))
        }
        Err(other) => return Err(other.into()),
    }
    let admission = ServerAdmission { credentials: Some(&new), ..admission };
    for server in &group.servers {
        summary.warnings.extend(admission.cannot_save(&server.addr).await);
    }
    api.conclude(call, index, unchanged, summary).await
}

/// The credentials to use: without a user name those of the present user. A server without a password accepts any only
/// together with a user name.
fn of_user(given: Credentials, group: &Group) -> Credentials {
    let present = match &group.credentials {
        Some(present) => present.username.clone(),
        None => Some("default".into()),
    };
    Credentials { username: given.username.or(present), ..given }
}
