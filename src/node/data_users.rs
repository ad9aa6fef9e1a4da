//! Keeps the data users of the groups (`model::data_user`) at their servers: makes them when a group gets one, when a server
//! has another process, when it refuses the user to a worker, and regularly; and switches former ones off, if nobody has. Every node does
//! so for itself, since each makes the same user. Knows nothing of what workers do with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use tracing::{info, warn};

use super::probe::Prober;
use crate::{
    control::servers::data_user::{FormerUser, former_user, make, switch_off_former},
    model::{
        data_user::DataUser,
        ids::{Epoch, HostPort, NodeId},
        secret::Credentials,
        state::{ClusterState, Group},
    },
    panics,
    proxy::permit::Permit,
    redis::{Client, RedisError},
};

/// Reports that may wait. One that finds no room is repeated by the worker's next attempt.
pub const REPORTS_MAX: usize = 64;
/// How long one server may take for all its answers.
const MAKE_MAX: Duration = Duration::from_secs(2);
/// The time between two checks of all servers: a user with less is noticed when a server refuses a request, one with more only
/// by looking. A check costs each server a connection and five commands.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// The pause between two times at one server: something may remove the user as fast as it is made.
const PAUSE: Duration = Duration::from_millis(200);
/// How many servers are asked at the same time: enough for all groups of a machine that returns.
const CONCURRENT_MAX: usize = 16;

/// What a task has done at a server.
enum Done {
    /// Made the user, if something had to change (`true`). A former user that can still log in.
    Made(Result<(bool, Option<FormerUser>), RedisError>),
    /// Switched a former user off, if nobody else had (`true`).
    SwitchedOff(Result<bool, RedisError>),
}

/// What has to be made at a server. A user that the operator has made has to be made by nobody.
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
    /// Where a former one can log in, and when it is to be switched off. The leader does that when a group gets another one,
    /// but it may die before, or a node that did not know of the change yet may have made the former one again.
    former: BTreeMap<HostPort, (Instant, FormerUser)>,
    /// After this time no node uses a former one.
    former_unused: Duration,
    tasks: JoinSet<(HostPort, Done)>,
    /// The processes (`run_id`) at which they were made, or are due.
    processes: BTreeMap<HostPort, String>,
}

/// Runs until the proxy has ended. `lease`: how long a node may serve without news from the leader. `permit`: the present lease. `refused`: servers that
/// refuse the data user, or a command to it.
pub async fn run(
    node: NodeId,
    lease: Duration,
    permit: Arc<Permit>,
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
        former: BTreeMap::new(),
        // Twice each: for the last heartbeat of a lease, and for an answer that is late.
        former_unused: lease * 2 + MAKE_MAX * 2,
        tasks: JoinSet::new(),
        processes: BTreeMap::new(),
    };
    let mut checks = interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut epoch = Epoch::default();
    users.want(wanted(&state.borrow_and_update()));
    loop {
        let up_to_date = permit.leased() && permit.table_is_recent(state.borrow().applied);
        users.begin(up_to_date);
        let next = users.next();
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
            _ = checks.tick() => users.check(&prober),
            server = refused.recv() => {
                let Some(server) = server else { return };
                if users.wanted.get(&server).is_some_and(|wanted| wanted.user.managed) {
                    users.due.insert(server);
                }
            }
            Some(ended) = users.tasks.join_next() => {
                if let Some((server, done)) = panics::pass_on(ended) {
                    users.ended(&server, done);
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let now = Instant::now();
                users.pausing.retain(|_, until| until.is_none_or(|until| until > now));
            }
        }
    }
}

/// The data users by server.
fn wanted(state: &ClusterState) -> BTreeMap<HostPort, Wanted> {
    let groups = state.products.values().flat_map(|product| product.groups.values());
    let of = |group: &Group| {
        let wanted = Wanted { control: group.credentials.clone(), user: group.data_user.clone()? };
        Some(group.servers.iter().map(move |server| (server.addr.clone(), wanted.clone())).collect::<Vec<_>>())
    };
    groups.filter_map(of).flatten().collect()
}

