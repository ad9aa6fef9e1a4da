//! Connections of the admin port that are closed because this node has had nothing to say on them (a request was never
//! completed, or the other side has vanished), or because there are too many.
//! Knows nothing of HTTP.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tonic::transport::server::Connected;

use super::connections::Place;
use crate::wire::connection::ConnectionInfo;

/// How long this node may write nothing to a connection. HTTP/2 connections get a ping every 10 s, also while a call
/// runs, and HTTP/1 requests (health) are answered at once; a slow network has three times that interval.
pub const SILENT_MAX: Duration = Duration::from_secs(30);

/// A connection that ends when nothing was written to it for [`SILENT_MAX`], or when others need its place.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    silent: Pin<Box<Sleep>>,
    place: Place,
}

impl Connection {
    /// The time begins now.
    pub fn new(stream: TcpStream, place: Place) -> Self {
        Self { stream, silent: Box::pin(sleep(SILENT_MAX)), place }
    }

    fn spoke(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(n)) if *n > 0) {
            self.silent.as_mut().reset(Instant::now() + SILENT_MAX);
        }
    }

    /// Fails when the connection is to end. Reads and writes ask: HTTP does not read while the other side takes no
    /// answers.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.silent.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.place.poll_asked_to_close(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_end(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.spoke(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_end(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.spoke(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo { mark: self.place.mark.clone(), peer: self.stream.peer_addr().ok() }
    }
}
