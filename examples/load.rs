//! A paced load on nodes and a probe of servers, for benches/*.py: GET and SET of known keys at a given rate, PINGs each
//! 0.2 ms, one writer that can be pointed at a key; told by lines on its standard input, answers with lines of JSON. Judges nothing.
//! `load key=value...`, see [`Wanted`]; lines: `mark` (figures since the last mark), `watch KEY`, `unwatch`; ends with its input.

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

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two PINGs of a probe.
const PING_EVERY: Duration = Duration::from_micros(200);
/// Between two writes of the watching writer.
const WATCH_EVERY: Duration = Duration::from_micros(500);

/// What the arguments say.
struct Wanted {
    /// `to=HOST:PORT,...`: clients are spread over them; the first is written to by the watching writer.
    to: Vec<String>,
    /// `clients=N`.
    clients: usize,
    /// `rate=N` requests per second in all; 0: as many as come back.
    rate: f64,
    /// `keys=N`: keys are named key:000000000000 up to N.
    keys: usize,
    /// `size=N`: bytes of a value.
    size: usize,
    /// `slots=A-B`: only keys of these.
    slots: (u16, u16),
    /// `sets=N`: so many of a hundred requests are SETs.
    sets: usize,
    /// `pipeline=N`: a client sends so many at once, and the next when all are answered.
    pipeline: usize,
    /// `probe=HOST:PORT,...`: servers that are pinged.
    probe: Vec<String>,
    /// `hot=KEY:FIELDS:RATE`: HSET of fields field:0000000000 of the hash, through the first node.
    hot: Option<(String, usize, f64)>,
}

impl Wanted {
    fn parse() -> Res<Self> {
        let mut wanted = Self {
            to: Vec::new(),
            clients: 0,
            rate: 0.0,
            keys: 1,
            size: 100,
            slots: (0, 1023),
            sets: 20,
            pipeline: 1,
            probe: Vec::new(),
            hot: None,
        };
        let list = |text: &str| text.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect();
        for arg in std::env::args().skip(1) {
            let (key, value) = arg.split_once('=').ok_or("key=value is expected")?;
            match key {
                "to" => wanted.to = list(value),
                "clients" => wanted.clients = value.parse()?,
                "rate" => wanted.rate = value.parse()?,
                "keys" => wanted.keys = value.parse()?,
                "size" => wanted.size = value.parse()?,
                "slots" => {
                    let (from, to) = value.split_once('-').ok_or("slots=A-B")?;
                    wanted.slots = (from.parse()?, to.parse()?);
                }
                "sets" => wanted.sets = value.parse()?,
                "pipeline" => wanted.pipeline = value.parse::<std::num::NonZero<usize>>()?.get(),
                "probe" => wanted.probe = list(value),
                "hot" => {
                    let [key, fields, rate] = value.split(':').collect::<Vec<_>>()[..] else {
                        return Err("hot=KEY:FIELDS:RATE".into());
                    };
                    wanted.hot = Some((key.into(), fields.parse()?, rate.parse()?));
                }
                _ => return Err(format!("what is {key}?").into()),
            }
        }
        Ok(wanted)
    }
}

/// What one kind of request has met since the last mark.
#[derive(Default)]
struct Seen {
    /// Microseconds.
    times: Vec<u32>,
    /// The longest, and when it ended, in seconds since 1970.
    longest: (u32, f64),
    errors: u64,
    first_error: String,
}

impl Seen {
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

    fn told(&mut self) -> Value {
        let mut seen = std::mem::take(self);
        seen.times.sort_unstable();
        let at = |part: f64| {
            let index = (seen.times.len() as f64 * part) as usize;
            seen.times.get(index.min(seen.times.len().saturating_sub(1))).map_or(0.0, |us| f64::from(*us) / 1000.0)
        };
        json!({
            "requests": seen.times.len(), "errors": seen.errors, "first_error": seen.first_error,
            "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": at(1.0), "max_at": seen.longest.1,
        })
    }
}

type Shared = Arc<Mutex<Seen>>;

