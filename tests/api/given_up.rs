//! Calls that their callers gave up before the node read them: a node finds these after it was paused for seconds.

use std::sync::Arc;

use pontoon::api::server::{Services, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    admin::Nothing,
    log::{Node, Shared},
    wait::PATIENCE,
};

/// Raft messages of ten seconds, each given up by its sender; h2 alone closes the connection at the 21st.
const GIVEN_UP: u32 = 100;

// RFC 9113, 6 and 7.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_OF_STREAM_AND_HEADERS: u8 = 0x1 | 0x4;
const ACK: u8 = 0x1;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// `:method POST`, `:scheme http`, `:path /` from the static table (RFC 7541, A).
const REQUEST: [u8; 3] = [0x83, 0x86, 0x84];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

async fn read_frame(stream: &mut TcpStream) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("the node keeps the connection");
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], head[4], payload)
}

/// On one thread: the node reads nothing before everything is written.
#[tokio::test]
async fn a_peer_that_gave_up_many_calls_keeps_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = Node::new(1, &Shared::new(&[(1, "127.0.0.1:7101")]));
    let services = Services {
        control: node.control.clone(),
        raft: Nothing::<0>,
        node: Nothing::<1>,
        secret: pontoon::wire::auth::ClusterSecret::none(),
        refused: Default::default(),
        hosts: Default::default(),
        source: None,
        leased: Arc::new(|| true),
        report: tokio::sync::watch::channel(Arc::default()).1,
        clients: Default::default(),
        clients_max: 50_000,
        connections_max: 500,
    };
    let serving = tokio::spawn(serve(listener, services, std::future::pending()));

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    // Settings are exchanged, so that what follows meets a connection at work.
    while timeout(PATIENCE, read_frame(&mut stream)).await.unwrap().0 != SETTINGS {}
    stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    let mut burst = Vec::new();
    for call in 0..GIVEN_UP {
        burst.extend(frame(HEADERS, END_OF_STREAM_AND_HEADERS, 2 * call + 1, &REQUEST));
        burst.extend(frame(RST_STREAM, 0, 2 * call + 1, &CANCEL));
    }
    burst.extend(frame(PING, 0, 0, b"12345678"));
    stream.write_all(&burst).await.unwrap();
    loop {
        let (kind, flags, payload) = timeout(PATIENCE, read_frame(&mut stream)).await.unwrap();
        assert_ne!(kind, GOAWAY, "the node sends its peer away: {}", String::from_utf8_lossy(&payload));
        if (kind, flags, payload.as_slice()) == (PING, ACK, b"12345678") {
            break;
        }
    }
    serving.abort();
}