impl DataUsers {
    fn want(&mut self, wanted: BTreeMap<HostPort, Wanted>) {
        let changed = wanted.iter().filter(|(server, now)| self.wanted.get(*server) != Some(*now));
        self.due.extend(changed.map(|(server, _)| server.clone()));
        // What was the former one may be the present one now. Who makes it finds the former one again.
        self.former.retain(|server, _| !self.due.contains(server) && wanted.contains_key(server));
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

    /// Has the user made again wherever the last probe was answered, in case that somebody has changed it.
    fn check(&mut self, prober: &Prober) {
        let answers = |server: &HostPort| {
            prober.report(server).is_some_and(|report| report.probe.is_some() && report.failing_ms.is_none())
        };
        let managed = self.wanted.iter().filter(|(server, wanted)| wanted.user.managed && answers(server));
        self.due.extend(managed.map(|(server, _)| server.clone()));
    }

    /// Begins what is due. `up_to_date`: the node has a lease and the state that it demands. Otherwise what looks like a former
    /// user may be the present one, of which this node has not heard.
    fn begin(&mut self, up_to_date: bool) {
        let ready: Vec<_> = self.due.iter().filter(|server| !self.pausing.contains_key(*server)).cloned().collect();
        for server in ready.into_iter().take(CONCURRENT_MAX.saturating_sub(self.tasks.len())) {
            self.due.remove(&server);
            let Some(wanted) = self.wanted.get(&server).cloned() else { continue };
            self.pausing.insert(server.clone(), None);
            let name = self.name.clone();
            self.tasks.spawn(async move {
                let done = Done::Made(make_at(&server, &name, &wanted).await);
                (server, done)
            });
        }
        let now = Instant::now();
        if !up_to_date {
            let unused = self.former.values_mut().filter(|(at, _)| *at <= now);
            unused.for_each(|(at, _)| *at = now + self.former_unused);
        }
        let unused = self.former_ready().filter(|(_, at)| *at <= now);
        let unused: Vec<_> = unused.map(|(server, _)| server.clone()).collect();
        for server in unused.into_iter().take(CONCURRENT_MAX.saturating_sub(self.tasks.len())) {
            let Some((_, former)) = self.former.remove(&server) else { continue };
            let Some(wanted) = self.wanted.get(&server).cloned() else { continue };
            self.pausing.insert(server.clone(), None);
            let name = self.name.clone();
            self.tasks.spawn(async move {
                let done = Done::SwitchedOff(switch_off_at(&server, &name, &wanted, &former).await);
                (server, done)
            });
        }
    }

    /// Where nothing has to be done before a former user is switched off, and when that is.
    fn former_ready(&self) -> impl Iterator<Item = (&HostPort, Instant)> {
        let ready =
            self.former.iter().filter(|(server, _)| !self.pausing.contains_key(*server) && !self.due.contains(*server));
        ready.map(|(server, (at, _))| (server, *at))
    }

    /// When something can begin that waits for a time. (What waits for the end of a task begins then.)
    fn next(&self) -> Option<Instant> {
        let pauses = self.pausing.values().flatten().copied();
        let former = self.former_ready().map(|(_, at)| at).filter(|_| self.tasks.len() < CONCURRENT_MAX);
        pauses.chain(former).min()
    }

    fn ended(&mut self, server: &HostPort, done: Done) {
        let now = Instant::now();
        let managed = self.wanted.get(server).is_some_and(|wanted| wanted.user.managed);
        self.pausing.insert(server.clone(), Some(now + PAUSE));
        match done {
            Done::Made(Ok((changed, former))) => {
                if changed {
                    info!(%server, "the data user is made");
                }
                if let (Some(former), false) = (former, self.due.contains(server)) {
                    self.former.entry(server.clone()).or_insert((now + self.former_unused, former));
                }
            }
            Done::Made(Err(_)) if !managed => {}
            // A worker reports the server again when it answers. One that does not answer has no clients' requests.
            Done::Made(Err(error)) => {
                self.processes.remove(server);
                warn!(%server, %error, "the data user could not be made; clients' requests are refused there");
            }
            Done::SwitchedOff(Ok(true)) => info!(%server, "a former data user is switched off"),
            Done::SwitchedOff(Ok(false)) => {}
            Done::SwitchedOff(Err(error)) => {
                // It is found again with the server's next process.
                self.processes.remove(server);
                warn!(%server, %error, "a former data user can still log in");
            }
        }
    }
}

async fn make_at(server: &HostPort, name: &str, wanted: &Wanted) -> Result<(bool, Option<FormerUser>), RedisError> {
    let deadline = Instant::now() + MAKE_MAX;
    let mut client = Client::connect(server, wanted.control.as_ref(), name, deadline).await?;
    let changed = make(&mut client, wanted.control.as_ref(), &wanted.user, deadline).await?;
    match former_user(&mut client, &wanted.user, deadline).await {
        Ok(former) => Ok((changed, former)),
        // Where the control user may not ask, Pontoon has not made any.
        Err(error) if error.answered() => Ok((changed, None)),
        Err(error) => Err(error),
    }
}

async fn switch_off_at(
    server: &HostPort,
    name: &str,
    wanted: &Wanted,
    former: &FormerUser,
) -> Result<bool, RedisError> {
    let deadline = Instant::now() + MAKE_MAX;
    let mut client = Client::connect(server, wanted.control.as_ref(), name, deadline).await?;
    switch_off_former(&mut client, former, deadline).await
}
