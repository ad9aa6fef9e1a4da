//! Which requests pass, as tables.
#![allow(clippy::unwrap_used)]

use super::*;

const CALL: &str = "/pontoon.admin.v1.Admin/SetCluster";
const OTHER_CALL: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const GRPC: (&str, &str) = ("content-type", "application/grpc");
const HOME: (&str, &str) = ("host", "127.0.0.1:19101");

fn gate() -> Gate {
    Gate {
        services: vec!["pontoon.admin.v1.Admin", "grpc.reflection.v1.ServerReflection"],
        hosts: HostNames::new(["db1.example.org"]),
    }
}

fn request(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().version(version).method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

#[track_caller]
fn passes(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) {
    let checked = gate().check(&request(version, method, target, headers));
    assert_eq!(checked, Ok(()), "{version:?} {method} {target} {headers:?}");
}

#[track_caller]
fn refused(version: Version, method: &str, target: &str, headers: &[(&str, &str)], reason: Reason) {
    let checked = gate().check(&request(version, method, target, headers));
    assert_eq!(checked, Err(reason), "{version:?} {method} {target} {headers:?}");
}

use Version as V;

#[test]
fn calls_need_http2_and_their_content_type() {
    for path in [CALL, OTHER_CALL, "http://any.name.of.a.relay:1/pontoon.admin.v1.Admin/Status"] {
        passes(V::HTTP_2, "POST", path, &[GRPC]);
        passes(V::HTTP_2, "POST", path, &[("content-type", "application/grpc+proto"), ("te", "trailers")]);
        passes(V::HTTP_2, "POST", path, &[("content-type", "Application/gRPC"), ("host", "evil.example")]);
    }
    for kind in [
        "text/plain",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/grpc+json",
        "application/grpc; charset=utf-8",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/grpc",
        "text/plain, application/grpc",
        "",
    ] {
        refused(V::HTTP_2, "POST", CALL, &[("content-type", kind)], Reason::ContentType);
        refused(V::HTTP_11, "POST", CALL, &[HOME, ("content-type", kind)], Reason::Path);
    }
    refused(V::HTTP_2, "POST", CALL, &[], Reason::ContentType);
    refused(V::HTTP_2, "POST", CALL, &[GRPC, GRPC], Reason::ContentType);
    refused(V::HTTP_2, "POST", CALL, &[GRPC, ("content-type", "text/plain")], Reason::ContentType);
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "CONNECT", "post"] {
        refused(V::HTTP_2, method, CALL, &[GRPC], Reason::Method("POST"));
    }
    for version in [V::HTTP_10, V::HTTP_11] {
        refused(version, "POST", CALL, &[HOME, GRPC], Reason::Path);
    }
}

#[test]
fn a_web_page_is_refused_whatever_it_asks_for() {
    for origin in ["https://evil.example", "null", "", "http://127.0.0.1:19101", "http://localhost"] {
        let origin = ("origin", origin);
        for (method, path) in
            [("GET", "/metrics"), ("GET", "/healthz"), ("POST", CALL), ("GET", "/"), ("OPTIONS", CALL)]
        {
            refused(V::HTTP_11, method, path, &[HOME, origin], Reason::Origin);
            refused(V::HTTP_2, method, path, &[HOME, GRPC, origin], Reason::Origin);
        }
    }
}

#[test]
fn other_paths_are_not_found() {
    for path in [
        "/",
        "/favicon.ico",
        "/healthz/",
        "//healthz",
        "/Healthz",
        "/%68ealthz",
        "/metrics/x",
        "/pontoon.admin.v1.Admin",
        "/pontoon.admin.v1.AdminX/Status",
        "/x/pontoon.admin.v1.Admin/Status",
    ] {
        for method in ["GET", "POST", "OPTIONS", "DELETE"] {
            refused(V::HTTP_2, method, path, &[HOME, GRPC], Reason::Path);
            refused(V::HTTP_11, method, path, &[HOME, GRPC], Reason::Path);
            refused(V::HTTP_11, method, path, &[("host", "evil.example")], Reason::Path);
        }
    }
    refused(V::HTTP_11, "OPTIONS", "*", &[HOME], Reason::Path);
    refused(V::HTTP_11, "CONNECT", "127.0.0.1:19101", &[HOME], Reason::Path);
}

