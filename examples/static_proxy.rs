//! The hot path without a cluster: a proxy in front of fixed servers, for benchmarks and experiments.
//! Usage: `static_proxy LISTEN_PORT BACKEND BACKEND... [--workers N]`

use std::{collections::BTreeMap, sync::Arc};

use pontoon::{
    model::{
        ids::{Epoch, GroupId, HoldId, HostPort, ProductId},
        route::{GroupRoute, Isolated, Mode, ProductRoutes, RouteTable, SlotRoute},
        secret::ServerLogin,
        slot::Layout,
    },
    proxy::{Proxy, ProxyConfig, permit::Permit},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Returns a route table in which the servers own equal ranges of the slots.
fn table(port: u16, servers: &[HostPort]) -> RouteTable {
    let layout = Layout::Codis;
    let count = usize::from(layout.slots());
    let slots = (0..count)
        .map(|slot| SlotRoute { group: Some((slot * servers.len() / count) as u16), epoch: Epoch(1), hold: HoldId(0) })
        .collect();
    let group = |(i, primary): (usize, &HostPort)| GroupRoute {
        id: GroupId(i as u32 + 1),
        primary: primary.clone(),
        replicas: Vec::new(),
        login: ServerLogin::default(),
    };
    let product = ProductRoutes {
        id: ProductId(1),
        name: "default".into(),
        layout,
        mode: Mode::Store,
        isolated: Isolated::Refuse,
        min_acks: 0,
        min_acks_ms: 1000,
        clients_max: 0,
        rules: Default::default(),
        databases: 16,
        port,
        auth: Default::default(),
        reads: Default::default(),
        groups: servers.iter().enumerate().map(group).collect(),
        slots,
        scans: Default::default(),
    };
    RouteTable {
        epoch: Epoch(1),
        products: BTreeMap::from([(ProductId(1), Arc::new(product))]),
        holds: BTreeMap::new(),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let (mut words, mut workers) = (Vec::new(), 1);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--workers" => workers = args.next().ok_or("--workers needs a number")?.parse()?,
            _ => words.push(arg),
        }
    }
    let [port, servers @ ..] = words.as_slice() else {
        return Err("usage: static_proxy LISTEN_PORT BACKEND BACKEND... [--workers N]".into());
    };
    let servers = servers.iter().map(|s| HostPort::parse(s)).collect::<Result<Vec<_>, _>>()?;
    let (_routes, receiver) = tokio::sync::watch::channel(Arc::new(table(port.parse()?, &servers)));
    let config = ProxyConfig { workers, ..ProxyConfig::default() };
    let _proxy = Proxy::start(config, receiver, Arc::new(Permit::forever()))?;
    // The proxy serves until the process is killed.
    loop {
        std::thread::park();
    }
}
