//! Chooses the data user of a group, lets the nodes change to another one, and says what its clients can do if there is none.
//! Knows nothing of how it is made.

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary},
    error::CallFailure,
    shared_risk::{other_product, reaches_nobody},
    validate,
};
use crate::{
    control::{admission::server::ServerAdmission, handle::WaitError, servers::replication_user::REPLICATION_USER},
    faults::{self, Point},
    model::{
        change::{Change, SetDataUser},
        data_user::DataUser,
        ids::HostPort,
        outcome::Outcome,
        reject::Reject,
        secret::Credentials,
        state::Product,
    },
    wire::pb::admin::{ChangeReply, CreateGroupRequest, SetGroupRequest},
};

/// The user that nodes log in as at servers without a password.
const DEFAULT_USER: &str = "default";

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
    if let Some(user) = made_by_operator(&request.data_username, &request.data_password, admission.credentials)? {
        let mut warnings = Vec::new();
        for addr in servers {
            let rights = admission.make_data_user(addr, &user, dry_run).await.map_err(CallFailure::Refused)?;
            if !request.accept_shared_risk {
                reaches_nobody(admission, rights.reach.as_deref())?;
            }
            warnings.extend(rights.texts());
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

/// The data user that the operator has made, if one is given. `control`: the user that nodes log in as.
///
/// # Errors
/// [`CallFailure::Bad`] if it cannot be a data user.
fn made_by_operator(
    name: &str,
    password: &str,
    control: Option<&Credentials>,
) -> Result<Option<DataUser>, CallFailure> {
    let Some(credentials) = validate::credentials(name, password)? else { return Ok(None) };
    let user = DataUser { credentials, managed: false };
    user.check().map_err(|why| CallFailure::Bad(why.to_string()))?;
    refuse_same(name, control.map_or(DEFAULT_USER, Credentials::user))?;
    if name == REPLICATION_USER {
        return Err(CallFailure::Bad(format!("'{name}' is the user that replicas log in as; name another data user")));
    }
    Ok(Some(user))
}

/// Refuses one user for both: what scripts may do with it would be whatever nodes may do.
///
/// # Errors
/// [`CallFailure::Bad`] if they are the same.
pub fn refuse_same(data: &str, control: &str) -> Result<(), CallFailure> {
    if data != control {
        return Ok(());
    }
    Err(CallFailure::Bad(format!(
        "'{data}' would be both the user that nodes log in as and the data user, so that scripts of clients could do whatever \
         nodes do; make another user there for what clients ask for (ACL SETUSER), and give --data-username"
    )))
}

/// Gives a group another data user: makes it at all servers, lets all nodes change to it, and switches the former one off.
///
/// # Errors
/// [`CallFailure::Bad`] if more is asked for, or what is given cannot be used; [`CallFailure::Refused`] if a server does not
/// answer or does not allow it, and then nothing has changed but that some servers have a user that nobody uses.
pub async fn renew(request: &SetGroupRequest, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
    let id = validate::group(request.id)?;
    let state = api.state();
    let product = change::product(&state, &request.product).map_err(change::refused)?;
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
    let given = made_by_operator(&request.data_username, &request.data_password, group.credentials.as_ref())?;
    let data_user = match given {
        None => admission.new_data_user(&servers, former, call.dry_run).await.map_err(CallFailure::Refused)?,
        Some(user) => {
            for addr in &servers {
                let rights = admission.make_data_user(addr, &user, call.dry_run).await.map_err(CallFailure::Refused)?;
                if !request.accept_shared_risk {
                    reaches_nobody(&admission, rights.reach.as_deref())?;
                }
                summary.warnings.extend(rights.texts());
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