fn with<T>(shared: &Shared, act: impl FnOnce(&mut Seen) -> T) -> T {
    act(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The next time of something that is due every so often. What falls due while the one before is not answered yet is not sent
/// late, which would make one stall a queue of many: it counts as answered with it, from when it was due, so that a stall is
/// seen by all that should have run in it. A late timer is not the server's fault and does not count.
struct Pace {
    every: Duration,
    due: Instant,
}

impl Pace {
    fn new(every: Duration, first: Instant) -> Self {
        Self { every, due: first }
    }

    /// When the next is due.
    fn next(&mut self) -> Instant {
        if self.every.is_zero() {
            return Instant::now();
        }
        self.due += self.every;
        self.due
    }

    /// How long each that fell due until `now` has waited; they are not sent.
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
async fn client(addr: String, mut pace: Pace, keys: Arc<Vec<u32>>, wanted: Arc<Wanted>, seed: u64, seen: Shared) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut value = vec![0u8; wanted.size];
    loop {
        let connected = async {
            let stream = tokio::net::TcpStream::connect(&addr).await?;
            stream.set_nodelay(true)?;
            io::Result::Ok(stream)
        };
        let why = match connected.await {
            Ok(stream) => talk(stream, &mut pace, &keys, &wanted, (&mut random, &mut value), &seen).await,
            Err(error) => Err(error.into()),
        };
        if let Err(why) = why {
            with(&seen, |seen| seen.failed(&why.to_string()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn talk(
    mut stream: tokio::net::TcpStream,
    pace: &mut Pace,
    keys: &[u32],
    wanted: &Wanted,
    (random, value): (&mut fastrand::Rng, &mut Vec<u8>),
    seen: &Shared,
) -> Res<()> {
    let (mut request, mut buffer) = (Vec::new(), Vec::new());
    loop {
        tokio::time::sleep_until(pace.next().into()).await;
        let began = Instant::now();
        request.clear();
        for _ in 0..wanted.pipeline {
            let key = format!("key:{:012}", keys[random.usize(..keys.len())]);
            if random.usize(..100) < wanted.sets {
                random.fill(value);
                write::request(&mut request, &[b"SET", key.as_bytes(), value]);
            } else {
                write::request(&mut request, &[b"GET", key.as_bytes()]);
            }
        }
        stream.write_all(&request).await?;
        buffer.clear();
        let (mut scanner, mut at) = (ReplyScanner::default(), 0);
        for left in (0..wanted.pipeline).rev() {
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
            with(seen, |seen| match reply[0] {
                b'-' => seen.failed(&String::from_utf8_lossy(reply)),
                _ => seen.answered(now - began, &missed),
            });
        }
    }
}

/// A blocking connection that asks and waits.
struct Asker {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Asker {
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
                return Err("closed".into());
            }
            self.buffer.extend_from_slice(&more[..n]);
        }
        match self.buffer.first() {
            Some(b'-') => Err(String::from_utf8_lossy(&self.buffer).into_owned().into()),
            _ => Ok(()),
        }
    }
}

/// Asks the same again and again, from a thread of its own.
fn repeat(addr: &str, every: Duration, seen: &Shared, words: impl Fn(u64) -> Vec<Vec<u8>> + Send + 'static) -> Res<()> {
    let (mut asker, seen) = (Asker::connect(addr)?, seen.clone());
    std::thread::spawn(move || {
        let mut pace = Pace::new(every, Instant::now());
        for i in 0.. {
            std::thread::sleep(pace.next().saturating_duration_since(Instant::now()));
            let began = Instant::now();
            let words = words(i);
            let answer = asker.ask(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let now = Instant::now();
            let missed = pace.missed(now);
            match answer {
                Ok(()) => with(&seen, |seen| seen.answered(now - began, &missed)),
                Err(why) => return with(&seen, |seen| seen.failed(&why.to_string())),
            }
        }
    });
    Ok(())
}

/// Writes one key all the time; its result: how many, the longest time between two answers, errors.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Value>,
}

impl Watch {
    fn start(addr: &str, key: &str) -> Res<Self> {
        let mut asker = Asker::connect(addr)?;
        let key = key.as_bytes().to_vec();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut count, mut errors, mut longest) = (0u64, Vec::new(), Duration::ZERO);
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) && errors.len() < 10 {
                count += 1;
                if let Err(why) = asker.ask(&[b"SET", &key, count.to_string().as_bytes()]) {
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
    let wanted = Arc::new(Wanted::parse()?);
    let (clients, hot) = (Shared::default(), Shared::default());
    let in_slots = |i: &u32| {
        let slot = Layout::Codis.slot(format!("key:{i:012}").as_bytes()).0;
        (wanted.slots.0..=wanted.slots.1).contains(&slot)
    };
    let keys: Vec<u32> = (0..u32::try_from(wanted.keys)?).filter(in_slots).collect();
    if wanted.clients > 0 {
        let (wanted, seen, keys) = (wanted.clone(), clients.clone(), Arc::new(keys));
        if keys.is_empty() || wanted.to.is_empty() {
            return Err("no key is in these slots, or there is no node".into());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                let each =
                    if wanted.rate > 0.0 { (wanted.clients * wanted.pipeline) as f64 / wanted.rate } else { 0.0 };
                for i in 0..wanted.clients {
                    let first = Instant::now() + Duration::from_secs_f64(each * i as f64 / wanted.clients as f64);
                    let pace = Pace::new(Duration::from_secs_f64(each), first);
                    let addr = wanted.to[i % wanted.to.len()].clone();
                    tokio::spawn(client(addr, pace, keys.clone(), wanted.clone(), i as u64, seen.clone()));
                }
                std::future::pending::<()>().await;
            });
        });
    }
    let mut probes = Vec::new();
    for addr in &wanted.probe {
        let seen = Shared::default();
        repeat(addr, PING_EVERY, &seen, |_| vec![b"PING".to_vec()])?;
        probes.push((addr.clone(), seen));
    }
    if let Some((key, fields, rate)) = wanted.hot.clone() {
        let every = Duration::from_secs_f64(1.0 / rate);
        repeat(wanted.to.first().ok_or("no node")?, every, &hot, move |i| {
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
                    probes.iter().map(|(addr, seen)| (addr.clone(), with(seen, Seen::told))).collect();
                json!({"clients": with(&clients, Seen::told), "hot": with(&hot, Seen::told), "probes": probed})
            }
            ("watch", key) => {
                watching = Some(Watch::start(wanted.to.first().ok_or("no node")?, key)?);
                json!({})
            }
            ("unwatch", _) => watching.take().map_or(json!({}), Watch::stop),
            _ => return Err(format!("what is '{line}'?").into()),
        };
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}
