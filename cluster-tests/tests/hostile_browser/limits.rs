//! Requests that are large, slow or endless.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use cluster_tests::wait::{GENEROUS, wait_until};
use http::Request;

use crate::target::{SET_CLUSTER, Target, read_answer};

const HEAD: &str = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n";
/// A connection without a complete request is closed after 10 s. Connections to which the node writes nothing are closed
/// after 30 s in any case.
const CLOSED_WITHIN: Duration = Duration::from_secs(25);
/// Bytes that the node may take of a request that it refuses: what the sockets of both sides buffer.
const TAKEN_MAX: usize = 16 << 20;

#[test]
fn large_heads_are_refused() {
    let target = Target::start();
    let long = format!("{HEAD}X-Long: {}\r\n\r\n", "x".repeat(64 << 10));
    let many = format!("{HEAD}{}\r\n", "X-Many: x\r\n".repeat(100));
    let endless = format!("{HEAD}X-Endless: {}", "x".repeat(64 << 10));
    let path = format!("GET /{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "x".repeat(64 << 10));
    for (what, request) in [("long", long), ("many", many), ("endless", endless), ("path", path)] {
        let answer = target.http1(request.as_bytes());
        // The kernel may discard the answer, since the node has not read everything that was sent.
        assert!([0, 414, 431].contains(&answer.status), "{what}: {answer:?}");
    }
    let large = Request::builder().uri("http://127.0.0.1/healthz").header("x-long", "x".repeat(20 << 10));
    let answer = target.http2(large.body(Vec::new()).unwrap());
    assert!([0, 431].contains(&answer.status), "{answer:?}");
    // What is within the limits passes.
    let answer = target.http1(format!("{HEAD}X-Long: {}\r\n\r\n", "x".repeat(8 << 10)).as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Heads that never end, at several speeds, and connections that say nothing after a request.
#[test]
fn slow_heads_and_idle_connections_are_closed() {
    let target = Target::start();
    let complete = format!("{HEAD}\r\n");
    let beginnings = ["", "P", "PRI * HTTP/2.0\r\n", "G", HEAD, "POST / HTTP/1.1\r\nX: ", &complete];
    let mut open: Vec<(&str, TcpStream)> = beginnings
        .into_iter()
        .flat_map(|beginning| [(beginning, target.connect()), (beginning, target.connect())])
        .collect();
    for (beginning, stream) in &mut open {
        stream.write_all(beginning.as_bytes()).unwrap();
        if *beginning == complete {
            assert_eq!(read_answer(stream).status, 200);
        }
        stream.set_nonblocking(true).unwrap();
    }
    let began = Instant::now();
    let mut polls = 0;
    wait_until("the node to close them", CLOSED_WITHIN, || {
        polls += 1;
        let mut n = 0;
        open.retain_mut(|(beginning, stream)| {
            n += 1;
            // Every second one goes on, one byte at a time.
            if n % 2 == 0 && polls % 20 == 0 && *beginning == HEAD {
                let _ = stream.write(b"X");
            }
            !is_closed(stream)
        });
        open.is_empty()
    });
    assert!(began.elapsed() > Duration::from_secs(5), "the node leaves time for a request");
}

/// Only the head of a request that is refused is read.
#[test]
fn bodies_are_not_taken() {
    let target = Target::start();
    for (path, status) in [("/metrics", 405), (SET_CLUSTER, 404)] {
        let mut stream = target.connect();
        let head = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000000000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream).status, status);
        let (piece, mut taken) = (vec![0; 64 << 10], 0);
        stream.set_nonblocking(true).unwrap();
        wait_until("the node to close it", GENEROUS, || {
            loop {
                match stream.write(&piece) {
                    Ok(n) => taken += n,
                    Err(e) => return e.kind() != ErrorKind::WouldBlock,
                }
            }
        });
        assert!(taken < TAKEN_MAX, "{taken} bytes were taken");
    }
    // A message of a call that is too large is refused by its length, before it comes.
    let announced = [&[0][..], &u32::MAX.to_be_bytes(), b"x"].concat();
    let call = Request::post(format!("http://127.0.0.1{SET_CLUSTER}")).header("content-type", "application/grpc");
    let answer = target.http2(call.body(announced).unwrap());
    // OUT_OF_RANGE
    assert!(answer.head.contains("grpc-status: \"11\""), "{answer:?}");
    target.is_unchanged("large bodies");
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 512]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(e) => e.kind() != ErrorKind::WouldBlock,
    }
}
