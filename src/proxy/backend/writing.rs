//! How a connection to a server writes its queued requests. Knows nothing of what they are.

use std::{
    io,
    task::{Context, Poll},
};

use super::connection::Pump;

impl Pump<'_> {
    /// Writes to a socket whose buffer is nearly full. The kernel reports it as writable only when a third is free, which
    /// on a slow link takes longer than a deadline; less is progress, too.
    #[cold]
    fn press(&mut self, bytes: &[u8]) -> io::Result<()> {
        match socket2::SockRef::from(self.writer.as_ref()).send(bytes) {
            Ok(n) => {
                self.backend.written.set(self.backend.written.get() + n);
                self.drained_at = self.worker.clock.tick();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes all queued bytes; if the socket's buffer is full, waits until it is writable.
    pub(super) fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let backend = self.backend;
        if backend.cutting.get() {
            return Ok(());
        }
        loop {
            let mut out = backend.out.borrow_mut();
            let written = backend.written.get();
            if written == out.len() {
                backend.compact(&mut out);
                drop(out);
                backend.full.set(false);
                backend.wake_waiters(self.worker);
                return Ok(());
            }
            match self.writer.try_write(&out[written..]) {
                Ok(n) => {
                    backend.written.set(written + n);
                    backend.compact(&mut out);
                    if backend.full.get() {
                        self.drained_at = self.worker.clock.tick();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if backend.full.get() {
                        self.press(&out[written..])?;
                    }
                    drop(out);
                    backend.full.set(true);
                    backend.wake_waiters(self.worker);
                    match self.writer.as_ref().poll_write_ready(cx) {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(ready) => ready?,
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}
