//! `pontoon playground`: a cluster and its redis-servers on this machine, as children of this process.
//! Knows nothing of how nodes work: it starts programs, and uses the admin API.
//!
//! ```text
//! ports free? -> files -> redis-servers, nodes started -> leader? -> replicas in sync -> groups, slots -> table
//!    ... children are watched until Ctrl-C ... -> nodes stopped -> redis-servers stopped -> temporary directory removed
//! ```

mod child;
mod files;
mod layout;
mod server;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    child::Children,
    files::PlaygroundFiles,
    layout::{PlaygroundLayout, PlaygroundShape},
};
use super::{
    Common, Output,
    client::Remote,
    error::{CliError, failed, runtime},
    group, output, slot,
};
use crate::wire::pb::admin::{CreateGroupRequest, SlotSpan, StatusReply, StatusRequest};

/// `pontoon playground ...`
#[derive(Args, Debug)]
pub struct PlaygroundArgs {
    /// Number of nodes [default: 3, or as --dir was made]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=20))]
    nodes: Option<u16>,
    /// Number of groups [default: 2, or as --dir was made]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32))]
    groups: Option<u16>,
    /// Replicas of each group [default: 1, or as --dir was made]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=5))]
    replicas: Option<u16>,
    /// Base port B: node i listens on B+i, its admin on B+100+i, servers from B+201 [default: 19000, or as --dir was
    /// made]
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Keep everything in this directory, and resume what is there [default: a directory that is removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The program of the servers [default: redis-server, else valkey-server]
    #[arg(long, value_name = "PATH")]
    redis_server: Option<PathBuf>,
}

/// Longest start. A cluster forms, and an empty replica is in sync, within a few seconds; on a busy machine it takes
/// longer.
const START_MAX: Duration = Duration::from_secs(90);
/// Pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn run(args: PlaygroundArgs) -> Result<(), CliError> {
    // One thread, the main one: the kernel kills children when the thread that started them ends (see exec_child).
    runtime()?.block_on(run_playground(args))
}

async fn run_playground(args: PlaygroundArgs) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let mut child_ended = listen(SignalKind::child())?;
    let redis_server = server::find_program(args.redis_server.as_deref())?;
    let asked =
        layout::LayoutRequest { nodes: args.nodes, groups: args.groups, replicas: args.replicas, port: args.port };
    let files = PlaygroundFiles::open(args.dir.as_deref(), asked)?;
    let layout = PlaygroundLayout::new(files.shape())?;
    layout.check_free().await?;
    files.write(&layout)?;

    let mut children = Children::new()?;
    let up = tokio::select! {
        up = start(&layout, &files, &redis_server, &mut children) => up.map(|()| true),
        name = signals.next() => { output::say(&format!("{name}: stopping")); Ok(false) }
    };
    if matches!(up, Ok(true)) {
        output::say(table(&layout, &children, files.dir(), files.is_temporary()).trim_end());
        loop {
            tokio::select! {
                name = signals.next() => { output::say(&format!("\n{name}: stopping nodes, then servers")); break }
                _ = child_ended.recv() => children.report_dead(),
            }
        }
    } else if up.is_err() {
        children.report_dead();
    }
    let interrupted = tokio::select! {
        () = children.stop() => false,
        _ = signals.next() => true,
    };
    if interrupted {
        children.kill();
    }
    drop(children);
    files.finish();
    up.map(drop)
}

/// Everything up to the table. Can be dropped at any await: `children` has what was started.
async fn start(
    layout: &PlaygroundLayout,
    files: &PlaygroundFiles,
    redis_server: &Path,
    children: &mut Children,
) -> Result<(), CliError> {
    let resumed = files.is_ready();
    let what = if resumed { "resuming the cluster" } else { "making a cluster" };
    output::say(&format!("{what} in {}", files.dir().display()));
    for server in layout.servers() {
        children.start(server.name(), files.server_command(redis_server, &server), &files.server_log(&server))?;
    }
    for node in 1..=layout.shape().nodes {
        children.start(
            format!("node {node}"),
            files.node_command(children.program(), layout, node),
            &files.node_log(node),
        )?;
    }
    let deadline = Instant::now() + START_MAX;
    for server in layout.servers() {
        until(deadline, children, &format!("{} to answer", server.name()), || server::answers(server.port)).await?;
    }
    let remotes: Vec<_> = (1..=layout.shape().nodes).map(|node| remote(layout, node)).collect::<Result<_, _>>()?;
    for (i, remote) in remotes.iter().enumerate() {
        let what = format!("node {} to know a leader and the product 'default'", i + 1);
        // The leader makes the product a moment after its election. In a resumed playground it may have been removed.
        let known = |s: &StatusReply| s.leader.is_some() && (resumed || s.product_count > 0);
        until(deadline, children, &what, || async { status(remote).await.as_ref().is_some_and(known) }).await?;
    }
    if !resumed {
        // The servers' own configuration files set their roles.
        for server in layout.servers().filter(|s| s.primary_port.is_some()) {
            until(deadline, children, &format!("{} to be in sync", server.name()), || server::in_sync(server.port))
                .await?;
        }
        make_groups(layout, &remotes[0]).await?;
        files.mark_ready()?;
    }
    children.check()
}

