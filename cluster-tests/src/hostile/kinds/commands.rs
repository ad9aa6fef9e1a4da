//! Whole requests whose commands are expensive, refused, or change the state of the session.

use std::{io, time::Duration};

use super::push;
use crate::hostile::{arena::SMALL, link::Link};

/// Time in which replies are read when their sizes are not known.
const READ_FOR: Duration = Duration::from_secs(5);

/// Commands that a proxy cannot offer or that block. If one were executed, a group would lose its data or its primary.
const REFUSED: &[&[&str]] = &[
    &["KEYS", "*"],
    &["FLUSHALL"],
    &["SHUTDOWN", "NOSAVE"],
    &["DEBUG", "SLEEP", "10"],
    &["REPLICAOF", "NO", "ONE"],
    &["CONFIG", "SET", "maxmemory", "1"],
    &["MONITOR"],
    &["SUBSCRIBE", "x"],
    &["BLPOP", "hostile:none", "0"],
    &["WAIT", "1", "0"],
    &["CLIENT", "KILL", "TYPE", "normal"],
    &["CLIENT", "PAUSE", "10000"],
    &["SCRIPT", "FLUSH"],
];

/// A command with 10,000 to a million keys.
pub(super) async fn many_keys(link: &mut Link) -> io::Result<()> {
    let commands = ["MGET", "DEL", "UNLINK", "EXISTS", "TOUCH", "MSET"];
    let command = commands[link.random.usize(0..commands.len())];
    let keys = 10_usize.pow(link.random.u32(4..=6)).min(if command == "MSET" { 100_000 } else { 1_000_000 });
    let args = if command == "MSET" { 2 * keys + 1 } else { keys + 1 };
    link.send(format!("*{args}\r\n${}\r\n{command}\r\n", command.len()).as_bytes()).await?;
    link.send_each(keys, |n, out| {
        let key = format!("hostile:m:{n}");
        out.extend_from_slice(format!("${}\r\n{key}\r\n", key.len()).as_bytes());
        if command == "MSET" {
            out.extend_from_slice(b"$1\r\nv\r\n");
        }
    })
    .await?;
    link.read_for(READ_FOR).await;
    Ok(())
}

pub(super) async fn command_info(link: &mut Link) -> io::Result<()> {
    link.send(b"*1000002\r\n$7\r\nCOMMAND\r\n$4\r\nINFO\r\n").await?;
    link.send_each(1_000_000, |_, out| out.extend_from_slice(b"$3\r\nGET\r\n")).await?;
    link.read_for(READ_FOR).await;
    Ok(())
}

pub(super) async fn transactions(link: &mut Link) -> io::Result<()> {
    link.send_each(2_000, |n, out| {
        push(out, &["MULTI"]);
        push(out, &["SET", &format!("hostile:t:{}", n % 100), "v"]);
        push(out, &["EXEC"]);
        push(out, &["WATCH", "hostile:t:0"]);
        push(out, &["DISCARD"]);
    })
    .await?;
    link.read_for(READ_FOR).await;
    Ok(())
}

pub(super) async fn wrong_passwords(link: &mut Link) -> io::Result<()> {
    link.send_each(5_000, |n, out| {
        push(out, &["AUTH", &format!("wrong-{n}")]);
        push(out, &["HELLO", "3", "AUTH", "default", "wrong"]);
    })
    .await?;
    link.read_for(READ_FOR).await;
    Ok(())
}

pub(super) async fn replies_off(link: &mut Link) -> io::Result<()> {
    let mut off = Vec::new();
    push(&mut off, &["CLIENT", "REPLY", "OFF"]);
    link.send(&off).await?;
    link.send_each(100_000, |n, out| push(out, &["GET", &SMALL.key(n)])).await?;
    link.hold(1, 5).await;
    Ok(())
}

pub(super) async fn versions(link: &mut Link) -> io::Result<()> {
    link.send_each(1_000, |n, out| {
        push(out, &["HELLO", if n % 2 == 0 { "3" } else { "2" }]);
        push(out, &["GET", &SMALL.key(n)]);
    })
    .await?;
    link.read_for(READ_FOR).await;
    Ok(())
}

pub(super) async fn databases(link: &mut Link) -> io::Result<()> {
    link.send_each(1_000, |n, out| {
        push(out, &["SELECT", &(n % 16).to_string()]);
        push(out, &["SET", "hostile:db", "v"]);
        push(out, &["GET", "hostile:db"]);
    })
    .await?;
    link.read_for(READ_FOR).await;
    Ok(())
}

pub(super) async fn refused(link: &mut Link) -> io::Result<()> {
    link.send_each(5_000, |n, out| push(out, REFUSED[n % REFUSED.len()])).await?;
    link.read_for(READ_FOR).await;
    Ok(())
}
