//! The cost of the command table per request: finding a command and its keys.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pontoon::commands::{lookup, resolve};

fn table(c: &mut Criterion) {
    for name in ["GET", "set", "HGETALL", "zrevrangebyscore", "nosuchcommand"] {
        c.bench_function(&format!("lookup {name}"), |b| b.iter(|| lookup(black_box(name.as_bytes()))));
    }
    for line in ["OBJECT ENCODING k", "MSET a 1 b 2 c 3", "EVALSHA x 2 a b", "XREAD COUNT 10 STREAMS a b 0 0"] {
        let call: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut keys = Vec::new();
        c.bench_function(&format!("resolve and keys {line}"), |b| {
            b.iter(|| {
                keys.clear();
                let call = black_box(&call[..]);
                resolve(call).unwrap().routing_keys(call, &mut keys).unwrap();
                keys.len()
            });
        });
    }
}

criterion_group!(benches, table);
criterion_main!(benches);
