//! Requests that never end, that are huge, or that are none.

use std::{io, time::Duration};

use super::push;
use crate::hostile::{arena::SMALL, link::Link};

const MB: usize = 1 << 20;

/// Number of keys for large values, of each kind: together a few hundred megabytes.
const LARGE_VALUES: usize = 4;

/// The beginning of a SET of this many bytes.
fn set_header(key: &str, bytes: usize) -> Vec<u8> {
    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${bytes}\r\n", key.len()).into_bytes()
}

pub(super) async fn announced_bulk(link: &mut Link) -> io::Result<()> {
    link.send(&set_header("hostile:never", 512 * MB)).await?;
    let sent = link.random.usize(0..MB);
    link.send_filler(sent, Duration::ZERO).await?;
    link.hold(20, 60).await;
    Ok(())
}

pub(super) async fn announced_array(link: &mut Link) -> io::Result<()> {
    link.send(b"*1048576\r\n$4\r\nMGET\r\n").await?;
    let sent = link.random.usize(0..50_000);
    link.send_each(sent, |_, out| out.extend_from_slice(b"$1\r\nk\r\n")).await?;
    link.hold(20, 60).await;
    Ok(())
}

pub(super) async fn endless_line(link: &mut Link) -> io::Result<()> {
    link.send(b"GET ").await?;
    link.send_filler(60_000, Duration::from_millis(100)).await?;
    link.hold(10, 30).await;
    // Beyond the limit of a line.
    link.send_filler(MB, Duration::ZERO).await?;
    link.read_for(Duration::from_secs(1)).await;
    Ok(())
}

pub(super) async fn slow_value(link: &mut Link) -> io::Result<()> {
    let (bytes, n) = (link.random.usize(MB..=16 * MB), link.random.usize(0..LARGE_VALUES));
    link.send(&set_header(&format!("hostile:slow:{n}"), bytes)).await?;
    link.send_filler(bytes, Duration::from_millis(200)).await?;
    link.send(b"\r\n").await?;
    link.read(5).await
}

pub(super) async fn large_values(link: &mut Link) -> io::Result<()> {
    for _ in 0..3 {
        let n = link.random.usize(0..LARGE_VALUES);
        link.send(&set_header(&format!("hostile:large:{n}"), 16 * MB)).await?;
        link.send_filler(16 * MB, Duration::ZERO).await?;
        link.send(b"\r\n").await?;
    }
    link.read(15).await
}

pub(super) async fn byte_by_byte(link: &mut Link) -> io::Result<()> {
    let mut set = set_header("hostile:bytes", 400);
    set.extend_from_slice(&[b'f'; 400]);
    set.extend_from_slice(b"\r\n");
    link.send_singly(&set, Duration::from_millis(100)).await?;
    link.read(5).await
}

/// Inline commands with many short, quoted words.
pub(super) async fn long_line(link: &mut Link) -> io::Result<()> {
    let line = ["MGET ", &"\"\\x41\" ".repeat(8_000), "\r\n"].concat();
    link.send_each(20, |_, out| out.extend_from_slice(line.as_bytes())).await?;
    link.read_for(Duration::from_secs(2)).await;
    Ok(())
}

/// Bytes for which the node owes no reply.
pub(super) async fn empty(link: &mut Link) -> io::Result<()> {
    link.send_each(200_000, |n, out| out.extend_from_slice(if n % 2 == 0 { b"\r\n" } else { b"*0\r\n" })).await?;
    link.hold(1, 5).await;
    Ok(())
}

pub(super) async fn random_bytes(link: &mut Link) -> io::Result<()> {
    let mut bytes = vec![0; link.random.usize(1..100_000)];
    link.random.fill(&mut bytes);
    link.send(&bytes).await?;
    link.read_for(Duration::from_secs(1)).await;
    Ok(())
}

pub(super) async fn invalid_headers(link: &mut Link) -> io::Result<()> {
    let headers: [&[u8]; 10] = [
        b"*-1\r\n",
        b"*99999999999999999999\r\n",
        b"*2147483647\r\n",
        b"*3\r\n$-5\r\n",
        b"*1\r\n$1073741824\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n",
        b"*2\r\n$3\r\nGET\r\n:1\r\n",
        b"*1\r\n$4\r\nPINGPING",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n",
    ];
    let header = headers[link.random.usize(0..headers.len())];
    // The valid requests before the invalid one are executed.
    let mut bytes = Vec::new();
    (0..100).for_each(|n| push(&mut bytes, &["GET", &SMALL.key(n)]));
    bytes.extend_from_slice(header);
    link.send(&bytes).await?;
    link.read_for(Duration::from_secs(1)).await;
    Ok(())
}
