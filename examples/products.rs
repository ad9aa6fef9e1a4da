//! What a hold of one product costs a node that serves many products: derives the route table for it, lets a proxy in
//! this process apply it, and prints the time and the CPU time per hold: once with all products derived again, and once
//! with the unchanged products shared with the previous table. Usage: `make bench-products`, or `products products=100
//! holds=1000 first-port=27400`. Prints the measurements without a judgement.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use pontoon::{
    model::{
        apply::apply,
        change::{Bootstrap, Change, CreateGroup, NewMember, NewProduct},
        ids::{AssignmentId, Epoch, GroupId, HoldId, HostPort, NodeId, ProductId, SlotId, Term, Uuid},
        route::{HoldKind, Isolated, Mode, RouteTable},
        slot::Layout,
        state::{Cause, ClusterState, Entry, Hold, Position, Server},
    },
    proxy::{Proxy, ProxyConfig, permit::Permit},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// The same allocator as in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn argument(name: &str, default: u16) -> u16 {
    let given = std::env::args().find_map(|a| Some(a.strip_prefix(name)?.strip_prefix('=')?.to_owned()));
    given.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

fn cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap())
}

/// Returns a state with this number of products, each with one group. The bootstrap makes the first.
fn cluster(products: u16, first_port: u16) -> ClusterState {
    let member = NewMember {
        id: NodeId(1),
        uuid: Uuid(1),
        admin: HostPort::parse("127.0.0.1:19101").unwrap(),
        advertise: "127.0.0.1".into(),
        port_offset: 0,
    };
    let product = |n: u16| {
        Change::CreateProduct(NewProduct {
            name: format!("product-{n}"),
            port: first_port + n,
            layout: Layout::Codis,
            mode: Mode::Store,
            isolated: Isolated::Refuse,
            databases: 16,
            auth: None,
        })
    };
    let group = |n: u16| {
        // No server is connected to: there are no clients.
        let server = Server::new(HostPort::parse(&format!("127.0.0.1:{}", 1000 + n)).unwrap(), format!("{n:040x}"), 0);
        let (product, group) = (ProductId((n + 1).into()), GroupId(1));
        Change::CreateGroup(CreateGroup { product, group, servers: vec![server], credentials: None, data_user: None })
    };
    let bootstrap = Change::Bootstrap(Bootstrap { members: vec![member], port: first_port });
    let changes = std::iter::once(bootstrap).chain((1..products).map(product)).chain((0..products).map(group));
    let mut state = ClusterState::default();
    for (index, change) in (1u64..).zip(changes) {
        let entry = Entry { id: Uuid(index.into()), request_hash: 0, at_ms: 0, author: Default::default(), change };
        apply(&mut state, &entry, Position { index: Epoch(index), term: Term(1) }).unwrap();
    }
    state
}

fn hold(id: HoldId) -> Hold {
    Hold {
        id,
        cause: Cause::Assignment(AssignmentId(1)),
        attempt: 1,
        product: ProductId(1),
        slots: BTreeSet::from([SlotId(0)]),
        kind: HoldKind::Wait,
        term: Term(1),
        since_ms: 0,
        reason: String::new(),
    }
}

/// Begins and releases a hold of the first product, `holds` times; returns the time and the CPU time per change.
async fn holds(
    states: &mut [ClusterState; 2],
    routes: &watch::Sender<Arc<RouteTable>>,
    proxy: &Proxy,
    holds: u16,
    share: bool,
) -> (Duration, Duration) {
    let mut report = proxy.report();
    let (began, cpu_before) = (Instant::now(), cpu());
    for n in 0..holds {
        let [free, held] = &mut *states;
        let (state, earlier) = if n % 2 == 0 { (held, &*free) } else { (free, &*held) };
        let epoch = Epoch(earlier.route_epoch.0 + 1);
        state.route_epoch = epoch;
        let before = routes.borrow().clone();
        let table = if share { RouteTable::derive_from(state, earlier, &before) } else { RouteTable::derive(state) };
        routes.send_replace(Arc::new(table));
        report.wait_for(|report| report.route_epoch == epoch).await.unwrap();
    }
    (began.elapsed() / holds.into(), (cpu() - cpu_before) / holds.into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (products, count) = (argument("products", 100), argument("holds", 1000));
    let free = cluster(products, argument("first-port", 27_400));
    let (routes, watched) = watch::channel(Arc::new(RouteTable::derive(&free)));
    let mut held = free.clone();
    held.holds.insert(HoldId(1), hold(HoldId(1)));
    let mut states = [free, held];
    let proxy = Proxy::start(ProxyConfig::default(), watched, Arc::new(Permit::forever()))?;
    let listening = |all: usize| move |report: &Arc<pontoon::proxy::ProxyReport>| report.listeners.len() == all;
    proxy.report().wait_for(listening(products.into())).await?;
    for (what, share) in [("all products derived again", false), ("unchanged products shared", true)] {
        // A warm-up that is not measured.
        holds(&mut states, &routes, &proxy, 10, share).await;
        let (wall, cpu) = holds(&mut states, &routes, &proxy, count, share).await;
        println!("{what}: {wall:?} and {cpu:?} of CPU time per hold or release, with {products} products");
    }
    Ok(())
}
