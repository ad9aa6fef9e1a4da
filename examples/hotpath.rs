//! A deterministic workload of the hot path for counting instructions: scans, looks up and dispatches N equal requests.
//! Knows nothing of sockets; `benches/ab.py` runs it under callgrind.
//! usage: hotpath CASE N

use std::hint::black_box;

use pontoon::{
    model::{
        ids::{Epoch, GroupId, HoldId, HostPort, ProductId},
        route::{GroupRoute, Isolated, Mode, ProductRoutes, SlotRoute},
        secret::ServerLogin,
        slot::Layout,
    },
    proxy::DispatchBench,
    resp::{
        reply::ReplyScanner,
        request::{RequestScanner, Scanned},
        write,
    },
};

/// Requests per buffer, like a pipeline that arrives in one read.
const PIPELINE: usize = 16;

fn routes(layout: Layout) -> Result<ProductRoutes, Box<dyn std::error::Error>> {
    let primary = HostPort::parse("h:1")?;
    let group = |id: u32| GroupRoute {
        id: GroupId(id),
        primary: primary.clone(),
        replicas: Vec::new(),
        login: ServerLogin::default(),
    };
    let slots = layout.slots();
    let slot = |s: u16| SlotRoute { group: Some(s / (slots / 2)), epoch: Epoch(1), hold: HoldId(0) };
    Ok(ProductRoutes {
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
        port: 1,
        auth: Default::default(),
        reads: Default::default(),
        groups: vec![group(1), group(2)],
        slots: (0..slots).map(slot).collect(),
        scans: Default::default(),
    })
}

/// Scans and dispatches `n` requests that consist of `words`; returns how many of them would be forwarded whole.
fn requests(layout: Layout, words: &[&[u8]], n: usize) -> Result<usize, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    (0..PIPELINE).for_each(|_| write::request(&mut bytes, words));
    let (routes, mut scanner, mut dispatch) = (routes(layout)?, RequestScanner::default(), DispatchBench::default());
    let (mut at, mut forwarded) = (0, 0);
    for _ in 0..n {
        let rest = black_box(&bytes[at..]);
        let Scanned::Request(len) = scanner.scan(rest)? else { return Err("no request".into()) };
        forwarded += usize::from(dispatch.forwards(black_box(&routes), &rest[..len], scanner.args()));
        at = (at + len) % bytes.len();
    }
    Ok(forwarded)
}

/// Scans `n` replies of 64 bytes each.
fn replies(n: usize) -> Result<usize, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    write::bulk(&mut bytes, &[b'x'; 64]);
    let mut scanner = ReplyScanner::default();
    let mut scanned = 0;
    for _ in 0..n {
        scanned += usize::from(scanner.scan(black_box(&bytes))?.is_some());
    }
    Ok(scanned)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [case, n] = args.as_slice() else { return Err("usage: hotpath CASE N".into()) };
    let (key, n) = (&b"key:000000012345"[..], n.parse()?);
    let mset: Vec<&[u8]> = std::iter::once(&b"MSET"[..]).chain([key; 20]).collect();
    let done = match case.as_str() {
        "get" => requests(Layout::Codis, &[b"GET", key], n)?,
        "get-redis-layout" => requests(Layout::Redis, &[b"GET", key], n)?,
        "set" => requests(Layout::Codis, &[b"SET", key, &[b'x'; 64]], n)?,
        "mget" => requests(Layout::Codis, &[b"mget", b"{a}1", b"{a}2", b"{a}3"], n)?,
        "mset" => requests(Layout::Codis, &mset, n)?,
        "evalsha" => requests(Layout::Codis, &[b"EVALSHA", b"x", b"2", b"{a}1", b"{a}2"], n)?,
        "reply" => replies(n)?,
        _ => return Err(format!("no case {case}").into()),
    };
    println!("{done}");
    Ok(())
}
