//! The cost of the steps of the hot path: scanning requests and replies, the slot of a key, and dispatch.
//! (`commands.rs` has the command table.)
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pontoon::{
    model::{
        ids::{Epoch, GroupId, HoldId, HostPort, ProductId},
        route::{GroupRoute, Isolated, Mode, ProductRoutes, SlotRoute},
        secret::ServerLogin,
        slot::Layout,
    },
    proxy::DispatchBench,
    resp::{reply::ReplyScanner, request::RequestScanner, write},
};

fn scan(c: &mut Criterion) {
    let mut get = Vec::new();
    write::request(&mut get, &[b"GET", b"key:000000012345"]);
    let mut set = Vec::new();
    write::request(&mut set, &[b"SET", b"key:000000012345", &[b'x'; 64]]);
    let mut mset = Vec::new();
    let words: Vec<&[u8]> = std::iter::once(&b"MSET"[..]).chain((0..20).map(|_| &b"key:000000012345"[..])).collect();
    write::request(&mut mset, &words);

    let mut group = c.benchmark_group("scan request");
    for (name, bytes) in [("GET", &get), ("SET of 64 bytes", &set), ("MSET of 10", &mset)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut scanner = RequestScanner::default();
        group.bench_function(name, |b| b.iter(|| black_box(scanner.scan(black_box(bytes)))));
    }
    group.finish();

    let mut array = Vec::new();
    write::array(&mut array, 10);
    (0..10).for_each(|_| write::bulk(&mut array, &[b'x'; 64]));
    let mut group = c.benchmark_group("scan reply");
    for (name, bytes) in [("OK", &b"+OK\r\n"[..]), ("bulk of 3", b"$3\r\nabc\r\n"), ("array of 10", &array)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut scanner = ReplyScanner::default();
        group.bench_function(name, |b| b.iter(|| black_box(scanner.scan(black_box(bytes)))));
    }
    group.finish();
}

fn slot(c: &mut Criterion) {
    let mut group = c.benchmark_group("slot");
    for layout in [Layout::Codis, Layout::Redis] {
        for key in ["key:000000012345", "user:{1000}.following"] {
            group.bench_function(format!("{layout:?} {key}"), |b| b.iter(|| layout.slot(black_box(key.as_bytes()))));
        }
    }
    group.finish();
}

fn routes() -> ProductRoutes {
    let layout = Layout::Codis;
    let group = |id: u32| GroupRoute {
        id: GroupId(id),
        primary: HostPort::parse(&format!("h:{id}")).unwrap(),
        replicas: Vec::new(),
        login: ServerLogin::default(),
    };
    ProductRoutes {
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
        slots: (0..1024).map(|s| SlotRoute { group: Some(s / 512), epoch: Epoch(1), hold: HoldId(0) }).collect(),
        scans: Default::default(),
    }
}

fn dispatch(c: &mut Criterion) {
    let routes = routes();
    let mut group = c.benchmark_group("dispatch");
    for (line, whole) in [
        ("GET key:000000012345", true),
        ("SET key:000000012345 value", true),
        ("MGET {a}1 {a}2 {a}3", true),
        ("MSET a 1 b 2 c 3 d 4 e 5 f 6 g 7 h 8 i 9 j 0", false),
        ("EVALSHA x 2 {a}1 {a}2", true),
    ] {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        write::request(&mut bytes, &words);
        let mut scanner = RequestScanner::default();
        scanner.scan(&bytes).unwrap();
        let mut step = DispatchBench::default();
        assert_eq!(step.forwards(&routes, &bytes, scanner.args()), whole, "{line}");
        group.bench_function(line, |b| b.iter(|| step.forwards(&routes, black_box(&bytes), scanner.args())));
    }
    group.finish();
}

criterion_group!(benches, scan, slot, dispatch);
criterion_main!(benches);
