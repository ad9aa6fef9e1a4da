//! Over HTTP/1, which every browser speaks to a port without TLS.

use std::io::Write;

use crate::target::{MAINTENANCE_ON, SET_CLUSTER, Target, post, read_answer};

const HOME: &str = "Host: 127.0.0.1\r\n";
const PAGE: &str = "Host: 127.0.0.1\r\nOrigin: https://evil.example\r\n";
/// The site has let its name lead to the node, so that its page is of the same origin (DNS rebinding).
const REBOUND: &str = "Host: evil.example:19101\r\n";

/// What a page can post without a preflight, with and without `Origin` (older browsers), and what it cannot.
#[test]
fn a_page_that_posts_changes_nothing() {
    let target = Target::start();
    let mut sent = 0;
    for kind in [
        "text/plain",
        "text/plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/json",
        "",
    ] {
        for (from, status) in [
            (PAGE, 403),
            ("Host: 127.0.0.1\r\nOrigin: null\r\n", 403),
            ("Host: evil.example\r\nOrigin: http://evil.example\r\n", 403),
            (HOME, 404),
            (REBOUND, 404),
            ("", 404),
        ] {
            let answer = target.http1(&post(SET_CLUSTER, &format!("{from}Content-Type: {kind}\r\nTE: trailers\r\n")));
            assert_eq!(answer.status, status, "{kind} {from}: {answer:?}");
            assert!(!answer.head.contains("access-control"), "{answer:?}");
            assert!(answer.head.contains("connection: close"), "{answer:?}");
            sent += 1;
        }
        target.is_unchanged(kind);
    }
    assert_eq!(target.refused(), sent);
    let log = target.node().log();
    let warnings = log.lines().filter(|line| line.contains("a web page may have made")).count();
    assert_eq!(warnings, 1, "one warning in a minute: {log}");
}

#[test]
fn other_methods_targets_and_versions_do_not_help() {
    let target = Target::start();
    let chunked = format!(
        "POST {SET_CLUSTER} HTTP/1.1\r\n{HOME}Content-Type: application/grpc\r\n\
                           Transfer-Encoding: chunked\r\n\r\n7\r\n\0\0\0\0\x02\x18\x01\r\n0\r\n\r\n"
    );
    let absolute = format!("http://127.0.0.1{SET_CLUSTER}");
    for (what, request, status) in [
        ("chunked", chunked.into_bytes(), 404),
        ("absolute form", post(&absolute, &format!("{HOME}Content-Type: application/grpc\r\n")), 404),
        ("HTTP/1.0", format!("POST {SET_CLUSTER} HTTP/1.0\r\nContent-Type: application/grpc\r\n\r\n").into(), 404),
        ("GET", format!("GET {SET_CLUSTER} HTTP/1.1\r\n{HOME}\r\n").into(), 404),
        ("PUT", format!("PUT {SET_CLUSTER} HTTP/1.1\r\n{HOME}Content-Length: 0\r\n\r\n").into(), 404),
        ("a post to /metrics", post("/metrics", HOME), 405),
        ("a form to /readyz", post("/readyz", &format!("{PAGE}Content-Type: text/plain\r\n")), 403),
        ("OPTIONS *", format!("OPTIONS * HTTP/1.1\r\n{HOME}\r\n").into(), 404),
        ("CONNECT", format!("CONNECT 127.0.0.1:19101 HTTP/1.1\r\n{HOME}\r\n").into(), 404),
        ("TRACE", format!("TRACE /metrics HTTP/1.1\r\n{HOME}\r\n").into(), 405),
        ("a GET with a body", format!("GET /metrics HTTP/1.1\r\n{HOME}Content-Length: 3\r\n\r\nabc").into(), 413),
        ("HTTP/0.9", b"GET /metrics\r\n\r\n".to_vec(), 400),
        ("HTTP/2 as a version", format!("GET /metrics HTTP/2.0\r\n{HOME}\r\n").into(), 400),
        ("a length of two minds", post("/metrics", &format!("{HOME}Content-Length: 1\r\n")), 400),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
    ] {
        let answer = target.http1(&request);
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(!answer.body.contains("pontoon_"), "{what}: {answer:?}");
        target.is_unchanged(what);
    }
}

