//! Measures the cost of probing servers: starts redis-servers on this machine, lets a node's prober probe them, and
//! prints the CPU time of this process. It runs no proxy and no log. Usage: `make bench-prober`, or `prober servers=200
//! seconds=20 first-port=27300`.
#![allow(clippy::unwrap_used)]

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use pontoon::{
    model::{
        apply::apply,
        change::{Bootstrap, Change, CreateGroup, NewMember},
        ids::{Epoch, GroupId, HostPort, NodeId, ProductId, Term, Uuid},
        limits::SERVERS_MAX,
        state::{ClusterState, Entry, Position, Server},
    },
    node::probe::prober::Prober,
    proxy::ServerActivity,
};
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// The same allocator as in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Interval of the heartbeats, each of which carries a report batch.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Time before the measurement: all servers have been probed by then.
const WARM_UP: Duration = Duration::from_secs(3);

struct Servers(Vec<Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn argument(name: &str, default: u16) -> u16 {
    let given = std::env::args().find_map(|a| Some(a.strip_prefix(name)?.strip_prefix('=')?.to_owned()));
    given.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

fn cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap())
}

/// Returns a state with these servers in groups of the maximum size.
fn cluster(servers: &[HostPort]) -> ClusterState {
    let member = NewMember {
        id: NodeId(1),
        uuid: Uuid(1),
        admin: HostPort::parse("127.0.0.1:19101").unwrap(),
        advertise: "127.0.0.1".into(),
        port_offset: 0,
    };
    let mut changes = vec![Change::Bootstrap(Bootstrap { members: vec![member], port: 19_000 })];
    for (group, servers) in (1..).zip(servers.chunks(SERVERS_MAX)) {
        let server = |addr: &HostPort| Server::new(addr.clone(), addr.to_string(), 0);
        let servers = servers.iter().map(server).collect();
        changes.push(Change::CreateGroup(CreateGroup {
            product: ProductId(1),
            group: GroupId(group),
            servers,
            credentials: None,
            data_user: None,
        }));
    }
    let mut state = ClusterState::default();
    for (index, change) in (1u64..).zip(changes) {
        let entry = Entry { id: Uuid(index.into()), request_hash: 0, at_ms: 0, author: Default::default(), change };
        apply(&mut state, &entry, Position { index: Epoch(index), term: Term(1) }).unwrap();
    }
    state
}

fn start(port: u16) -> Child {
    let args = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/tmp", "--port"];
    let mut command = Command::new("redis-server");
    command.args(args).arg(port.to_string()).stdout(Stdio::null()).spawn().expect("redis-server is installed")
}

async fn measure(servers: &[HostPort], seconds: u16) {
    let (_state, watched) = watch::channel(Arc::new(cluster(servers)));
    let prober = Prober::new(NodeId(1), ServerActivity::default());
    let probing = tokio::spawn(prober.clone().run(|| Some(Uuid(1)), watched));
    let answered =
        || servers.iter().filter(|s| prober.report(s).is_some_and(|s| s.probe.is_some() && s.error.is_empty())).count();
    tokio::time::sleep(WARM_UP).await;
    let (began, before) = (Instant::now(), cpu());
    let (mut carried, mut bytes) = (0, 0);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    while began.elapsed() < Duration::from_secs(seconds.into()) {
        heartbeat.tick().await;
        let batch = prober.batch();
        carried += batch.reports.len();
        bytes += batch.reports.iter().map(|s| s.encode_to_vec().len()).sum::<usize>();
        prober.kept(&batch, Term(1));
    }
    let (took, used) = (began.elapsed(), cpu() - before);
    let answered = answered();
    let mut pings: Vec<u64> = servers.iter().filter_map(|s| Some(prober.report(s)?.probe?.0.ping_us)).collect();
    pings.sort_unstable();
    probing.abort();
    println!(
        "{} of {} servers answer; {:.0} probes/s, {:.1} KB/s of reports; {:.2} % of a core, {:.1} us per probe; \
         median duration of a probe: {} us",
        answered,
        servers.len(),
        carried as f64 / took.as_secs_f64(),
        bytes as f64 / took.as_secs_f64() / 1e3,
        100.0 * used.as_secs_f64() / took.as_secs_f64(),
        1e6 * used.as_secs_f64() / carried.max(1) as f64,
        pings.get(pings.len() / 2).copied().unwrap_or_default(),
    );
}

fn main() {
    let (count, seconds, first) = (argument("servers", 200), argument("seconds", 20), argument("first-port", 27_300));
    let ports = first..first + count;
    let servers: Vec<_> = ports.clone().map(|port| HostPort::parse(&format!("127.0.0.1:{port}")).unwrap()).collect();
    let _running = Servers(ports.map(start).collect());
    // Two threads, as in a node.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(&servers, seconds));
}
