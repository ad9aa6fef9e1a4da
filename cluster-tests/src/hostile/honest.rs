//! Honest clients: each sends a small request at fixed times and checks the reply. They run on a thread of their own, so
//! that hostile clients of the same process do not delay their clocks.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::client::request;

/// The time in which a reply must arrive. Longer than any deadline of a node, so that the node's error is seen.
const REPLY_WITHIN: Duration = Duration::from_secs(12);

/// Requests after which a client opens a new connection: connecting must work, too.
const RECONNECT_AFTER: usize = 200;

/// Bytes of a value.
const VALUE: usize = 100;

/// Maximum number of different error texts that are kept.
const ERRORS_KEPT: usize = 20;

/// Honest clients of one product.
#[derive(Clone, Debug)]
pub struct HonestOptions {
    /// The port.
    pub port: u16,
    /// Two keys for each client, which no one else uses.
    pub keys: Vec<[String; 2]>,
    /// Time between two requests of a client.
    pub every: Duration,
}

impl HonestOptions {
    /// Returns clients whose keys all satisfy `wanted`.
    #[must_use]
    pub fn new(port: u16, clients: usize, every: Duration, wanted: impl Fn(&str) -> bool) -> Self {
        let mut names = (0_u64..).map(|n| format!("honest:{n}")).filter(|key| wanted(key));
        let mut key = || names.next().expect("there is no last number");
        Self { port, keys: (0..clients).map(|_| [key(), key()]).collect(), every }
    }
}

/// What honest clients saw.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Microseconds from the time at which a request was due, or could be sent, to its reply; sorted.
    latencies: Vec<u32>,
    /// Number of errors: error replies, wrong replies, broken connections, missing replies.
    pub errors: usize,
    /// The longest latency of each second, in microseconds.
    longest: Vec<u32>,
    /// The texts of the errors and their numbers.
    pub texts: BTreeMap<String, usize>,
}

impl Figures {
    /// Returns the number of requests that were answered correctly.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.latencies.len()
    }

    /// Returns the latency that this share (0 to 1) of the requests do not exceed. 0 without requests.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        Duration::from_micros(self.latencies.get(at).copied().unwrap_or(0).into())
    }

    /// Returns the longest latency of the requests that were answered in each second.
    pub fn longest_by_second(&self) -> impl Iterator<Item = Duration> {
        self.longest.iter().map(|micros| Duration::from_micros((*micros).into()))
    }

    /// What was seen here and there.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.add(other);
        self.latencies.sort_unstable();
        self
    }

    fn answer(&mut self, second: usize, latency: Duration) {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.latencies.push(micros);
        self.note_longest(second, micros);
    }

    fn note_longest(&mut self, second: usize, micros: u32) {
        if self.longest.len() <= second {
            self.longest.resize(second + 1, 0);
        }
        self.longest[second] = self.longest[second].max(micros);
    }

    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        other.longest.into_iter().enumerate().for_each(|(second, micros)| self.note_longest(second, micros));
        self.errors += other.errors;
        for (text, n) in other.texts {
            self.count(text, n);
        }
    }

    fn count(&mut self, text: String, n: usize) {
        if self.texts.len() < ERRORS_KEPT || self.texts.contains_key(&text) {
            *self.texts.entry(text).or_default() += n;
        }
    }
}

/// Running honest clients.
#[derive(Debug)]
pub struct Honest {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Figures>,
}

impl Honest {
    /// Starts the clients.
    ///
    /// # Panics
    /// When their thread cannot be started.
    #[must_use]
    pub fn start(options: HonestOptions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("honest".into()).spawn(move || run(options, &stopped));
        Self { stop, thread: thread.expect("a thread can be started") }
    }

    /// Runs clients for this time.
    ///
    /// # Panics
    /// When a client has panicked.
    #[must_use]
    pub fn run_for(options: HonestOptions, time: Duration) -> Figures {
        let honest = Self::start(options);
        crate::wait::let_pass(time);
        honest.finish()
    }

