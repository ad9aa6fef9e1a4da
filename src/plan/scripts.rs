//! What is done so that a script does not make its server look dead: servers answer -BUSY soon, and a script that runs
//! for too long is ended. Knows nothing of how a server is changed.

use super::{
    impairment::majority_impaired_ms,
    liveness::Watchers,
    observation::{Impairment, Observation, fresh_probe},
};
use crate::model::{
    ids::{GroupId, HostPort, ProductId},
    secret::Credentials,
    state::ClusterState,
};

/// A server answers -BUSY at the latest after this part of its group's down-after: then there is time for several probes
/// before it would count as down.
const DOWN_AFTER_PARTS: u32 = 3;
/// A server answers -BUSY at the latest after this time, milliseconds: clients should learn soon that it is busy.
const BUSY_REPLY_MAX_MS: u32 = 1_000;

/// Something to do at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptFix {
    /// The group's product.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The server.
    pub addr: HostPort,
    /// The group's credentials.
    pub credentials: Option<Credentials>,
    /// What is to be done.
    pub action: ScriptAction,
}

/// What is to be done at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptAction {
    /// Let it answer -BUSY from this time on, milliseconds, instead of later or never.
    ShortenBusyReply {
        /// `busy-reply-threshold` (`lua-time-limit` before Redis 7).
        to_ms: u32,
    },
    /// End the script that runs there, unless it has written.
    EndScript {
        /// For how long the server has answered -BUSY, milliseconds.
        busy_ms: u64,
    },
}

/// The time from which on a server answers -BUSY, milliseconds.
#[must_use]
pub fn busy_reply_ms(down_after_ms: u32) -> u32 {
    BUSY_REPLY_MAX_MS.min(down_after_ms / DOWN_AFTER_PARTS)
}

/// What is to be done at servers. Nothing in maintenance.
#[must_use]
pub fn decide(state: &ClusterState, seen: &Observation, watchers: &Watchers<'_>) -> Vec<ScriptFix> {
    if state.settings.maintenance {
        return Vec::new();
    }
    let mut fixes = Vec::new();
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    for (product, group) in groups.filter(|(_, group)| !group.options.maintenance) {
        for server in &group.servers {
            let addr = &server.addr;
            let after_ms = u64::from(group.options.impaired.script_kill_after_ms);
            let busy_ms = majority_impaired_ms(watchers, addr, Impairment::Busy);
            let end = busy_ms.filter(|busy_ms| after_ms != 0 && *busy_ms >= after_ms);
            let to_ms = busy_reply_ms(group.options.down_after_ms);
            // 0 and less: never.
            let later = |ms: &i64| *ms <= 0 || *ms > to_ms.into();
            let shorten = fresh_probe(seen, addr).and_then(|probe| probe.busy_reply_ms).filter(later);
            let actions = end
                .map(|busy_ms| ScriptAction::EndScript { busy_ms })
                .into_iter()
                .chain(shorten.map(|_| ScriptAction::ShortenBusyReply { to_ms }));
            fixes.extend(actions.map(|action| ScriptFix {
                product: product.id,
                group: group.id,
                addr: addr.clone(),
                credentials: group.credentials.clone(),
                action,
            }));
        }
    }
    fixes
}
