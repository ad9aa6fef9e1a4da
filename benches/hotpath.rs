//! Steps of the hot path one by one: scan of requests and replies, and the slot of a key. (`commands.rs` has lookup and key positions.)

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pontoon::{
    model::slot::Layout,
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

criterion_group!(benches, scan, slot);
criterion_main!(benches);
