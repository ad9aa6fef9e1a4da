//! The first bytes of a connection, which tell whether it speaks HTTP/2.
//! Knows nothing of what follows.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What an HTTP/2 client sends first (RFC 9113, 3.4). No HTTP/1 request begins like this.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection of which the first bytes were read. They are read again.
#[derive(Debug)]
pub struct Opened<C> {
    /// Whether it speaks HTTP/2.
    pub http2: bool,
    first: [u8; PREFACE.len()],
    /// The part of `first` that is to be read again.
    again: std::ops::Range<usize>,
    connection: C,
}

impl<C: AsyncRead + Unpin> Opened<C> {
    /// Reads until it is clear what the connection speaks. The caller limits how long that may take.
    ///
    /// # Errors
    /// If the connection fails or ends before.
    pub async fn read(mut connection: C) -> io::Result<Self> {
        let (mut first, mut len) = ([0; PREFACE.len()], 0);
        while len < PREFACE.len() && first[..len] == PREFACE[..len] {
            match connection.read(&mut first[len..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => len += n,
            }
        }
        Ok(Self { http2: first == PREFACE, first, again: 0..len, connection })
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Opened<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.again.is_empty() {
            return Pin::new(&mut self.connection).poll_read(cx, buf);
        }
        let len = self.again.len().min(buf.remaining());
        let start = self.again.start;
        buf.put_slice(&self.first[start..start + len]);
        self.again.start += len;
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Opened<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

impl<C: Connected> Connected for Opened<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.connect_info()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_preface_is_recognised_and_every_byte_is_read_again() {
        let whole = [&PREFACE[..], b"\0\0\0\x04\0\0\0\0\0"].concat();
        for (sent, http2) in [
            (&whole[..], true),
            (&PREFACE, true),
            (b"GET /healthz HTTP/1.1\r\n\r\n", false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r?", false),
            (b"PROPFIND / HTTP/1.1\r\n\r\n", false),
            (b"\x16\x03\x01\x02\x00", false),
            (b"?", false),
        ] {
            // All at once, and one byte at a time.
            for len in [sent.len(), 1] {
                let inputs = Inputs(sent.chunks(len).map(<[u8]>::to_vec).collect());
                let mut opened = Opened::read(inputs).await.unwrap();
                assert_eq!(opened.http2, http2, "{sent:?}");
                let mut read = Vec::new();
                opened.read_to_end(&mut read).await.unwrap();
                assert_eq!(read, sent);
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_early_is_an_error() {
        for sent in [&b""[..], b"P", &PREFACE[..23]] {
            assert!(Opened::read(sent).await.is_err(), "{sent:?}");
        }
    }

    /// A connection that gives one input at each read.
    struct Inputs(std::collections::VecDeque<Vec<u8>>);

    impl AsyncRead for Inputs {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if let Some(mut input) = self.0.pop_front() {
                let rest = input.split_off(input.len().min(buf.remaining()));
                buf.put_slice(&input);
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }
}
