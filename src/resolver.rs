//! Resolves host names, with a limited number of look-ups, each on a thread of its own: a look-up that hangs cannot be
//! stopped, and in a runtime's pool it would occupy a thread that the log needs. Knows nothing of connections'
//! deadlines.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use crate::model::ids::HostPort;

/// Concurrent look-ups in this process, each on a thread. A look-up takes a few milliseconds where names are resolved
/// at all, so this is enough for hundreds of servers.
pub const LOOKUPS_MAX: usize = 32;
/// How long a look-up may wait for its turn before it fails: a probe of a server takes 500 ms at most, connecting
/// included.
const TURN_MAX: Duration = Duration::from_millis(200);
/// Stack size of a look-up thread, in bytes: getaddrinfo needs much of it.
const STACK: usize = 512 << 10;

static PROCESS: LazyLock<Resolver> =
    LazyLock::new(|| Resolver::new(LOOKUPS_MAX, |host| Ok((host, 0).to_socket_addrs()?.collect())));

/// The addresses of a server, at least one. A literal address is returned at once.
///
/// # Errors
/// There is no such name, or too many look-ups of other names are under way and do not end.
pub async fn resolve(addr: &HostPort) -> io::Result<Vec<SocketAddr>> {
    PROCESS.resolve(addr).await
}

/// Opens a TCP connection to the first address of a server that accepts one. The caller sets the deadline.
///
/// # Errors
/// As [`resolve`]; also if no address accepts a connection.
pub async fn connect(addr: &HostPort) -> io::Result<TcpStream> {
    PROCESS.connect(addr).await
}

/// The result of a look-up. An error is a number and a text, because several callers get it.
type Resolution = Result<Vec<SocketAddr>, (Option<i32>, String)>;
type PendingLookup = Mutex<BTreeMap<String, watch::Receiver<Option<Resolution>>>>;
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Runs look-ups, at most one of each name at a time.
struct Resolver {
    look_up: Arc<Lookup>,
    turns: Arc<Semaphore>,
    under_way: Arc<PendingLookup>,
}

/// A look-up that is under way. Its thread owns it, whether or not a caller still waits.
struct RunningLookup {
    host: String,
    under_way: Arc<PendingLookup>,
    found: watch::Sender<Option<Resolution>>,
    _turn: OwnedSemaphorePermit,
}

impl Drop for RunningLookup {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.host);
    }
}

impl Resolver {
    /// `look_up` may block; at most `most` threads call it at a time. The ports in its result are ignored.
    fn new(most: usize, look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self { look_up: Arc::new(look_up), turns: Arc::new(Semaphore::new(most)), under_way: Arc::default() }
    }

    async fn connect(&self, addr: &HostPort) -> io::Result<TcpStream> {
        TcpStream::connect(&*self.resolve(addr).await?).await
    }

    async fn resolve(&self, addr: &HostPort) -> io::Result<Vec<SocketAddr>> {
        if let Ok(literal) = addr.as_str().parse() {
            return Ok(vec![literal]);
        }
        let mut waiting = self.waiting(addr.host()).await?;
        let found = waiting.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        match found {
            Some(Ok(addresses)) if addresses.is_empty() => Err(unresolved(addr.host(), "it has no address")),
            Some(Ok(mut addresses)) => {
                addresses.iter_mut().for_each(|address| address.set_port(addr.port()));
                Ok(addresses)
            }
            // The number distinguishes a lack of resources on this machine from a wrong name.
            Some(Err((Some(number), _))) => Err(io::Error::from_raw_os_error(number)),
            Some(Err((None, why))) => Err(unresolved(addr.host(), &why)),
            None => Err(unresolved(addr.host(), "the look-up ended without an answer")),
        }
    }

