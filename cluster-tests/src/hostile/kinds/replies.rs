//! Clients that ask for much and take their replies late, slowly or not at all.

use std::{io, time::Duration};

use tokio::time::sleep;

use super::push;
use crate::hostile::{
    arena::{LARGE, LARGE_KEYS, MIDDLE, SMALL},
    link::Link,
};

const MB: usize = 1 << 20;

/// Bytes of the reply to COMMAND, about.
const COMMAND_REPLY: usize = 20 << 10;

pub(super) async fn never_read(link: &mut Link) -> io::Result<()> {
    let size = *link.random.choice([&SMALL, &MIDDLE, &LARGE].iter()).unwrap_or(&&LARGE);
    link.charge_unread(1000 * size.reply_len()).await;
    link.send_each(1000, |n, out| push(out, &["GET", &size.key(n)])).await?;
    // Longer than the time after which a node closes such a client.
    link.hold(20, 45).await;
    Ok(())
}

pub(super) async fn read_byte_by_byte(link: &mut Link) -> io::Result<()> {
    link.send_each(50, |n, out| push(out, &["GET", &MIDDLE.key(n)])).await?;
    loop {
        link.read_once(1).await?;
        sleep(Duration::from_millis(250)).await;
    }
}

pub(super) async fn large_burst(link: &mut Link) -> io::Result<()> {
    let mut burst = Vec::new();
    (0..100).for_each(|n| push(&mut burst, &["GET", &LARGE.key(n)]));
    link.send(&burst).await?;
    link.read(100 * LARGE.reply_len()).await
}

pub(super) async fn pipeline_first(link: &mut Link) -> io::Result<()> {
    link.send_each(300_000, |n, out| push(out, &["GET", &SMALL.key(n)])).await?;
    link.read(300_000 * SMALL.reply_len()).await
}

pub(super) async fn read_with_pauses(link: &mut Link) -> io::Result<()> {
    link.charge_unread(64 * LARGE.reply_len()).await;
    link.send_each(64, |n, out| push(out, &["GET", &LARGE.key(n)])).await?;
    for _ in 0..8 {
        link.read(MB).await?;
        link.hold(1, 10).await;
    }
    Ok(())
}

/// All large values in one reply, which the node merges from two groups.
pub(super) async fn large_mget(link: &mut Link) -> io::Result<()> {
    let keys: Vec<String> = (0..LARGE_KEYS).map(|n| LARGE.key(n)).collect();
    let mut mget = Vec::new();
    push(&mut mget, &[&["MGET"], &keys.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    link.charge_unread(LARGE_KEYS * LARGE.reply_len()).await;
    link.send(&mget).await?;
    link.hold(1, 20).await;
    link.read(MB).await
}

/// Replies that no server limits: the node makes them itself, and they are many times as long as the requests.
pub(super) async fn of_the_node(link: &mut Link) -> io::Result<()> {
    link.charge_unread(500 * COMMAND_REPLY / 2).await;
    link.send_each(500, |n, out| push(out, if n % 2 == 0 { &["COMMAND"] } else { &["INFO"] })).await?;
    link.hold(5, 40).await;
    Ok(())
}

pub(super) async fn errors(link: &mut Link) -> io::Result<()> {
    link.send_each(10_000, |n, out| match n % 4 {
        0 => push(out, &["LPUSH", &SMALL.key(n), "x"]),
        1 => push(out, &["INCR", &SMALL.key(n)]),
        2 => push(out, &["NO-SUCH-COMMAND", "x"]),
        _ => push(out, &["GET"]),
    })
    .await?;
    link.hold(1, 20).await;
    link.read(MB / 2).await
}
