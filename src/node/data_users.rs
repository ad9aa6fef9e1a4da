//! Keeps the data users of the groups (`model::data_user`) at their servers: makes them when a group gets one, when a server
//! has another process, and when it refuses the user to a worker. Every node does so for itself, since each makes the same user.
//! Knows nothing of what workers do with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::probe::Prober;
use crate::{
    control::servers::data_user::make,
    model::{
        data_user::DataUser,
        ids::{Epoch, HostPort, NodeId},
        secret::Credentials,
        state::{ClusterState, Group},
    },
    panics,
    redis::{Client, RedisError},
};

/// Reports that may wait. One that finds no room is repeated by the worker's next attempt.
pub const REPORTS_MAX: usize = 64;
/// How long one server may take for all its answers.
const MAKE_MAX: Duration = Duration::from_secs(2);
/// The pause between two times at one server: something may remove the user as fast as it is made.
const PAUSE: Duration = Duration::from_millis(200);
/// How many servers are asked at the same time: enough for all groups of a machine that returns.
const CONCURRENT_MAX: usize = 16;

/// What has to be made at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    control: Option<Credentials>,
    user: DataUser,
}

/// The data users of all groups, and where they are to be made.
struct DataUsers {
    name: String,
    wanted: BTreeMap<HostPort, Wanted>,
    /// Where they have to be made.
    due: BTreeSet<HostPort>,
    /// Where they are being made, or were made within [`PAUSE`].
    pausing: BTreeMap<HostPort, Option<Instant>>,
    tasks: JoinSet<(HostPort, Result<bool, RedisError>)>,
    /// The processes (`run_id`) at which they were made, or are due.
    processes: BTreeMap<HostPort, String>,
}

/// Runs until the proxy has ended. `refused`: servers that refuse the data user, or a command to it.
pub async fn run(
    node: NodeId,
    mut state: watch::Receiver<Arc<ClusterState>>,
    prober: Prober,
    mut refused: mpsc::Receiver<HostPort>,
) {
    let mut news = prober.news();
    let mut users = DataUsers {
        name: format!("pontoon:{node}:data-user"),
        wanted: BTreeMap::new(),
        due: BTreeSet::new(),
        pausing: BTreeMap::new(),
        tasks: JoinSet::new(),
        processes: BTreeMap::new(),
    };
    let mut epoch = Epoch::default();
    users.want(wanted(&state.borrow_and_update()));
    loop {
        users.begin();
        let next = users.pausing.values().flatten().min().copied();
        tokio::select! {
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                // Groups and their servers change with the routes only.
                let state = state.borrow_and_update();
                if std::mem::replace(&mut epoch, state.route_epoch) != state.route_epoch {
                    users.want(wanted(&state));
                }
            }
            Ok(()) = news.changed() => users.find_processes(&prober),
            server = refused.recv() => {
                let Some(server) = server else { return };
                if users.wanted.contains_key(&server) {
                    users.due.insert(server);
                }
            }
            Some(ended) = users.tasks.join_next() => {
                if let Some((server, result)) = panics::pass_on(ended) {
                    users.ended(&server, result);
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let now = Instant::now();
                users.pausing.retain(|_, until| until.is_none_or(|until| until > now));
            }
        }
    }
}

/// The managed data users by server.
fn wanted(state: &ClusterState) -> BTreeMap<HostPort, Wanted> {
    let groups = state.products.values().flat_map(|product| product.groups.values());
    let of = |group: &Group| {
        let user = group.data_user.clone().filter(|user| user.managed)?;
        let wanted = Wanted { control: group.credentials.clone(), user };
        Some(group.servers.iter().map(move |server| (server.addr.clone(), wanted.clone())).collect::<Vec<_>>())
    };
    groups.filter_map(of).flatten().collect()
}

impl DataUsers {
    fn want(&mut self, wanted: BTreeMap<HostPort, Wanted>) {
        let changed = wanted.iter().filter(|(server, now)| self.wanted.get(*server) != Some(*now));
        self.due.extend(changed.map(|(server, _)| server.clone()));
        self.due.retain(|server| wanted.contains_key(server));
        self.processes.retain(|server, _| wanted.contains_key(server));
        self.wanted = wanted;
    }

    /// Finds servers that have another process, which may have no users.
    fn find_processes(&mut self, prober: &Prober) {
        for server in self.wanted.keys() {
            let probe = prober.report(server).and_then(|report| report.probe);
            let Some((probe, _)) = probe.filter(|(probe, _)| !probe.run_id.is_empty()) else { continue };
            if self.processes.get(server) != Some(&probe.run_id) {
                self.processes.insert(server.clone(), probe.run_id);
                self.due.insert(server.clone());
            }
        }
    }

    /// Begins what is due.
    fn begin(&mut self) {
        let ready: Vec<_> = self.due.iter().filter(|server| !self.pausing.contains_key(*server)).cloned().collect();
        for server in ready.into_iter().take(CONCURRENT_MAX.saturating_sub(self.tasks.len())) {
            self.due.remove(&server);
            let Some(wanted) = self.wanted.get(&server).cloned() else { continue };
            self.pausing.insert(server.clone(), None);
            let name = self.name.clone();
            self.tasks.spawn(async move {
                let result = make_at(&server, &name, &wanted).await;
                (server, result)
            });
        }
    }

    fn ended(&mut self, server: &HostPort, result: Result<bool, RedisError>) {
        self.pausing.insert(server.clone(), Some(Instant::now() + PAUSE));
        match result {
            Ok(true) => info!(%server, "the data user is made"),
            Ok(false) => {}
            // A worker reports the server again when it answers. One that does not answer has no clients' requests.
            Err(error) => {
                self.processes.remove(server);
                warn!(%server, %error, "the data user could not be made; clients' requests are refused there");
            }
        }
    }
}

async fn make_at(server: &HostPort, name: &str, wanted: &Wanted) -> Result<bool, RedisError> {
    let deadline = Instant::now() + MAKE_MAX;
    let mut client = Client::connect(server, wanted.control.as_ref(), name, deadline).await?;
    make(&mut client, wanted.control.as_ref(), &wanted.user, deadline).await
}
