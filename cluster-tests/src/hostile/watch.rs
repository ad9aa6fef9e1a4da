//! Memory and CPU time of processes, from /proc.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The interval between two samples.
const EVERY: Duration = Duration::from_secs(1);

/// Ticks of CPU time per second in /proc (`USER_HZ`): 100 on every Linux platform that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process used.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Resident memory every second, in MB.
    pub resident_mb: Vec<u64>,
    /// The kernel's record of the largest resident memory, in MB.
    pub peak_mb: u64,
    /// Largest resident memory of the other watched processes together, in MB.
    pub others_mb: u64,
    /// CPU time divided by time.
    pub cpu: f64,
    /// Time in which a worker thread was ready and had no core, divided by the time in which it ran. Much above 0: the
    /// machine is too busy to compare latencies.
    pub waited: f64,
}

/// Watches a process until it is told to stop.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    stop: Arc<AtomicBool>,
    began: Instant,
    ticks: u64,
    scheduled: (f64, f64),
    samples: JoinHandle<Usage>,
}

impl Watch {
    /// Starts to watch `pid`, and the sum of `others`.
    ///
    /// # Panics
    /// When the process does not exist.
    #[must_use]
    pub fn start(pid: u32, others: Vec<u32>) -> Self {
        // "5" sets the kernel's record of the largest resident memory to the present one.
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the record of a process can be reset");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let samples = std::thread::spawn(move || {
            let mut usage = Usage::default();
            while !stopped.load(Ordering::Relaxed) {
                usage.resident_mb.extend(memory_mb(pid, "VmRSS:"));
                let others: u64 = others.iter().filter_map(|pid| memory_mb(*pid, "VmRSS:")).sum();
                usage.others_mb = usage.others_mb.max(others);
                std::thread::park_timeout(EVERY);
            }
            usage
        });
        Self { pid, stop, began: Instant::now(), ticks: ticks(pid).unwrap_or(0), scheduled: scheduled(pid), samples }
    }

    /// Stops watching. `None` if the process has ended.
    ///
    /// # Panics
    /// When the thread has panicked.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn finish(self) -> Option<Usage> {
        self.stop.store(true, Ordering::Relaxed);
        self.samples.thread().unpark();
        let usage = self.samples.join().expect("the thread that reads /proc has not panicked");
        let used = ticks(self.pid)?.saturating_sub(self.ticks) as f64 / TICKS_PER_SECOND;
        let peak_mb = memory_mb(self.pid, "VmHWM:")?;
        let (ran, waited) = scheduled(self.pid);
        let waited = (waited - self.scheduled.1) / (ran - self.scheduled.0).max(1.0);
        Some(Usage { peak_mb, cpu: used / self.began.elapsed().as_secs_f64(), waited, ..usage })
    }
}

/// Returns a value of `/proc/PID/status` in MB. `None` if the process has ended.
#[must_use]
pub fn memory_mb(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// Returns the CPU time of a process in ticks.
fn ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain any character, so the fields are counted from its last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (user, system) = (fields.nth(11)?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// Returns for how many nanoseconds the first worker thread of a node ran, and for how many it was ready and had no core.
fn scheduled(pid: u32) -> (f64, f64) {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let is_worker = |dir: &PathBuf| fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.trim() == "worker-0");
    let worker = tasks.map(|task| task.path()).find(is_worker);
    let text = worker.and_then(|dir| fs::read_to_string(dir.join("schedstat")).ok()).unwrap_or_default();
    let mut fields = text.split_whitespace().map(|field| field.parse().unwrap_or(0.0));
    (fields.next().unwrap_or(0.0), fields.next().unwrap_or(0.0))
}