#[test]
fn monitoring_paths_are_read_only() {
    for path in MONITORING {
        for version in [V::HTTP_10, V::HTTP_11, V::HTTP_2] {
            passes(version, "GET", path, &[HOME]);
            passes(version, "HEAD", path, &[HOME, ("content-length", "0")]);
            // Some clients ask for HTTP/2 with their first request; the question is ignored.
            passes(version, "GET", path, &[HOME, ("upgrade", "h2c"), ("connection", "upgrade")]);
            for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get"] {
                refused(version, method, path, &[HOME], Reason::Method("GET, HEAD"));
            }
            for body in [("content-length", "1"), ("content-length", "00"), ("transfer-encoding", "chunked")] {
                refused(version, "GET", path, &[HOME, body], Reason::Body);
            }
            refused(version, "GET", path, &[HOME, ("content-length", "0"), ("content-length", "5")], Reason::Body);
        }
    }
    passes(V::HTTP_11, "GET", "/metrics?name[]=x", &[HOME]);
}

#[test]
fn every_name_of_the_host_must_be_this_node() {
    let header = |name| [("host", name)];
    for name in ["127.0.0.1", "[::1]:19101", "localhost:19101", "LOCALHOST.", "db1.example.org", "Db1.Example.Org.:1"] {
        passes(V::HTTP_11, "GET", "/metrics", &header(name));
        passes(V::HTTP_2, "GET", &format!("http://{name}/metrics"), &[]);
        passes(V::HTTP_11, "GET", &format!("http://{name}/metrics"), &[HOME]);
    }
    for name in ["evil.example", "evil.example:19101", "127.0.0.1.evil.example", "db1.example.org.evil.example", "db2"]
    {
        refused(V::HTTP_11, "GET", "/metrics", &header(name), Reason::Host);
        refused(V::HTTP_10, "GET", "/metrics", &header(name), Reason::Host);
        refused(V::HTTP_2, "GET", &format!("http://{name}/metrics"), &[], Reason::Host);
        refused(V::HTTP_2, "GET", "http://127.0.0.1/metrics", &header(name), Reason::Host);
        // The absolute form does not hide the header, nor the reverse.
        refused(V::HTTP_11, "GET", &format!("http://{name}/metrics"), &[HOME], Reason::Host);
        refused(V::HTTP_11, "GET", "http://127.0.0.1/metrics", &header(name), Reason::Host);
    }
    passes(V::HTTP_10, "GET", "/readyz", &[]);
    refused(V::HTTP_11, "GET", "/readyz", &[], Reason::HostMissing);
    refused(V::HTTP_11, "GET", "http://127.0.0.1/readyz", &[], Reason::HostMissing);
    refused(V::HTTP_2, "GET", "/readyz", &[], Reason::HostMissing);
    for version in [V::HTTP_10, V::HTTP_11, V::HTTP_2] {
        refused(version, "GET", "/readyz", &header(""), Reason::HostMissing);
        refused(version, "GET", "/readyz", &[HOME, HOME], Reason::HostMissing);
        refused(version, "GET", "/readyz", &[HOME, ("host", "evil.example")], Reason::HostMissing);
    }
    let mut unreadable = request(V::HTTP_11, "GET", "/readyz", &[]);
    unreadable.headers_mut().insert(HOST, HeaderValue::from_bytes(b"localhost\xff").unwrap());
    assert_eq!(gate().check(&unreadable), Err(Reason::Host));
}

#[test]
fn answers_are_one_line() {
    let all = [
        Reason::Origin,
        Reason::Path,
        Reason::HostMissing,
        Reason::Host,
        Reason::Method("GET, HEAD"),
        Reason::ContentType,
        Reason::Body,
    ];
    for reason in all {
        assert!(reason.status().is_client_error(), "{reason:?}");
        assert!(reason.text().ends_with('\n') && reason.text().lines().count() == 1, "{reason:?}");
    }
}
