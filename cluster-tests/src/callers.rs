//! Finds the process at the other end of a loopback connection in /proc. With it, a relay in front of a server can
//! distinguish the nodes, which all connect to the same address.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The process that opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// A node, by its id.
    Node(u16),
    /// A redis-server, by its index in the cluster's list: a replica that connects to its primary.
    Server(usize),
    /// Any other process: the test itself.
    Other,
}

/// The processes of one test. A process is identified by a directory that no other process works in or has as an
/// argument. The identity survives restarts, because the process is searched for each connection.
#[derive(Clone, Debug, Default)]
pub struct Callers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    dirs: BTreeMap<PathBuf, Caller>,
    /// Processes that were found earlier. They are checked first: /proc has many entries, and a relay must not be slow.
    processes: BTreeSet<PathBuf>,
}

impl Callers {
    /// Registers a caller: the process that works in `dir` or has it as an argument. `pid` is its current process id.
    pub fn register(&self, dir: &Path, pid: u32, caller: Caller) {
        let mut known = self.lock();
        known.dirs.insert(dir.to_path_buf(), caller);
        known.processes.insert(Path::new("/proc").join(pid.to_string()));
    }

    /// Returns the process that opened the connection from `from` to 127.0.0.1:`port`.
    #[must_use]
    pub fn of(&self, from: SocketAddr, port: u16) -> Caller {
        inode(from, port).and_then(|inode| self.holder(&inode)).unwrap_or(Caller::Other)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holder(&self, inode: &str) -> Option<Caller> {
        let known = self.lock().processes.clone();
        if let Some(process) = known.iter().find(|process| holds(process, inode)) {
            return self.which(process);
        }
        // Only children of this process: tests start no others.
        let me = std::process::id().to_string();
        for process in fs::read_dir("/proc").ok()?.flatten() {
            let is_process = process.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
            let dir = process.path();
            if is_process && !known.contains(&dir) && parent(&dir) == me && holds(&dir, inode) {
                let caller = self.which(&dir)?;
                self.lock().processes.insert(dir);
                return Some(caller);
            }
        }
        None
    }

    fn which(&self, process: &Path) -> Option<Caller> {
        let works_in = fs::read_link(process.join("cwd")).ok()?;
        let line = fs::read(process.join("cmdline")).ok()?;
        let named = |dir: &PathBuf| line.split(|byte| *byte == 0).any(|arg| arg == dir.as_os_str().as_encoded_bytes());
        self.lock().dirs.iter().find(|(dir, _)| **dir == works_in || named(dir)).map(|(_, caller)| *caller)
    }
}

/// Returns the process id of a process's parent, or an empty text if the process has just ended.
fn parent(process: &Path) -> String {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // "12 (name) S 11 ...": the name may contain any character, so the fields are read after its last parenthesis.
    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)).unwrap_or_default().to_owned()
}

fn holds(process: &Path, inode: &str) -> bool {
    let socket = format!("socket:[{inode}]");
    let is_it = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == socket.as_str());
    fs::read_dir(process.join("fd")).is_ok_and(|fds| fds.flatten().any(is_it))
}

/// Returns the inode of the caller's socket.
fn inode(from: SocketAddr, port: u16) -> Option<String> {
    let IpAddr::V4(host) = from.ip() else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(host.octets()), from.port());
    let remote = format!(":{port:04X}");
    // Not at once: the kernel walks over a large hash table, and the connection is in its middle on average.
    let table = BufReader::new(fs::File::open("/proc/net/tcp").ok()?);
    table.lines().skip(1).map_while(Result::ok).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()? == local && fields.next()?.ends_with(&remote);
        // State, queues, timer, retransmissions, user, timeout, then the inode.
        if is_it { fields.nth(6).map(str::to_owned) } else { None }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::TcpListener;

    use super::*;
    use crate::{
        ports::Ports,
        process::Scratch,
        redis::{RedisOptions, RedisServer},
        wait::{GENEROUS, wait_for},
    };

    #[test]
    fn a_replica_is_identified_by_its_connection() {
        let (ports, dir, callers) = (Ports::take(), Scratch::new(), Callers::default());
        let replica = RedisServer::start_with(ports.server(0), dir.path(), &RedisOptions::default());
        callers.register(replica.home(), 0, Caller::Server(7));
        let primary = TcpListener::bind(("127.0.0.1", ports.server(1))).unwrap();
        let _ = replica.call(&["REPLICAOF", "127.0.0.1", &ports.server(1).to_string()]);
        primary.set_nonblocking(true).unwrap();
        let (_call, from) = wait_for("the replica to connect", GENEROUS, || primary.accept());
        assert_eq!(callers.of(from, ports.server(1)), Caller::Server(7));
        let own = std::net::TcpStream::connect(("127.0.0.1", replica.port)).unwrap();
        assert_eq!(callers.of(own.local_addr().unwrap(), replica.port), Caller::Other);
    }
}
