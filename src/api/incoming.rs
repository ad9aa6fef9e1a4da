//! The connections of the admin port. After an `accept` that failed for lack of file descriptors it pauses, and goes on
//! when some are free again. Knows nothing of what the connections are for.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tracing::{debug, warn};

use crate::counters;

/// First pause after an `accept` that failed: without it, the loop would use a whole core. Doubles with each failure.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: an operator waits as long when descriptors are free again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The accepted connections of a listener. It never ends and has no errors.
pub struct Incoming {
    listener: TcpListener,
    /// The pause that is running.
    paused: Option<Pin<Box<Sleep>>>,
    /// The next pause.
    pause: Duration,
}

impl Incoming {
    /// The connections that `listener` accepts.
    #[must_use]
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, paused: None, pause: PAUSE }
    }
}

impl Stream for Incoming {
    type Item = io::Result<TcpStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(paused) = &mut self.paused {
                if paused.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.paused = None;
            }
            match self.listener.poll_accept(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok((stream, from))) => {
                    self.pause = PAUSE;
                    // Without it an answer sometimes waits 40 ms for the other side's delayed TCP acknowledgement of
                    // the previous one, and commits and holds consist of such answers.
                    match stream.set_nodelay(true) {
                        Ok(()) => return Poll::Ready(Some(Ok(stream))),
                        Err(error) => debug!(%from, %error, "a connection to the admin port was closed at once"),
                    }
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Poll::Ready(Err(error)) => {
                    counters::ADMIN_ACCEPTS_FAILED.increment();
                    if self.pause == PAUSE {
                        warn!(%error, "cannot accept connections to the admin port");
                    }
                    self.paused = Some(Box::pin(sleep(self.pause)));
                    self.pause = (2 * self.pause).min(PAUSE_MAX);
                }
            }
        }
    }
}
