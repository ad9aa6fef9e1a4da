//! Third-party clients against every node: redis-cli, redis-benchmark, redis-py, ioredis, node-redis, valkey-glide, redis-rs, grpcio.
//! The scripts in cluster-tests/clients contain the checks of the client libraries.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, process::Command};

use cluster_tests::{cluster::Cluster, stock};
use redis::Commands as _;

fn ports(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().map(|node| node.client_port.to_string()).collect()
}

#[test]
fn redis_cli_and_redis_benchmark() {
    let cluster = Cluster::serving(2);
    let ports = ports(&cluster);
    let cli = |port: &str, args: &[&str]| {
        stock::run(Command::new("redis-cli").args(["-p", port]).args(args)).out.trim().to_owned()
    };
    for (i, port) in ports.iter().enumerate() {
        let next = &ports[(i + 1) % ports.len()];
        assert_eq!(cli(port, &["SET", "from", port]), "OK");
        assert_eq!(cli(next, &["GET", "from"]), *port);
        assert_eq!(cli(port, &["-3", "GET", "from"]), *port);
        assert!(cli(port, &["SUNION", "a", "b", "c"]).contains("CROSSSLOT"));
    }
    for port in &ports {
        for pipeline in ["1", "16"] {
            let run = [
                "-p",
                port,
                "-t",
                "set,get,incr,lpush,hset,mset",
                "-n",
                "4000",
                "-c",
                "20",
                "-r",
                "1000",
                "-q",
                "-P",
                pipeline,
            ];
            let ran = stock::run(Command::new("redis-benchmark").args(run));
            assert!(ran.out.matches("requests per second").count() >= 6, "{ran:#?}");
            assert!(!ran.out.contains("rror") && !ran.err.contains("rror"), "{ran:#?}");
        }
    }
}

/// Runs a script of cluster-tests/clients with the ports of all nodes.
#[track_caller]
fn exercise(mut program: Command, script: &str) {
    let cluster = Cluster::serving(2);
    let ran = stock::run(program.arg(stock::script(script)).args(ports(&cluster)));
    assert!(ran.out.contains("3 nodes"), "{ran:#?}");
}

fn node() -> Command {
    let mut node = Command::new("node");
    node.env("NODE_PATH", stock::node_modules());
    node
}

#[test]
fn redis_py() {
    exercise(Command::new(stock::python()), "redis_py.py");
}

#[test]
fn redis_py_with_asyncio() {
    exercise(Command::new(stock::python()), "redis_py_async.py");
}

#[test]
fn ioredis() {
    exercise(node(), "ioredis.js");
}

#[test]
fn node_redis() {
    exercise(node(), "node_redis.js");
}

#[test]
fn valkey_glide() {
    exercise(node(), "valkey_glide.js");
}

#[test]
fn redis_rs() {
    let cluster = Cluster::serving(2);
    for (node, protocol) in cluster.nodes.iter().flat_map(|node| [(node, "resp2"), (node, "resp3")]) {
        let tag = format!("{{rs:{}:{protocol}}}", node.client_port);
        let key = |name: &str| format!("{tag}:{name}");
        let connect = |port: u16| {
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol={protocol}")).unwrap();
            client.get_connection().unwrap()
        };
        let mut one = connect(node.client_port);
        let mut other = connect(cluster.nodes[0].client_port);
        let () = one.set_ex(key("s"), "value", 100).unwrap();
        assert_eq!(other.get::<_, String>(key("s")).unwrap(), "value");
        let names: BTreeSet<String> = (0..200).map(|n| format!("rs:{}:{protocol}:{n}", node.client_port)).collect();
        let pairs: Vec<_> = names.iter().map(|name| (name, 1)).collect();
        let () = one.mset(&pairs).unwrap();
        let found: BTreeSet<String> =
            one.scan_match(format!("rs:{}:{protocol}:*", node.client_port)).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, names);
        // A transaction that is tried again until nobody has changed the key meanwhile.
        let mut tries = 0;
        let (new,): (i64,) = redis::transaction(&mut one, &[key("n")], |one, pipe| {
            let old: Option<i64> = one.get(key("n"))?;
            tries += 1;
            if tries == 1 {
                let () = other.incr(key("n"), 10)?;
            }
            pipe.set(key("n"), old.unwrap_or(0) + 1).ignore().get(key("n")).query(one)
        })
        .unwrap();
        assert_eq!((new, tries), (11, 2));
        let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        assert_eq!(script.key(key("n")).arg(4).invoke::<i64>(&mut one).unwrap(), 15);
        assert_eq!(script.key(key("n")).arg(4).invoke::<i64>(&mut other).unwrap(), 19);
        let id: String = one.xadd(key("x"), "*", &[("field", "value")]).unwrap();
        let read: redis::streams::StreamReadReply = other.xread(&[key("x")], &["0"]).unwrap();
        assert_eq!(read.keys[0].ids[0].id, id);
        let popped = std::thread::spawn({
            let list = key("l");
            let mut blocked = connect(node.client_port);
            move || blocked.blpop::<_, (String, String)>(list, 10.0).unwrap()
        });
        let () = other.lpush(key("l"), "element").unwrap();
        assert_eq!(popped.join().unwrap(), (key("l"), "element".to_owned()));
        let error = one.sinter::<_, Vec<String>>(&["a", "b", "c", "d"]).unwrap_err();
        assert_eq!(error.code(), Some("CROSSSLOT"), "{error}");
    }
}

#[test]
fn grpc_with_server_reflection() {
    let python = stock::python();
    let mut cluster = Cluster::prepared(2);
    cluster.use_secret();
    cluster.start_all();
    let script = stock::script("grpc_reflection.py");
    for node in &cluster.nodes {
        let ran = stock::run(Command::new(&python).arg(&script).arg(node.admin()).args(&cluster.secret));
        assert!(ran.out.contains("answered"), "{ran:#?}");
    }
    let without = Command::new(&python).arg(&script).arg(cluster.node(1).admin()).output().unwrap();
    assert!(!without.status.success(), "a request without the secret must fail");
}