    /// Stops the clients after their current requests.
    ///
    /// # Panics
    /// When a client has panicked.
    #[must_use]
    pub fn finish(self) -> Figures {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the honest clients have not panicked")
    }
}

fn run(options: HonestOptions, stop: &Arc<AtomicBool>) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let (mut clients, begin) = (JoinSet::new(), Instant::now());
        let count = u32::try_from(options.keys.len()).expect("few clients");
        for (n, keys) in (0..).zip(options.keys) {
            let (stop, due) = (stop.clone(), begin + options.every * n / count);
            let client = Client { port: options.port, keys, stream: None, step: 0, values: Default::default() };
            clients.spawn(client.run(begin, due, options.every, stop));
        }
        let mut all = Figures::default();
        while let Some(figures) = clients.join_next().await {
            all.add(figures.expect("an honest client has not panicked"));
        }
        all.latencies.sort_unstable();
        all
    })
}

struct Client {
    port: u16,
    keys: [String; 2],
    stream: Option<TcpStream>,
    step: usize,
    /// The last values, once they are known.
    values: [Option<String>; 2],
}

impl Client {
    async fn run(mut self, begin: Instant, mut due: Instant, every: Duration, stop: Arc<AtomicBool>) -> Figures {
        let mut figures = Figures::default();
        while !stop.load(Ordering::Relaxed) {
            let late = due <= Instant::now();
            sleep_until(due).await;
            // A client that the node has made late counts from the time at which the request was due. The lateness of
            // a timer is not the node's.
            let from = if late { due } else { Instant::now() };
            due += every;
            let result = timeout(REPLY_WITHIN, self.step()).await;
            let result = result.unwrap_or_else(|_| Err(format!("no reply within {REPLY_WITHIN:?}")));
            match result {
                Ok(()) => figures.answer(usize::try_from(begin.elapsed().as_secs()).unwrap_or(0), from.elapsed()),
                Err(why) => {
                    figures.errors += 1;
                    figures.count(why, 1);
                    self.stream = None;
                    self.values = Default::default();
                    due = Instant::now() + every;
                }
            }
        }
        figures
    }

    /// Sends one request and checks its reply.
    async fn step(&mut self) -> Result<(), String> {
        let step = self.step;
        self.step += 1;
        if step.is_multiple_of(RECONNECT_AFTER) {
            self.stream = None;
        }
        let [a, b] = &self.keys;
        let (sent, expected) = match (step % 4, &self.values) {
            (2, [Some(x), _]) => (request(&["GET", a]), bulk(x)),
            (3, [Some(x), Some(y)]) => (request(&["MGET", a, b]), format!("*2\r\n{}{}", bulk(x), bulk(y))),
            (n, _) => {
                let value = format!("{step:0VALUE$}");
                let key = &self.keys[n % 2];
                let sent = request(&["SET", key, &value]);
                self.values[n % 2] = Some(value);
                (sent, "+OK\r\n".to_owned())
            }
        };
        self.exchange(&sent, expected.as_bytes()).await
    }

    async fn exchange(&mut self, sent: &[u8], expected: &[u8]) -> Result<(), String> {
        let broken = |error: io::Error| format!("connection: {error}");
        if self.stream.is_none() {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(broken)?;
            stream.set_nodelay(true).map_err(broken)?;
            self.stream = Some(stream);
        }
        let Some(stream) = &mut self.stream else { return Err("no connection".into()) };
        stream.write_all(sent).await.map_err(broken)?;
        let mut reply = Vec::with_capacity(expected.len());
        // An error is shorter or longer than the expected reply, and has one line.
        while expected.starts_with(&reply) && reply.len() < expected.len()
            || reply.starts_with(b"-") && !reply.ends_with(b"\r\n")
        {
            if stream.read_buf(&mut reply).await.map_err(broken)? == 0 {
                return Err("connection: closed by the node".into());
            }
        }
        if reply == expected { Ok(()) } else { Err(String::from_utf8_lossy(&reply).trim_end().to_owned()) }
    }
}

fn bulk(value: &str) -> String {
    format!("${}\r\n{value}\r\n", value.len())
}
