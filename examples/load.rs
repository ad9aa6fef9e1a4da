//! The load generator of benches/*.py: GETs and SETs of known keys through nodes at a given rate, a PING of servers
//! every 0.2 ms, and one writer of a chosen key.
//!
//! Usage: `load key=value...`; [`Options`] lists the keys. The program reads commands from its standard input, one per
//! line, and answers each with a line of JSON: `mark` (figures since the last mark), `watch KEY` (starts the writer),
//! `unwatch` (stops the writer and returns its figures). It ends at the end of its input.

use std::{
    io::{self, BufRead, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pontoon::{model::slot::Layout, resp::reply::ReplyScanner, resp::write};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Res<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Deadline of a reply.
const PATIENCE: Duration = Duration::from_secs(30);
/// Interval between two PINGs of a server.
const PING_EVERY: Duration = Duration::from_micros(200);
/// Interval between two writes of the writer that `watch` starts.
const WATCH_EVERY: Duration = Duration::from_micros(500);

/// The arguments.
struct Options {
    /// `to=HOST:PORT,...`: the nodes. Clients are distributed over them. The writer of `watch` uses the first one.
    to: Vec<String>,
    /// `clients=N`: number of clients.
    clients: usize,
    /// `rate=N`: requests per second of all clients together. 0: each client sends its next request after the reply.
    rate: f64,
    /// `keys=N`: number of keys. Their names are key:000000000000, key:000000000001, ...
    keys: usize,
    /// `size=N`: bytes of a value.
    size: usize,
    /// `slots=A-B`: only keys of these slots are used.
    slots: (u16, u16),
    /// `sets=N`: percentage of SETs. The other requests are GETs.
    sets: usize,
    /// `pipeline=N`: a client sends this number of requests at once, and the next ones when all are answered.
    pipeline: usize,
    /// `probe=HOST:PORT,...`: servers that get PINGs.
    probe: Vec<String>,
    /// `contended=KEY:FIELDS:RATE`: RATE HSETs per second of the fields field:0000000000, ... of the hash KEY, through
    /// the first node.
    contended: Option<(String, usize, f64)>,
}

impl Options {
    fn parse() -> Res<Self> {
        let mut options = Self {
            to: Vec::new(),
            clients: 0,
            rate: 0.0,
            keys: 1,
            size: 100,
            slots: (0, 1023),
            sets: 20,
            pipeline: 1,
            probe: Vec::new(),
            contended: None,
        };
        let list = |text: &str| text.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect();
        for arg in std::env::args().skip(1) {
            let (key, value) = arg.split_once('=').ok_or("key=value is expected")?;
            match key {
                "to" => options.to = list(value),
                "clients" => options.clients = value.parse()?,
                "rate" => options.rate = value.parse()?,
                "keys" => options.keys = value.parse()?,
                "size" => options.size = value.parse()?,
                "slots" => {
                    let (from, to) = value.split_once('-').ok_or("slots=A-B")?;
                    options.slots = (from.parse()?, to.parse()?);
                }
                "sets" => options.sets = value.parse()?,
                "pipeline" => options.pipeline = value.parse::<std::num::NonZero<usize>>()?.get(),
                "probe" => options.probe = list(value),
                "contended" => {
                    let [key, fields, rate] = value.split(':').collect::<Vec<_>>()[..] else {
                        return Err("contended=KEY:FIELDS:RATE".into());
                    };
                    options.contended = Some((key.into(), fields.parse()?, rate.parse()?));
                }
                _ => return Err(format!("unknown option {key}").into()),
            }
        }
        Ok(options)
    }
}

/// The figures of one kind of request since the last mark.
#[derive(Default)]
struct Figures {
    /// Response times in microseconds.
    times: Vec<u32>,
    /// The longest response time in microseconds, and its end in seconds since 1970.
    longest: (u32, f64),
    errors: u64,
    first_error: String,
}

impl Figures {
    fn answered(&mut self, took: Duration, missed: &[Duration]) {
        self.times.extend(missed.iter().map(|waited| u32::try_from(waited.as_micros()).unwrap_or(u32::MAX)));
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if micros > self.longest.0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.longest = (micros, now.as_secs_f64());
        }
        self.times.push(micros);
    }

    fn failed(&mut self, why: &str) {
        self.errors += 1;
        if self.first_error.is_empty() {
            self.first_error = why.trim_end().to_owned();
        }
    }

    /// Returns the figures as JSON, and resets them.
    fn take_json(&mut self) -> Value {
        let mut figures = std::mem::take(self);
        figures.times.sort_unstable();
        let at = |part: f64| {
            let index = (figures.times.len() as f64 * part) as usize;
            figures
                .times
                .get(index.min(figures.times.len().saturating_sub(1)))
                .map_or(0.0, |us| f64::from(*us) / 1000.0)
        };
        json!({
            "requests": figures.times.len(), "errors": figures.errors, "first_error": figures.first_error,
            "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": at(1.0), "max_at": figures.longest.1,
        })
    }
}

type Shared = Arc<Mutex<Figures>>;

fn with<T>(shared: &Shared, act: impl FnOnce(&mut Figures) -> T) -> T {
    act(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The times at which periodic requests are due. A request that becomes due before the previous one is answered is not
/// sent late: otherwise, one stall would cause a queue of many requests. Instead, it counts as answered together with
/// the previous one, with the time since it was due, so that every request that is due during a stall counts the stall.
/// The delay of a late timer is not the server's fault and does not count.
struct Pace {
    every: Duration,
    due: Instant,
}

impl Pace {
    fn new(every: Duration, first: Instant) -> Self {
        Self { every, due: first }
    }

    /// Returns the time at which the next request is due.
    fn next(&mut self) -> Instant {
        if self.every.is_zero() {
            return Instant::now();
        }
        self.due += self.every;
        self.due
    }

    /// Returns the waiting time of each request that became due up to `now`. These requests are not sent.
    fn missed(&mut self, now: Instant) -> Vec<Duration> {
        let mut waited = Vec::new();
        while !self.every.is_zero() && self.due + self.every <= now {
            self.due += self.every;
            waited.push(now - self.due);
        }
        waited
    }
}

/// A client of the paced load.
async fn client(addr: String, mut pace: Pace, keys: Arc<Vec<u32>>, options: Arc<Options>, seed: u64, figures: Shared) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut value = vec![0u8; options.size];
    loop {
        let connected = async {
            let stream = tokio::net::TcpStream::connect(&addr).await?;
            stream.set_nodelay(true)?;
            io::Result::Ok(stream)
        };
        let why = match connected.await {
            Ok(stream) => send_requests(stream, &mut pace, &keys, &options, (&mut random, &mut value), &figures).await,
            Err(error) => Err(error.into()),
        };
        if let Err(why) = why {
            with(&figures, |figures| figures.failed(&why.to_string()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn send_requests(
    mut stream: tokio::net::TcpStream,
    pace: &mut Pace,
    keys: &[u32],
    options: &Options,
    (random, value): (&mut fastrand::Rng, &mut Vec<u8>),
    figures: &Shared,
) -> Res<()> {
    let (mut request, mut buffer) = (Vec::new(), Vec::new());
    loop {
        tokio::time::sleep_until(pace.next().into()).await;
        let began = Instant::now();
        request.clear();
        for _ in 0..options.pipeline {
            let key = format!("key:{:012}", keys[random.usize(..keys.len())]);
            if random.usize(..100) < options.sets {
                random.fill(value);
                write::request(&mut request, &[b"SET", key.as_bytes(), value]);
            } else {
                write::request(&mut request, &[b"GET", key.as_bytes()]);
            }
        }
        stream.write_all(&request).await?;
        buffer.clear();
        let (mut scanner, mut at) = (ReplyScanner::default(), 0);
        for left in (0..options.pipeline).rev() {
            let len = loop {
                if let Some(len) = scanner.scan(&buffer[at..])? {
                    break len;
                }
                if tokio::time::timeout(PATIENCE, stream.read_buf(&mut buffer)).await?? == 0 {
                    return Err("the node closed the connection".into());
                }
            };
            let reply = &buffer[at..at + len];
            at += len;
            let now = Instant::now();
            let missed = if left == 0 { pace.missed(now) } else { Vec::new() };
            with(figures, |figures| match reply[0] {
                b'-' => figures.failed(&String::from_utf8_lossy(reply)),
                _ => figures.answered(now - began, &missed),
            });
        }
    }
}

/// A blocking connection that sends one request at a time.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn connect(addr: &str) -> Res<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    fn ask(&mut self, words: &[&[u8]]) -> Res<()> {
        let mut request = Vec::new();
        write::request(&mut request, words);
        self.stream.write_all(&request)?;
        self.buffer.clear();
        let mut scanner = ReplyScanner::default();
        let mut more = [0; 4096];
        while scanner.scan(&self.buffer)?.is_none() {
            let n = self.stream.read(&mut more)?;
            if n == 0 {
                return Err("the connection was closed".into());
            }
            self.buffer.extend_from_slice(&more[..n]);
        }
        match self.buffer.first() {
            Some(b'-') => Err(String::from_utf8_lossy(&self.buffer).into_owned().into()),
            _ => Ok(()),
        }
    }
}

/// Sends requests periodically, from a separate thread.
fn repeat(
    addr: &str,
    every: Duration,
    figures: &Shared,
    words: impl Fn(u64) -> Vec<Vec<u8>> + Send + 'static,
) -> Res<()> {
    let (mut connection, figures) = (Connection::connect(addr)?, figures.clone());
    std::thread::spawn(move || {
        let mut pace = Pace::new(every, Instant::now());
        for i in 0.. {
            std::thread::sleep(pace.next().saturating_duration_since(Instant::now()));
            let began = Instant::now();
            let words = words(i);
            let answer = connection.ask(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let now = Instant::now();
            let missed = pace.missed(now);
            match answer {
                Ok(()) => with(&figures, |figures| figures.answered(now - began, &missed)),
                Err(why) => return with(&figures, |figures| figures.failed(&why.to_string())),
            }
        }
    });
    Ok(())
}

/// The writer of one key. Its result: the number of writes, the longest time between two replies, the errors.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Value>,
}

impl Watch {
    fn start(addr: &str, key: &str) -> Res<Self> {
        let mut connection = Connection::connect(addr)?;
        let key = key.as_bytes().to_vec();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut count, mut errors, mut longest) = (0u64, Vec::new(), Duration::ZERO);
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) && errors.len() < 10 {
                count += 1;
                if let Err(why) = connection.ask(&[b"SET", &key, count.to_string().as_bytes()]) {
                    errors.push(why.to_string());
                }
                longest = longest.max(last.elapsed());
                last = Instant::now();
                std::thread::sleep(WATCH_EVERY);
            }
            json!({"writes": count, "errors": errors, "gap": longest.as_secs_f64() * 1000.0})
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Value {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| json!({"errors": ["the writer panicked"]}))
    }
}

fn main() -> Res<()> {
    let options = Arc::new(Options::parse()?);
    let (clients, contended) = (Shared::default(), Shared::default());
    let in_slots = |i: &u32| {
        let slot = Layout::Codis.slot(format!("key:{i:012}").as_bytes()).0;
        (options.slots.0..=options.slots.1).contains(&slot)
    };
    let keys: Vec<u32> = (0..u32::try_from(options.keys)?).filter(in_slots).collect();
    if options.clients > 0 {
        let (options, figures, keys) = (options.clone(), clients.clone(), Arc::new(keys));
        if keys.is_empty() || options.to.is_empty() {
            return Err("no key is in these slots, or there is no node".into());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                let each =
                    if options.rate > 0.0 { (options.clients * options.pipeline) as f64 / options.rate } else { 0.0 };
                for i in 0..options.clients {
                    let first = Instant::now() + Duration::from_secs_f64(each * i as f64 / options.clients as f64);
                    let pace = Pace::new(Duration::from_secs_f64(each), first);
                    let addr = options.to[i % options.to.len()].clone();
                    tokio::spawn(client(addr, pace, keys.clone(), options.clone(), i as u64, figures.clone()));
                }
                std::future::pending::<()>().await;
            });
        });
    }
    let mut probes = Vec::new();
    for addr in &options.probe {
        let figures = Shared::default();
        repeat(addr, PING_EVERY, &figures, |_| vec![b"PING".to_vec()])?;
        probes.push((addr.clone(), figures));
    }
    if let Some((key, fields, rate)) = options.contended.clone() {
        let every = Duration::from_secs_f64(1.0 / rate);
        repeat(options.to.first().ok_or("no node")?, every, &contended, move |i| {
            let field = format!("field:{:010}", (i * 7919) % fields as u64);
            vec![b"HSET".to_vec(), key.clone().into_bytes(), field.into_bytes(), format!("new:{i}").into_bytes()]
        })?;
    }
    let mut watching: Option<Watch> = None;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("mark", _) => {
                let probed: serde_json::Map<String, Value> =
                    probes.iter().map(|(addr, figures)| (addr.clone(), with(figures, Figures::take_json))).collect();
                json!({
                    "clients": with(&clients, Figures::take_json), "contended": with(&contended, Figures::take_json),
                    "probes": probed,
                })
            }
            ("watch", key) => {
                watching = Some(Watch::start(options.to.first().ok_or("no node")?, key)?);
                json!({})
            }
            ("unwatch", _) => watching.take().map_or(json!({}), Watch::stop),
            _ => return Err(format!("unknown command '{line}'").into()),
        };
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}
