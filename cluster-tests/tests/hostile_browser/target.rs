//! The attacked node, and how requests reach it: HTTP/1 as raw bytes, HTTP/2 with any header.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::Bytes;
use cluster_tests::{cluster::Cluster, node::Node};
use http::Request;
use serde_json::Value;

/// The call of the original attack: it changes a setting of the whole cluster.
pub const SET_CLUSTER: &str = "/pontoon.admin.v1.Admin/SetCluster";
/// Its body, in gRPC's framing: `SetClusterRequest { maintenance: true }`.
pub const MAINTENANCE_ON: &[u8] = b"\0\0\0\0\x02\x18\x01";
/// A name of the node that only its configuration lists.
pub const LISTED: &str = "monitoring.example.org";
/// Longest time for an answer on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest answer that is read: /metrics has some 10 KB.
const ANSWER_MAX: usize = 1 << 20;

/// A cluster of one node, without a secret.
pub struct Target {
    pub cluster: Cluster,
    before: Value,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// 0: the connection was closed, or the request reset, without an answer.
    pub status: u16,
    /// Status line, headers and trailers, in lower case.
    pub head: String,
    pub body: String,
}

impl Target {
    pub fn start() -> Self {
        let mut cluster = Cluster::prepared(1);
        cluster.nodes[0].more.extend(["--admin-hosts".to_owned(), LISTED.to_owned()]);
        cluster.start_all();
        let before = cluster.cli().json(&["cluster", "show"]);
        assert_eq!(before["maintenance"], false, "{before}");
        Self { cluster, before }
    }

    pub fn node(&self) -> &Node {
        self.cluster.node(1)
    }

    /// Checks that the settings of the cluster are those from before.
    #[track_caller]
    pub fn is_unchanged(&self, after: &str) {
        assert_eq!(self.cluster.cli().json(&["cluster", "show"]), self.before, "after {after}");
    }

    /// Requests that the node has refused because of their HTTP.
    pub fn refused(&self) -> u64 {
        self.node().counter("pontoon_calls_refused_total{reason=\"http\"}")
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.node().admin()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends these bytes on a new connection and returns the answer to the first request in them.
    pub fn http1(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // The node may close before it has read everything.
        let _ = stream.write_all(request);
        read_answer(&mut stream)
    }

    /// Sends a request over HTTP/2. Its URI has the authority.
    pub fn http2(&self, request: Request<Vec<u8>>) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = async { tokio::time::timeout(DEADLINE, ask(&self.node().admin(), request)).await };
        runtime.block_on(asked).expect("the node answers").unwrap_or_default()
    }
}

/// A POST of the body of the original attack over HTTP/1.1. `headers` end in line breaks.
pub fn post(path: &str, headers: &str) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n", MAINTENANCE_ON.len());
    [head.as_bytes(), MAINTENANCE_ON].concat()
}

/// Reads an answer. What a connection sends that is closed before the end of an answer is one, too.
pub fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").map_or((&*text, None), |(head, body)| (head, Some(body)));
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let complete = body.is_some_and(|body| length.is_some_and(|length| body.len() >= length));
        let mut more = [0; 4096];
        let read = if complete { Ok(0) } else { stream.read(&mut more) };
        match read {
            Ok(n) if n > 0 && bytes.len() < ANSWER_MAX => bytes.extend(&more[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the node neither answers nor closes the connection; so far: {text}")
            }
            _ => {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
                return Answer { status, body: body.unwrap_or_default().to_owned(), head };
            }
        }
    }
}

async fn ask(admin: &str, request: Request<Vec<u8>>) -> Result<Answer, h2::Error> {
    let tcp = tokio::net::TcpStream::connect(admin).await.unwrap();
    let (sender, connection) = h2::client::handshake(tcp).await?;
    tokio::spawn(connection);
    let (head, body) = request.into_parts();
    let (response, mut stream) = sender.ready().await?.send_request(Request::from_parts(head, ()), false)?;
    // The node may answer and reset before it has read the body.
    let _ = stream.send_data(Bytes::from(body), true);
    let (head, mut body) = response.await?.into_parts();
    let mut answer = Answer { status: head.status.as_u16(), ..Answer::default() };
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| format!("{name}: {value:?}\n");
    answer.head.extend(head.headers.iter().map(line));
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        answer.body += &String::from_utf8_lossy(&data);
    }
    answer.head.extend(body.trailers().await?.iter().flatten().map(line));
    Ok(answer)
}