#[test]
fn a_preflight_allows_nothing() {
    let target = Target::start();
    for path in [SET_CLUSTER, "/metrics", "/healthz", "/"] {
        for more in ["", "Access-Control-Request-Private-Network: true\r\n"] {
            let answer = target.http1(
                format!(
                    "OPTIONS {path} HTTP/1.1\r\n{PAGE}Access-Control-Request-Method: POST\r\n\
                     Access-Control-Request-Headers: content-type,x-grpc-web\r\n{more}\r\n"
                )
                .as_bytes(),
            );
            assert_eq!(answer.status, 403, "{path}: {answer:?}");
            assert!(!answer.head.contains("access-control") && !answer.head.contains("allow"), "{path}: {answer:?}");
        }
    }
}

/// With the origin of a page, and by a name that the page's site has rebound.
#[test]
fn a_page_reads_nothing() {
    let target = Target::start();
    for path in ["/metrics", "/healthz", "/readyz"] {
        for (headers, status) in [
            (PAGE, 403),
            ("Host: 127.0.0.1\r\nOrigin: null\r\n", 403),
            ("Host: 127.0.0.1\r\nOrigin:\r\n", 403),
            ("Host: 127.0.0.1\r\nOrigin: http://127.0.0.1:19101\r\n", 403),
            (REBOUND, 421),
            ("Host: 127.0.0.1.evil.example\r\n", 421),
            ("Host: localhost.evil.example\r\n", 421),
            ("Host: monitoring.example.org.evil.example\r\n", 421),
            ("Host: 2130706433\r\n", 421),
            ("Host: user@127.0.0.1\r\n", 421),
            ("Host:\r\n", 400),
            ("", 400),
            ("Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n", 400),
            ("Host: evil.example\r\nHost: 127.0.0.1\r\n", 400),
            ("Host: 127.0.0.1\r\nhost: evil.example\r\n", 400),
        ] {
            let answer = target.http1(format!("GET {path} HTTP/1.1\r\n{headers}\r\n").as_bytes());
            assert_eq!(answer.status, status, "{path} {headers:?}: {answer:?}");
            assert!(!answer.body.contains("pontoon_") && answer.body.lines().count() == 1, "{answer:?}");
        }
        // Both the absolute form and the header count.
        for (in_target, headers) in [("http://evil.example", HOME), ("http://127.0.0.1", REBOUND)] {
            let answer = target.http1(format!("GET {in_target}{path} HTTP/1.1\r\n{headers}\r\n").as_bytes());
            assert_eq!(answer.status, 421, "{answer:?}");
        }
    }
}

#[test]
fn unknown_paths_are_not_found_with_a_line_of_text() {
    let target = Target::start();
    for path in
        ["/", "/index.html", "/favicon.ico", "/healthz/", "/../metrics", "/%6detrics", "/pontoon.admin.v1.Admin"]
    {
        let answer = target.http1(format!("GET {path} HTTP/1.1\r\n{HOME}\r\n").as_bytes());
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert!(answer.head.contains("content-type: text/plain"), "{path}: {answer:?}");
        assert!(answer.body.lines().count() == 1 && answer.body.contains("/healthz"), "{path}: {answer:?}");
    }
}

/// A connection never leaves HTTP/1, so nothing that follows on it is a call.
#[test]
fn upgrades_lead_nowhere() {
    let target = Target::start();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    for (path, headers, status) in [
        ("/healthz", format!("{PAGE}{websocket}"), 403),
        ("/healthz", format!("{HOME}{websocket}"), 200),
        (SET_CLUSTER, format!("{HOME}{websocket}"), 404),
        ("/healthz", format!("{HOME}{h2c}"), 200),
        (SET_CLUSTER, format!("{HOME}{h2c}"), 404),
        ("/healthz", HOME.to_owned(), 200),
    ] {
        let mut stream = target.connect();
        let request = format!("GET {path} HTTP/1.1\r\n{headers}\r\n");
        stream.write_all(&[request.as_bytes(), preface, MAINTENANCE_ON].concat()).unwrap();
        let answer = read_answer(&mut stream);
        assert_eq!(answer.status, status, "{path} {headers}: {answer:?}");
        assert!(!answer.head.contains("upgrade"), "{answer:?}");
        // The preface is no request of HTTP/1: the connection ends, with an error or without an answer.
        let next = read_answer(&mut stream);
        assert!([0, 400].contains(&next.status) && next.body.is_empty(), "{path} {headers}: {next:?}");
    }
    target.is_unchanged("upgrades");
}
