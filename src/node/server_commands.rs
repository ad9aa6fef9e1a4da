//! Asks the primaries of all groups which commands they have, and publishes to the workers what each product's servers have.
//! Knows nothing of what workers do with it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, info};

use super::{probe::Prober, tasks::Tasks};
use crate::{
    commands::{OfferedCommands, ServerCommands, ServerIdentity},
    control::servers::offered::offered_commands,
    model::{
        ids::{Epoch, HostPort, NodeId},
        secret::Credentials,
        state::ClusterState,
    },
    panics,
    proxy::ProductCommands,
    redis::{Client, RedisError, Reply},
};

/// A server is asked again after this time: MODULE LOAD changes what it has without another process.
const REFRESH: Duration = Duration::from_secs(60);
/// A server that did not answer is asked again after this time.
const RETRY: Duration = Duration::from_secs(5);
/// How long one server may take for all its answers: the longest is 100 KB.
const ASK_MAX: Duration = Duration::from_secs(2);
/// How many servers are asked at the same time: enough for all groups of a machine that returns.
const CONCURRENT_MAX: usize = 16;

/// What is known about a primary.
#[derive(Default)]
struct Primary {
    credentials: Option<Credentials>,
    /// The process that was asked last.
    run_id: String,
    offered: Option<Arc<OfferedCommands>>,
    is_asked: bool,
    /// When it is asked again.
    next: Option<Instant>,
}

/// The primaries of all groups.
struct Primaries {
    name: String,
    of: BTreeMap<HostPort, Primary>,
    tasks: JoinSet<(HostPort, Result<OfferedCommands, RedisError>)>,
}

/// Starts the task. It ends with the state's sender.
#[must_use]
pub fn publish(
    tasks: &Tasks,
    node: NodeId,
    prober: Prober,
    mut state: watch::Receiver<Arc<ClusterState>>,
) -> watch::Receiver<Arc<ProductCommands>> {
    let (publisher, watched) = watch::channel(Arc::default());
    let mut news = prober.news();
    let name = format!("pontoon:{node}:commands");
    let mut primaries = Primaries { name, of: BTreeMap::new(), tasks: JoinSet::new() };
    tasks.spawn("server-commands", async move {
        let mut epoch = Epoch::default();
        let mut newest = state.borrow_and_update().clone();
        primaries.follow(&newest);
        loop {
            primaries.ask(&prober);
            let next = primaries.next();
            tokio::select! {
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Groups and their primaries change with the routes only.
                    let after = state.borrow_and_update();
                    if std::mem::replace(&mut epoch, after.route_epoch) == after.route_epoch {
                        continue;
                    }
                    newest = after.clone();
                    drop(after);
                    primaries.follow(&newest);
                }
                Ok(()) = news.changed() => continue,
                Some(ended) = primaries.tasks.join_next() => {
                    let Some((server, answer)) = panics::pass_on(ended) else { continue };
                    primaries.answered(&server, answer);
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => continue,
            }
            primaries.publish(&newest, &publisher);
        }
    });
    watched
}

impl Primaries {
    fn follow(&mut self, state: &ClusterState) {
        let groups = || state.products.values().flat_map(|product| product.groups.values());
        self.of.retain(|addr, _| groups().any(|group| group.servers.first().is_some_and(|first| first.addr == *addr)));
        for group in groups() {
            let Some(primary) = group.servers.first() else { continue };
            let known = self.of.entry(primary.addr.clone()).or_default();
            if known.credentials != group.credentials {
                known.credentials.clone_from(&group.credentials);
                known.next = None;
            }
        }
    }