    /// The look-up of this name that is under way, or a new one.
    async fn waiting(&self, host: &str) -> io::Result<watch::Receiver<Option<Resolution>>> {
        if let Some(running) = lock(&self.under_way).get(host) {
            return Ok(running.clone());
        }
        let Ok(Ok(turn)) = timeout(TURN_MAX, self.turns.clone().acquire_owned()).await else {
            return Err(unresolved(host, "too many look-ups of other names are under way and do not end"));
        };
        let mut under_way = lock(&self.under_way);
        if let Some(running) = under_way.get(host) {
            return Ok(running.clone());
        }
        let (found, waiting) = watch::channel(None);
        under_way.insert(host.to_owned(), waiting.clone());
        drop(under_way);
        let running = RunningLookup { host: host.to_owned(), under_way: self.under_way.clone(), found, _turn: turn };
        let look_up = self.look_up.clone();
        let thread = std::thread::Builder::new().name("look-up".into()).stack_size(STACK);
        thread.spawn(move || {
            let found = look_up(&running.host).map_err(|error| (error.raw_os_error(), error.to_string()));
            running.found.send_replace(Some(found));
        })?;
        Ok(waiting)
    }
}

fn lock(under_way: &PendingLookup) -> MutexGuard<'_, BTreeMap<String, watch::Receiver<Option<Resolution>>>> {
    // The map is consistent even if a thread panicked while it held the lock.
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unresolved(host: &str, why: &str) -> io::Error {
    io::Error::other(format!("its name is not resolved: {host}: {why}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use tokio::net::TcpListener;

    use super::*;

    fn server(text: &str) -> HostPort {
        HostPort::parse(text).unwrap()
    }

    /// A deadline that a busy machine meets.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn names_that_hang_take_no_more_threads_than_there_are_turns() {
        let began = Arc::new(AtomicUsize::new(0));
        let (release, released) = mpsc::sync_channel::<()>(100);
        let released = Mutex::new(released);
        let counted = began.clone();
        let resolver = Arc::new(Resolver::new(3, move |_: &str| {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = released.lock().unwrap().recv();
            Ok(vec!["127.0.0.1:0".parse().unwrap()])
        }));
        // The callers give up, again and again, as probes do; the look-ups go on.
        for _ in 0..10 {
            for host in ["a", "b", "c"] {
                let name = server(&format!("{host}.test:6379"));
                assert!(timeout(Duration::from_millis(5), resolver.resolve(&name)).await.is_err(), "it hangs");
            }
        }
        for host in ["d", "e"] {
            let error = timeout(PATIENCE, resolver.resolve(&server(&format!("{host}.test:6379")))).await.unwrap();
            let error = error.unwrap_err().to_string();
            assert!(error.contains("its name is not resolved") && error.contains(host), "{error}");
        }
        assert_eq!(resolver.under_way.lock().unwrap().len(), 3);
        assert!(began.load(Ordering::SeqCst) <= 3, "one look-up of each name");

        // Literal addresses need no turn.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let literal = server(&listener.local_addr().unwrap().to_string());
        timeout(PATIENCE, resolver.connect(&literal)).await.unwrap().unwrap();

        // When they end, other look-ups have their turn, and a caller that waits for a name gets its address.
        let waiting = tokio::spawn({
            let resolver = resolver.clone();
            async move { resolver.resolve(&server("a.test:6380")).await }
        });
        for _ in 0..4 {
            release.send(()).unwrap();
        }
        let found = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(found, ["127.0.0.1:6380".parse().unwrap()]);
        for _ in 0..4 {
            release.send(()).unwrap();
        }
        let by_name = server(&format!("d.test:{}", literal.port()));
        timeout(PATIENCE, resolver.connect(&by_name)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn errors_reach_all_callers_and_the_next_look_up_is_a_new_one() {
        let asked = AtomicUsize::new(0);
        let resolver = Resolver::new(1, move |_: &str| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::other("no such host")),
            1 => Err(io::Error::from_raw_os_error(24)),
            2 => panic!("a look-up that dies"),
            _ => Ok(vec!["10.0.0.1:0".parse().unwrap()]),
        });
        let addr = server("x.test:1");
        let mut said = Vec::new();
        // The thread may still be ending when the answer arrives; then the old answer is returned again.
        let found = loop {
            match timeout(PATIENCE, resolver.resolve(&addr)).await.unwrap() {
                Ok(found) => break found,
                Err(error) => said.push((error.raw_os_error(), error.to_string())),
            }
        };
        assert_eq!(found, ["10.0.0.1:1".parse().unwrap()]);
        assert!(said.iter().any(|(_, text)| text.contains("x.test: no such host")), "{said:?}");
        assert!(said.iter().any(|(number, _)| *number == Some(24)), "{said:?}");
        assert!(said.iter().any(|(_, text)| text.contains("without an answer")), "{said:?}");
    }
}
