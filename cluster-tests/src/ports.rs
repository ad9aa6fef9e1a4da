//! Ports for one test that no other test of this machine has.
//! Knows nothing of who listens there.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below Linux' ports of outgoing connections (32768), so that the kernel never gives one of ours away while a node is down.
const FIRST: u16 = 28_000;
/// Ports of one test.
const BLOCK: u16 = 80;
/// Blocks there are; more than tests run at once on any machine.
const BLOCKS: u16 = 48;

/// Ports of one test: [`Ports::client`], [`Ports::admin`] and [`Ports::server`] never meet.
/// The guard listens on the first port as long as the test runs, and so keeps other processes away from the block.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    _guard: TcpListener,
}

impl Ports {
    /// Takes a block of which every port is free.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn take() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes begin at different places, so that they seldom try the same.
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
            "no {BLOCK} free ports from {FIRST} on; are processes of former tests left? (pgrep -a 'pontoon|redis-server')"
        );
    }

    /// Base port of the `n`-th product (0 to 1: `default` is 0); node i listens on it plus i, i from 1 to 9.
    #[must_use]
    pub fn product(&self, n: u16) -> u16 {
        assert!(n < 2);
        self.base + 10 * (n + 1)
    }

    /// Where clients of product `default` reach node `id`.
    #[must_use]
    pub fn client(&self, id: u16) -> u16 {
        self.product(0) + id
    }

    /// Admin port of node `id`, 1 to 9.
    #[must_use]
    pub fn admin(&self, id: u16) -> u16 {
        assert!((1..10).contains(&id));
        self.base + 30 + id
    }

    /// Where node `id` listens if a relay listens on its admin port, 1 to 9.
    #[must_use]
    pub fn admin_listen(&self, id: u16) -> u16 {
        assert!((1..10).contains(&id));
        self.base + id
    }

    /// Port of the `n`-th server or relay, 0 to 39.
    #[must_use]
    pub fn server(&self, n: u16) -> u16 {
        assert!(n < 40);
        self.base + 40 + n
    }
}

/// Ports of one playground: `--port` and what lies above it (nodes, admin + 100, servers + 200).
#[derive(Debug)]
pub struct PlaygroundPorts {
    /// For `--port`.
    pub base: u16,
    _guard: TcpListener,
}

impl PlaygroundPorts {
    /// Below the blocks of other tests.
    const FIRST: u16 = 20_000;
    /// Room for 9 nodes and their servers.
    const STRIDE: u16 = 250;

    /// Takes ports of which every one is free.
    ///
    /// # Panics
    /// When there are none.
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