    /// Asks the primaries that have another process than before, or were asked long ago.
    fn ask(&mut self, prober: &Prober) {
        let now = Instant::now();
        for (addr, primary) in &mut self.of {
            if primary.is_asked || self.tasks.len() >= CONCURRENT_MAX {
                continue;
            }
            let probe = prober.report(addr).and_then(|report| report.probe);
            let Some((probe, _)) = probe.filter(|(probe, _)| !probe.run_id.is_empty()) else { continue };
            let other = primary.run_id != probe.run_id;
            if !other && primary.next.is_some_and(|next| next > now) {
                continue;
            }
            if other {
                primary.offered = None;
            }
            (primary.is_asked, primary.run_id) = (true, probe.run_id);
            let (addr, credentials, name) = (addr.clone(), primary.credentials.clone(), self.name.clone());
            self.tasks.spawn(async move {
                let answer = ask(&addr, credentials.as_ref(), &name).await;
                (addr, answer)
            });
        }
    }

    /// When a primary is to be asked again.
    fn next(&self) -> Option<Instant> {
        let next = self.of.values().filter(|primary| !primary.is_asked).filter_map(|primary| primary.next).min();
        next.filter(|_| self.tasks.len() < CONCURRENT_MAX)
    }

    fn answered(&mut self, server: &HostPort, answer: Result<OfferedCommands, RedisError>) {
        // Servers of one version have the same commands, which are kept once.
        let known = |offered: &OfferedCommands| {
            self.of.values().filter_map(|other| other.offered.as_ref()).find(|other| ***other == *offered).cloned()
        };
        let answer = answer.map(|offered| known(&offered).unwrap_or_else(|| Arc::new(offered)));
        let Some(primary) = self.of.get_mut(server) else { return };
        primary.is_asked = false;
        primary.next = Some(Instant::now() + if answer.is_ok() { REFRESH } else { RETRY });
        match answer {
            Ok(offered) if primary.offered.as_ref() == Some(&offered) => {}
            Ok(offered) => {
                info!(%server, learnt = offered.learnt().count(), "a server's commands are known");
                primary.offered = Some(offered);
            }
            // Its commands that the table has are served all the same.
            Err(error) => debug!(%server, %error, "a server's commands are not known"),
        }
    }

    /// Publishes what the servers of each product have, if that has changed.
    fn publish(&self, state: &ClusterState, publisher: &watch::Sender<Arc<ProductCommands>>) {
        let mut table = ProductCommands::new();
        for (id, product) in &state.products {
            let offered: Vec<_> = product
                .groups
                .iter()
                .filter_map(|(group, of)| Some((group.0, self.of.get(&of.servers.first()?.addr)?.offered.clone()?)))
                .collect();
            if !offered.is_empty() {
                table.insert(*id, Arc::new(ServerCommands::of(&offered)));
            }
        }
        publisher.send_if_modified(|before| {
            let changed = **before != table;
            if changed {
                *before = Arc::new(table);
            }
            changed
        });
    }
}

async fn ask(server: &HostPort, credentials: Option<&Credentials>, name: &str) -> Result<OfferedCommands, RedisError> {
    let deadline = Instant::now() + ASK_MAX;
    let mut client = Client::connect(server, credentials, name, deadline).await?;
    let mut offered = offered_commands(&mut client, deadline).await?;
    offered.identify(identity(&mut client, deadline).await?);
    Ok(offered)
}

/// What a server is. A server need not say it.
async fn identity(client: &mut Client, deadline: Instant) -> Result<ServerIdentity, RedisError> {
    let allowed = |reply: Result<Reply, RedisError>| match reply {
        Ok(reply) => Ok(Some(reply)),
        Err(RedisError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let info = allowed(client.ask(&[b"INFO", b"server"], deadline).await)?;
    let modules = allowed(client.ask(&[b"MODULE", b"LIST"], deadline).await)?;
    let module = |module: &Reply| {
        let field = |name: &str| {
            let pair = module.items()?.chunks(2).find(|pair| pair[0].text() == Some(name))?;
            pair.get(1)
        };
        Some((field("name")?.text()?.to_owned(), field("ver")?.integer()?))
    };
    let modules = modules.iter().filter_map(Reply::items).flatten().filter_map(module);
    Ok(ServerIdentity::new(info.as_ref().and_then(Reply::text).unwrap_or_default(), modules))
}
