//! Connections that end at the wrong moment.

use std::{io, time::Duration};

use tokio::time::sleep;

use super::push;
use crate::hostile::{
    arena::{LARGE, MIDDLE},
    link::Link,
};

/// Number of connections that a client opens in a row.
const IN_A_ROW: usize = 20;

/// Pause between them: more connections in a second would only measure the kernel.
const BETWEEN: Duration = Duration::from_millis(50);

/// Sends requests, closes the sending side, and takes none or some of the replies.
pub(super) async fn half_closed(link: &mut Link) -> io::Result<()> {
    link.send_each(100, |n, out| push(out, &["GET", &MIDDLE.key(n)])).await?;
    if link.random.bool() {
        // In the middle of a request.
        link.send(b"*2\r\n$3\r\nGE").await?;
    }
    link.close_half().await?;
    link.hold(1, 20).await;
    link.read(10 * MIDDLE.reply_len()).await
}

pub(super) async fn without_requests(link: &mut Link) -> io::Result<()> {
    for _ in 0..IN_A_ROW {
        let abort = link.random.bool();
        link.reconnect(abort).await?;
        sleep(BETWEEN).await;
    }
    Ok(())
}

pub(super) async fn in_a_request(link: &mut Link) -> io::Result<()> {
    let mut set = Vec::new();
    push(&mut set, &["SET", "hostile:cut", "a value that may be cut"]);
    for _ in 0..IN_A_ROW {
        let (at, abort) = (link.random.usize(1..=set.len()), link.random.bool());
        link.send(&set[..at]).await?;
        link.reconnect(abort).await?;
        sleep(BETWEEN).await;
    }
    Ok(())
}

/// Asks for large values and leaves while they are on their way.
pub(super) async fn before_replies(link: &mut Link) -> io::Result<()> {
    for _ in 0..5 {
        link.charge_unread(100 * LARGE.reply_len()).await;
        link.send_each(100, |n, out| push(out, &["GET", &LARGE.key(n)])).await?;
        link.read_once(1).await?;
        let abort = link.random.bool();
        link.reconnect(abort).await?;
        link.hold(1, 3).await;
    }
    Ok(())
}
