//! Over HTTP/2, which browsers speak only behind a proxy that ends their TLS.

use http::{Request, request::Builder};

use crate::target::{MAINTENANCE_ON, SET_CLUSTER, Target};

fn request(method: &str, target: &str) -> Builder {
    Request::builder().method(method).uri(target)
}

fn call(kind: &str) -> Builder {
    request("POST", &format!("http://127.0.0.1{SET_CLUSTER}")).header("content-type", kind).header("te", "trailers")
}

fn with_body(builder: Builder) -> Request<Vec<u8>> {
    builder.body(MAINTENANCE_ON.to_vec()).unwrap()
}

#[test]
fn only_grpc_calls_without_an_origin_are_executed() {
    let target = Target::start();
    for kind in [
        "text/plain",
        "text/plain; application/grpc",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/grpc+json",
        "application/json",
        "",
    ] {
        let answer = target.http2(with_body(call(kind)));
        assert!(answer.status == 415 && answer.body.contains("application/grpc"), "{kind}: {answer:?}");
        target.is_unchanged(kind);
    }
    let twice = target.http2(with_body(call("text/plain").header("content-type", "application/grpc")));
    assert_eq!(twice.status, 415, "{twice:?}");
    for origin in ["https://evil.example", "null", "", "http://127.0.0.1"] {
        let answer = target.http2(with_body(call("application/grpc").header("origin", origin)));
        assert_eq!(answer.status, 403, "{origin}: {answer:?}");
        assert!(!answer.head.contains("access-control"), "{answer:?}");
    }
    for method in ["GET", "PUT", "OPTIONS", "DELETE"] {
        let builder = request(method, &format!("http://127.0.0.1{SET_CLUSTER}"));
        let answer = target.http2(with_body(builder.header("content-type", "application/grpc")));
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
    }
    target.is_unchanged("all of them");
    // The same bytes as a call do what the attacks wanted, so that each of them is one.
    let answer = target.http2(with_body(call("application/grpc")));
    assert!(answer.status == 200 && answer.head.contains("grpc-status: \"0\""), "{answer:?}");
    assert_eq!(target.cluster.cli().json(&["cluster", "show"])["maintenance"], true);
}

#[test]
fn monitoring_is_guarded_as_over_http1() {
    let target = Target::start();
    let get = |uri: &str| request("GET", uri);
    for (what, builder, status) in [
        ("an address", get("http://127.0.0.1/metrics"), 200),
        ("a name with a port", get("http://localhost:19101/metrics"), 200),
        ("a rebound name", get("http://evil.example/metrics"), 421),
        ("a rebound name in Host", get("http://127.0.0.1/metrics").header("host", "evil.example"), 421),
        ("two names in Host", get("http://127.0.0.1/metrics").header("host", "a").header("host", "b"), 400),
        ("an origin", get("http://127.0.0.1/metrics").header("origin", "https://evil.example"), 403),
        ("a call's type", get("http://127.0.0.1/healthz").header("content-type", "application/grpc"), 200),
        ("a post", request("POST", "http://127.0.0.1/metrics"), 405),
        ("an unknown path", get("http://127.0.0.1/"), 404),
        (
            "an unknown service",
            request("POST", "http://127.0.0.1/a.B/C").header("content-type", "application/grpc"),
            404,
        ),
    ] {
        let answer = target.http2(builder.body(Vec::new()).unwrap());
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        let a_line = answer.body.lines().count() == 1 && !answer.body.contains("pontoon_");
        assert!(status == 200 || a_line, "{what}: {answer:?}");
    }
}
