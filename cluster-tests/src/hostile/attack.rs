//! Runs the hostile clients on a thread of their own. Each client repeats rounds of its kind: it connects, does its
//! damage, and ends.

use std::{
    io,
    process::{Command, ExitStatus},
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    kinds::{KINDS, Kind},
    link::{Attack, Counts, Link},
    pace::Pace,
};

/// Rounds of heavy kinds at the same time. The others wait, connected: if all clients shared the rate at the same time,
/// none would get far enough to send a value of 16 MB.
const HEAVY_ROUNDS: usize = 32;

/// Longest round. It is longer than the time after which a node closes a client that reads nothing.
const ROUND_MAX: Duration = Duration::from_secs(120);

/// Longest pause of a client between two rounds, in milliseconds.
const PAUSE_MAX_MS: u64 = 1000;

/// How many hostile clients there are, of which kinds, and how fast they are.
#[derive(Clone, Debug)]
pub struct AttackOptions {
    /// Number of clients, divided equally among the kinds.
    pub clients: usize,
    /// Bytes per second of all clients together.
    pub rate: usize,
    /// The seed of all random numbers.
    pub seed: u64,
    /// Only the kinds whose name contains this text.
    pub only: Option<String>,
    /// Whether the clients, and in a storm the attacked servers, get only the time of the cores that no one else wants
    /// ([`idle_class`]), as if they ran on other machines. Not for a machine that does other things: they would starve.
    pub idle_class: bool,
}

impl AttackOptions {
    /// Returns the selected kinds.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static Kind> {
        let selected = |kind: &&Kind| self.only.as_ref().is_none_or(|part| kind.name.contains(part.as_str()));
        KINDS.iter().filter(selected).collect()
    }
}

/// Running hostile clients.
#[derive(Debug)]
pub struct Attackers {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    counts: Vec<(&'static str, Arc<Counts>)>,
}

impl Attackers {
    /// Starts the clients.
    ///
    /// # Panics
    /// When no kind is selected, or the thread cannot be started.
    #[must_use]
    pub fn start(port: u16, options: &AttackOptions) -> Self {
        let kinds = options.kinds();
        assert!(!kinds.is_empty(), "no kind of hostile clients has a name with '{:?}'", options.only);
        let counts: Vec<_> = kinds.iter().map(|kind| (kind.name, Arc::new(Counts::default()))).collect();
        let attack = Arc::new(Attack { port, pace: Pace::new(options.rate), heavy: Semaphore::new(HEAVY_ROUNDS) });
        let clients: Vec<_> = (0..options.clients)
            .map(|n| {
                let random = Rng::with_seed(options.seed.wrapping_add(n as u64));
                let of_kind = n % kinds.len();
                Attacker { attack: attack.clone(), kind: kinds[of_kind], counts: counts[of_kind].1.clone(), random }
            })
            .collect();
        let ((stop, stopped), idle) = (oneshot::channel(), options.idle_class);
        let thread = std::thread::Builder::new().name("hostile".into()).spawn(move || run(clients, stopped, idle));
        Self { stop, thread: thread.expect("a thread can be started"), counts }
    }

    /// Stops all clients and closes their connections. Returns what they did, by kind.
    ///
    /// # Panics
    /// When the thread has panicked.
    #[must_use]
    pub fn finish(self) -> Vec<(&'static str, Arc<Counts>)> {
        // An error: the thread has ended, and `join` says why.
        let _ = self.stop.send(());
        self.thread.join().expect("the hostile clients have not panicked");
        self.counts
    }
}

/// The clients yield the processors to the nodes and to the honest clients: real ones run on other machines.
const NICENESS: i32 = 10;

/// Puts a thread, or the main thread of a process, into the scheduling class that runs only when no other thread wants the
/// core (`SCHED_IDLE`, sched(7)). Niceness does not do this: a nice thread that runs is not interrupted at once.
pub fn idle_class(id: u32) {
    let status = Command::new("chrt").args(["--idle", "--pid", "0", &id.to_string()]).status();
    if !status.as_ref().is_ok_and(ExitStatus::success) {
        println!("chrt (util-linux) cannot set the scheduling class of {id}, so latencies are less exact: {status:?}");
    }
}

fn run(clients: Vec<Attacker>, stopped: oneshot::Receiver<()>, idle: bool) {
    // Without it the figures are only less exact. In Linux this concerns the calling thread alone.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    if idle {
        idle_class(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be built").block_on(async {
        let mut tasks = JoinSet::new();
        for client in clients {
            tasks.spawn(client.run());
        }
        // An error: the owner has dropped its end, which stops the clients, too.
        let _ = stopped.await;
        // Dropping the tasks closes their connections.
    });
}

struct Attacker {
    attack: Arc<Attack>,
    kind: &'static Kind,
    counts: Arc<Counts>,
    random: Rng,
}

impl Attacker {
    async fn run(mut self) {
        loop {
            // Before the first round, too, so that the clients do not connect in the same moment.
            sleep(Duration::from_millis(self.random.u64(0..PAUSE_MAX_MS))).await;
            let count = match timeout(ROUND_MAX, self.round()).await {
                Ok(Ok(())) => &self.counts.ended,
                Ok(Err(_)) => &self.counts.cut,
                Err(_) => &self.counts.given_up,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn round(&mut self) -> io::Result<()> {
        let random = self.random.fork();
        let mut link = Link::connect(&self.attack, &self.counts, random).await?;
        // An error: the semaphore is closed, which nobody does.
        let _heavy = if self.kind.heavy { self.attack.heavy.acquire().await.ok() } else { None };
        (self.kind.round)(&mut link).await
    }
}
