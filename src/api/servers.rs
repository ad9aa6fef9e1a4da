//! Changes of the settings of groups and servers: down-after, eject-after, maintenance; priority, zone.

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary, MutationHandler, forwardable, product_id},
    control_user, data_user,
    error::CallFailure,
    validate,
};
use crate::{
    model::{
        change::{Change, SetGroup, SetImpaired, SetServer},
        ids::{GroupId, HostPort, ProductId},
        ports::addr_key,
        state::ClusterState,
    },
    wire::pb::admin::{self, ChangeReply, SetGroupRequest, SetServerRequest},
};

impl MutationHandler for SetGroupRequest {
    forwardable!(set_group);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        if self.new_data_user || !self.data_username.is_empty() {
            return data_user::renew(self, api, call).await;
        }
        if !self.password.is_empty() || !self.username.is_empty() {
            return control_user::rotate(self, api, call).await;
        }
        let group = validate::group(self.id)?;
        let down_after_ms = self.down_after_ms.map(validate::down_after_ms).transpose()?;
        let maintenance = self.maintenance;
        let eject_after_ms = self.eject_after_ms.map(validate::eject_after_ms).transpose()?;
        let impaired = impaired(self.impaired.unwrap_or_default())?;
        let none = down_after_ms.is_none() && maintenance.is_none() && eject_after_ms.is_none();
        if none && impaired == SetImpaired::default() {
            let all = "down-after=3s, busy-failover-after=1m|off, loading-failover-after=1m|off, \
                       misconf-failover-after=1m|off, script-kill-after=10s|off, maintenance=on|off, data-user=new, a password \
                       (--password-file) or, in a cache, eject-after=10s|off";
            return Err(CallFailure::Bad(format!("nothing to set; give {all}")));
        }
        let state = api.state();
        let product = product_id(&state, &self.product)?;
        let mut summary = ChangeSummary::default();
        summary.done.extend(down_after_ms.map(|ms| {
            format!("a server of group {group} counts as down when most nodes have seen it fail for {ms} ms")
        }));
        summary.done.extend(eject_after_ms.map(|ms| match ms {
            0 => format!("group {group} is never ejected: its slots wait for it, however long it is down"),
            ms => {
                format!("group {group} is ejected when it has been down for {ms} ms and no replica can be promoted")
            }
        }));
        summary.done.extend(impaired_texts(impaired, group));
        summary.done.extend(maintenance.map(|on| change::maintenance(on, &format!("group {group}"))));
        if maintenance == Some(false) && state.settings.maintenance {
            summary.warnings.push("the whole cluster stays in maintenance (pontoon maintenance off)".into());
        }
        let change =
            Change::SetGroup(SetGroup { product, group, down_after_ms, maintenance, eject_after_ms, impaired });
        api.make(call, change, summary.about(&self.product)).await
    }
}

fn impaired(wanted: admin::SetImpaired) -> Result<SetImpaired, CallFailure> {
    let of = |setting: &str, ms: Option<u32>| ms.map(|ms| validate::impaired_after_ms(setting, ms)).transpose();
    Ok(SetImpaired {
        busy_failover_after_ms: of("busy-failover-after", wanted.busy_failover_after_ms)?,
        loading_failover_after_ms: of("loading-failover-after", wanted.loading_failover_after_ms)?,
        misconf_failover_after_ms: of("misconf-failover-after", wanted.misconf_failover_after_ms)?,
        script_kill_after_ms: of("script-kill-after", wanted.script_kill_after_ms)?,
    })
}

/// What the changed options mean, one sentence each.
fn impaired_texts(set: SetImpaired, group: GroupId) -> Vec<String> {
    let replaced = |ms: Option<u32>, which: &str| {
        ms.map(|ms| match ms {
            0 => format!("the primary of group {group} is not replaced because it {which}"),
            ms => format!("the primary of group {group} is replaced when it {which} for {ms} ms"),
        })
    };
    let script = set.script_kill_after_ms.map(|ms| match ms {
        0 => format!("scripts at the servers of group {group} are never ended"),
        ms => {
            format!("a script that keeps a server of group {group} busy for {ms} ms and has written nothing is ended")
        }
    });
    [
        replaced(set.busy_failover_after_ms, "is busy with a script"),
        replaced(set.loading_failover_after_ms, "loads its data"),
        replaced(set.misconf_failover_after_ms, "refuses writes"),
        script,
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl MutationHandler for SetServerRequest {
    forwardable!(set_server);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let addr = validate::address(&self.address)?;
        let priority = self.priority;
        let zone = self.zone.as_deref().map(validate::zone).transpose()?;
        if priority.is_none() && zone.is_none() {
            return Err(CallFailure::Bad("nothing to set; give priority=N or zone=NAME (zone= for none)".into()));
        }
        let state = api.state();
        let Some((product, group)) = owner(&state, &addr) else {
            return Err(CallFailure::NotFound(format!(
                "{addr} is in no group of any product; `pontoon group ls` shows the servers of a product's groups"
            )));
        };
        let mut summary = ChangeSummary::default();
        summary.done.extend(priority.map(|priority| match priority {
            0 => format!("{addr} is never promoted automatically"),
            _ => format!(
                "{addr} has priority {priority}: among replicas with the same offset the one with the largest is promoted"
            ),
        }));
        summary.done.extend(zone.as_ref().map(|zone| match zone.as_str() {
            "" => format!("{addr} is in no zone"),
            zone => format!("{addr} is in zone {zone}"),
        }));
        api.make(call, Change::SetServer(SetServer { product, group, addr, priority, zone }), summary).await
    }
}

/// Product and group of a server. An address is in at most one group, however it is written.
fn owner(state: &ClusterState, addr: &HostPort) -> Option<(ProductId, GroupId)> {
    let key = addr_key(addr);
    state.products.values().find_map(|product| {
        let group = product.groups.values().find(|group| group.servers.iter().any(|s| addr_key(&s.addr) == key))?;
        Some((product.id, group.id))
    })
}