/// Makes groups 1 to n with equal contiguous ranges; groups that an earlier run has made are not changed.
async fn make_groups(layout: &PlaygroundLayout, remote: &Remote) -> Result<(), CliError> {
    let existing = group::list(remote).await?.groups;
    for id in 1..=layout.shape().groups {
        let gid = u32::from(id);
        let mut servers = layout.servers().filter(|s| s.group == id).map(|s| s.address());
        if !existing.iter().any(|g| g.id == gid) {
            let wanted = CreateGroupRequest {
                product: remote.product().to_owned(),
                id: gid,
                primary: servers.next().unwrap_or_default(),
                replicas: servers.collect(),
                ..CreateGroupRequest::default()
            };
            group::create(remote, &wanted).await?;
        }
        let (first, last) = layout.slots(id);
        slot::assign(remote, &[SlotSpan { first, last }], gid).await?;
    }
    Ok(())
}

fn remote(layout: &PlaygroundLayout, node: u16) -> Result<Remote, CliError> {
    Remote::new(Common {
        node: layout.admin(node),
        product: None,
        output: Output::Table,
        dry_run: false,
        wait: true,
        timeout: Some(Duration::from_secs(30)),
        secret_file: None,
        typed: "playground".into(),
    })
}

async fn status(remote: &Remote) -> Option<StatusReply> {
    remote.read(|mut c| async move { c.status(StatusRequest {}).await }).await.ok()
}

/// Polls until `ready` returns true; fails at the deadline, or when a child has ended.
async fn until<F, Fut>(deadline: Instant, children: &mut Children, what: &str, ready: F) -> Result<(), CliError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    while !ready().await {
        children.check()?;
        if Instant::now() > deadline {
            return Err(CliError::Failed(format!(
                "waited {} s for {what}, without success; its log has the reason: {}",
                START_MAX.as_secs(),
                children.logs()
            )));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

fn table(layout: &PlaygroundLayout, children: &Children, dir: &Path, temporary: bool) -> String {
    let PlaygroundShape { nodes, port, .. } = layout.shape();
    let mut rows = Vec::new();
    for node in 1..=nodes {
        let name = format!("node {node}");
        let pid = children.pid(&name);
        rows.push(vec![name, layout.client(node), format!("admin {}", layout.admin(node)), pid]);
    }
    for server in layout.servers() {
        let (first, last) = layout.slots(server.group);
        let slots = if server.primary_port.is_none() {
            format!("slots {first}-{last} when made")
        } else {
            "replica when made".into()
        };
        let name = server.name();
        let pid = children.pid(&name);
        rows.push(vec![name, server.address(), slots, pid]);
    }
    let mut out = String::from("\n") + &output::table(&["", "address", "", "pid"], &rows);
    let last_node = port + nodes;
    let pontoon = files::quoted(&children.program().display().to_string());
    out += &format!(
        "\nTo paste into another terminal:\n\n  \
         redis-cli -p {first} SET hello world; redis-cli -p {last_node} GET hello\n  \
         redis-benchmark -p {first} -t set,get -P 16 -q\n  \
         {pontoon} --node {admin} status\n\n\
         files and logs: {dir}{gone}\nCtrl-C stops everything.\n",
        first = port + 1,
        admin = layout.admin(1),
        dir = dir.display(),
        gone = if temporary { " (removed at the end; keep a cluster with --dir)" } else { "" },
    );
    out
}

fn listen(kind: SignalKind) -> Result<Signal, CliError> {
    signal(kind).map_err(|e| failed(format!("signals cannot be caught: {e}")))
}

/// What ends the playground.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
