//! The connection of a hostile client. Every operation is charged to the common rate and counted.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    time::sleep,
};

use super::pace::Pace;

/// Size of the pieces in which large amounts are sent and read.
const PIECE: usize = 64 << 10;

/// Socket buffers of a hostile client. With the kernel's defaults (up to 36 MB for each connection), thousands of unread
/// connections would use up the TCP memory of the whole machine.
const SOCKET_BUFFER: u32 = 64 << 10;

/// Bytes of unread replies of a client that are charged: with thousands of clients, about what a node moves before it
/// keeps back the rest.
const UNREAD_CHARGED: usize = 2 << 20;

/// Number of source addresses (127.0.1.1 and following): connections that were closed keep their ports for a minute, and
/// one address has 28,000 of them.
const SOURCES: u32 = 100;

/// What all hostile clients share.
#[derive(Debug)]
pub struct Attack {
    /// The attacked port.
    pub port: u16,
    /// The common rate.
    pub pace: Pace,
    /// Rounds of heavy kinds that may run at the same time; see `attack`.
    pub heavy: Semaphore,
}

/// What the clients of one kind did and saw.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that were established.
    pub connected: AtomicU64,
    /// Rounds that the client ended.
    pub ended: AtomicU64,
    /// Rounds that a connection error ended, such as a connection that the node closed.
    pub cut: AtomicU64,
    /// Rounds that took too long.
    pub given_up: AtomicU64,
    /// Bytes sent.
    pub sent: AtomicU64,
    /// Bytes received.
    pub received: AtomicU64,
    /// The first error reply that was read at the beginning of a piece.
    pub first_error: Mutex<Option<String>>,
}

/// A connection of a hostile client.
#[derive(Debug)]
pub struct Link {
    attack: Arc<Attack>,
    counts: Arc<Counts>,
    stream: TcpStream,
    /// The random numbers of this client.
    pub random: Rng,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// When the node does not accept the connection.
    pub async fn connect(attack: &Arc<Attack>, counts: &Arc<Counts>, mut random: Rng) -> io::Result<Self> {
        let stream = open(attack, counts, &mut random).await?;
        Ok(Self { attack: attack.clone(), counts: counts.clone(), stream, random })
    }

    /// Drops the connection and opens another one. `abort`: with a reset instead of an orderly end.
    ///
    /// # Errors
    /// When the node does not accept the connection.
    pub async fn reconnect(&mut self, abort: bool) -> io::Result<()> {
        if abort {
            self.abort_on_close()?;
        }
        self.stream = open(&self.attack, &self.counts, &mut self.random).await?;
        Ok(())
    }

    /// Makes the end of this connection a reset.
    ///
    /// # Errors
    /// When the socket does not allow it.
    pub fn abort_on_close(&self) -> io::Result<()> {
        self.stream.set_zero_linger()
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.attack.pace.charge(piece.len()).await;
            self.stream.write_all(piece).await?;
            self.counts.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends the results of `make` for 0 to `times`, in large pieces.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn send_each(&mut self, times: usize, make: impl Fn(usize, &mut Vec<u8>)) -> io::Result<()> {
        let mut piece = Vec::with_capacity(PIECE + 1024);
        for n in 0..times {
            make(n, &mut piece);
            if piece.len() >= PIECE || n + 1 == times {
                self.send(&piece).await?;
                piece.clear();
            }
        }
        Ok(())
    }

    /// Sends `bytes` one at a time, with a pause after each.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn send_singly(&mut self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        for byte in bytes {
            self.send(&[*byte]).await?;
            sleep(pause).await;
        }
        Ok(())
    }

    /// Sends `total` bytes of a value, in pieces with a pause after each.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn send_filler(&mut self, total: usize, pause: Duration) -> io::Result<()> {
        let filler = vec![b'f'; PIECE.min(total)];
        let mut left = total;
        while left > 0 {
            let piece = left.min(PIECE);
            self.send(&filler[..piece]).await?;
            left -= piece;
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
        Ok(())
    }

    /// Reads up to `size` bytes once, and returns their number.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn read_once(&mut self, size: usize) -> io::Result<usize> {
        let mut piece = vec![0; size];
        let n = self.stream.read(&mut piece).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.attack.pace.charge(n).await;
        if piece[0] == b'-' {
            self.counts.note_error(&piece[1..n]);
        }
        self.counts.received.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    /// Reads `total` bytes.
    ///
    /// # Errors
    /// When the node has closed the connection.
    pub async fn read(&mut self, total: usize) -> io::Result<()> {
        let mut left = total;
        while left > 0 {
            left -= self.read_once(left.min(PIECE)).await?;
        }
        Ok(())
    }

    /// Reads for this time, or until the node closes the connection.
    pub async fn read_for(&mut self, time: Duration) {
        let read_all = async { while self.read(PIECE).await.is_ok() {} };
        // Either end is what the caller asked for.
        let _ = tokio::time::timeout(time, read_all).await;
    }

    /// Charges for replies that the client asks for and does not read: servers and nodes move some of them all the same.
    pub async fn charge_unread(&self, bytes: usize) {
        self.attack.pace.charge(bytes.min(UNREAD_CHARGED)).await;
    }

    /// Closes the sending side only.
    ///
    /// # Errors
    /// When the connection has broken.
    pub async fn close_half(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Keeps the connection for a random time of `from` to `to` seconds without reading or sending.
    pub async fn hold(&mut self, from: u64, to: u64) {
        let time = self.random.u64(from * 1000..to * 1000);
        sleep(Duration::from_millis(time)).await;
    }
}

impl Counts {
    fn note_error(&self, reply: &[u8]) {
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            let line = reply.split(|byte| *byte == b'\r').next().unwrap_or_default();
            *first = Some(String::from_utf8_lossy(line).into_owned());
        }
    }
}

async fn open(attack: &Attack, counts: &Counts, random: &mut Rng) -> io::Result<TcpStream> {
    attack.pace.charge(0).await;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 1, 1).to_bits() + random.u32(0..SOURCES));
    socket.bind(SocketAddr::from((source, 0)))?;
    let stream = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, attack.port))).await?;
    counts.connected.fetch_add(1, Ordering::Relaxed);
    Ok(stream)
}
