//! Tells the workers how many replicas of each primary do not count for `min-acks`, by what this node's prober sees.
//! Knows nothing of how writes wait.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::prober::Prober;
use crate::{model::state::ClusterState, plan::acks::foreign_replicas, proxy::ForeignReplicas};

/// Between two looks into what the prober knows: it asks servers twice a second.
const EVERY: Duration = Duration::from_millis(250);

/// Runs for as long as the node does.
pub async fn run(prober: Prober, state: watch::Receiver<Arc<ClusterState>>, told: ForeignReplicas) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let state = state.borrow().clone();
        let groups = state.products.values().filter(|p| p.min_acks > 0).flat_map(|p| p.groups.values());
        let look = |addr: &_| prober.sight(addr)?.look.map(|(look, _)| look);
        let foreign = groups.filter_map(|group| {
            let count = foreign_replicas(group, look);
            (count > 0).then(|| Some((group.servers.first()?.addr.clone(), count)))?
        });
        told.publish(foreign.collect());
    }
}
