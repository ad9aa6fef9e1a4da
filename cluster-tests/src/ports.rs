//! Ports for one test that no other test on this machine uses.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// First port. It is below Linux's ports for outgoing connections (32768), so that the kernel never assigns one of
/// these ports to another process while a node is down.
const FIRST: u16 = 28_000;
/// Number of ports of one test.
const BLOCK: u16 = 80;
/// Number of blocks: more than the number of tests that run at the same time on any machine.
const BLOCKS: u16 = 48;

/// The ports of one test. [`Ports::client`], [`Ports::admin`] and [`Ports::server`] do not overlap.
/// The guard listens on the first port while the test runs, which reserves the block.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    _guard: TcpListener,
}

impl Ports {
    /// Reserves a block in which every port is free.
    ///
    /// # Panics
    /// When there is no such block.
    #[must_use]
    pub fn take() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes start at different blocks, so that they rarely try the same one.
        let shift = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap_or(0);
        for _ in 0..BLOCKS * 2 {
            let block = (NEXT.fetch_add(1, Ordering::Relaxed) + shift) % BLOCKS;
            let base = FIRST + block * BLOCK;
            let Ok(guard) = TcpListener::bind((Ipv4Addr::LOCALHOST, base)) else { continue };
            if (1..BLOCK).all(|i| is_free(base + i)) {
                return Self { base, _guard: guard };
            }
        }
        panic!(
            "no {BLOCK} free ports from {FIRST} on; are processes of earlier tests left? \
             (pgrep -a 'pontoon|redis-server')"
        );
    }

    /// Returns the port of the `n`-th product (0 is `default`, 1 is a further product). Node i listens on this port
    /// plus i (1 to 9).
    #[must_use]
    pub fn product(&self, n: u16) -> u16 {
        assert!(n < 2);
        self.base + 10 * (n + 1)
    }

    /// Returns the port on which node `id` (1 to 9) serves clients of product `default`.
    #[must_use]
    pub fn client(&self, id: u16) -> u16 {
        self.product(0) + id
    }

    /// Returns the admin port of node `id` (1 to 9).
    #[must_use]
    pub fn admin(&self, id: u16) -> u16 {
        assert!((1..10).contains(&id));
        self.base + 30 + id
    }

    /// Returns the port on which node `id` (1 to 9) listens if a relay listens on its admin port.
    #[must_use]
    pub fn admin_listen(&self, id: u16) -> u16 {
        assert!((1..10).contains(&id));
        self.base + id
    }

    /// Returns the port of the `n`-th server or relay (0 to 39).
    #[must_use]
    pub fn server(&self, n: u16) -> u16 {
        assert!(n < 40);
        self.base + 40 + n
    }
}

/// The ports of one playground: `--port` and the ports above it (nodes, admin ports from + 100, servers from + 200).
#[derive(Debug)]
pub struct PlaygroundPorts {
    /// The value for `--port`.
    pub base: u16,
    _guard: TcpListener,
}

impl PlaygroundPorts {
    /// First port: below the blocks of other tests.
    const FIRST: u16 = 20_000;
    /// Room for 9 nodes and their servers.
    const STRIDE: u16 = 250;

    /// Reserves a range in which every port is free.
    ///
    /// # Panics
    /// When there is no such range.
    #[must_use]
    pub fn take() -> Self {
        for i in 0..(FIRST - Self::FIRST) / Self::STRIDE {
            let base = Self::FIRST + i * Self::STRIDE;
            let Ok(guard) = TcpListener::bind((Ipv4Addr::LOCALHOST, base)) else { continue };
            if [0, 100, 200].iter().all(|above| (1..10).all(|n| is_free(base + above + n))) {
                return Self { base, _guard: guard };
            }
        }
        panic!("no free ports for a playground from {} on", Self::FIRST);
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tests_never_share_a_port() {
        let (a, b) = (Ports::take(), Ports::take());
        assert!(a.base.abs_diff(b.base) >= BLOCK);
        assert!(a.server(39) < a.base + BLOCK);
    }
}
