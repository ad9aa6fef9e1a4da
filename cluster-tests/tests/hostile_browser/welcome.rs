//! What is answered: operators, reflection, and monitoring by every name of the node.

use std::{io::Write, process::Command};

use cluster_tests::stock;

use crate::target::{LISTED, Target, read_answer};

#[test]
fn operators_and_monitoring_are_answered() {
    let target = Target::start();
    let cli = target.cluster.cli();
    cli.ok(&["status"]);
    cli.ok(&["cluster", "set", "maintenance=on"]);
    cli.ok(&["cluster", "set", "maintenance=off"]);
    target.is_unchanged("maintenance by an operator");

    let port = target.node().admin_port;
    for host in [
        format!("127.0.0.1:{port}"),
        "127.0.0.1".into(),
        format!("localhost:{port}"),
        "LOCALHOST".into(),
        "[::1]:1".into(),
        "10.20.30.40".into(),
        LISTED.into(),
        format!("Monitoring.Example.ORG.:{port}"),
    ] {
        for (path, part) in [("/healthz", "ok"), ("/readyz", "ready"), ("/metrics", "pontoon_clients_max")] {
            let get = target.http1(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
            assert!(get.status == 200 && get.body.contains(part), "{host} {path}: {get:?}");
        }
    }
    let head = target.http1(b"HEAD /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(head.status == 200 && head.body.is_empty(), "{head:?}");
    let absolute = target.http1(b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(absolute.status, 200, "{absolute:?}");
    // Old health checks of load balancers.
    let old = target.http1(b"GET /readyz HTTP/1.0\r\n\r\n");
    assert_eq!(old.status, 200, "{old:?}");
    // Several requests on one connection.
    let mut stream = target.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
    }
    assert_eq!(target.refused(), 0);
}

#[test]
fn reflection_is_answered() {
    let target = Target::start();
    let script = stock::script("grpc_reflection.py");
    let ran = stock::run(Command::new(stock::python()).arg(script).arg(target.node().admin()));
    assert!(ran.out.contains("answered"), "{ran:#?}");
    assert_eq!(target.refused(), 0);
}
