//! The redis-servers of a group: what each has in memory and on disk, who follows whom, and what a restart yields.
//! Knows nothing of nodes, nor of which server should be the primary.

/// A write of a client, by its number.
pub type Write = u32;

/// What a server that was killed has when it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of its data.
    All,
    /// What it had when it last saved, and, if it is a replica, the replication id and the offset of that.
    Saved,
    Nothing,
}

/// A redis-server. `None` as the server that it follows: it is a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisServer {
    pub up: bool,
    /// Its process is stopped: it has everything, and answers nothing.
    pub stopped: bool,
    /// Number of its process.
    pub run: u32,
    /// The server that it follows, in memory.
    pub follows: Option<usize>,
    /// The same in its configuration file.
    pub follows_on_disk: Option<usize>,
    /// It can write its configuration file.
    pub saves: bool,
    /// It keeps an append-only file.
    pub appends: bool,
    /// What its next start finds.
    pub kept: Kept,
    /// In the order in which they were executed, so that their numbers grow.
    pub data: Vec<Write>,
    /// How many of these writes, from the first on, were loaded from a disk, by this process or by the one that it copied.
    pub loaded: usize,
    /// What it last saved, with the replication id and the offset.
    pub saved: (Vec<Write>, u32, u64),
    /// As a primary: the replication user is switched on, in memory. In its file it is off.
    pub admits: bool,
    /// It logs in at its primary as the replication user; otherwise with the group's credentials, which every server
    /// always accepts.
    pub logs_in: bool,
    /// The same in its configuration file.
    pub logs_in_on_disk: bool,
    pub replid: u32,
    pub offset: u64,
    /// The replication id before its promotion, and the offset then.
    pub former: Option<(u32, u64)>,
    pub link_up: bool,
    /// Its link was up since it was started, or was made to follow this server.
    pub was_linked: bool,
}

impl RedisServer {
    pub fn answers(&self) -> bool {
        self.up && !self.stopped
    }

    pub fn has(&self, write: Write) -> bool {
        self.data.binary_search(&write).is_ok()
    }

    /// Whether it has a write from a client or from its primary, not from a disk.
    pub fn has_received(&self, write: Write) -> bool {
        self.up && self.data.binary_search(&write).is_ok_and(|at| at >= self.loaded)
    }
}

/// Writes that a server had and no longer has, since it has copied another one.
pub struct Dropped {
    pub server: usize,
    pub writes: Vec<Write>,
}

/// The servers of the group, by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    pub all: Vec<RedisServer>,
    /// A server refuses replicas that log in as the replication user while it is off.
    pub refuses: bool,
    /// The last process, replication id or write that was numbered.
    last: u32,
}

impl Servers {
    /// Server 0 is the primary; the others follow it and are in sync.
    pub fn new(count: usize, saves: bool, appends: bool) -> Self {
        let server = |index: usize| RedisServer {
            up: true,
            stopped: false,
            run: index as u32 + 1,
            follows: (index > 0).then_some(0),
            follows_on_disk: (index > 0).then_some(0),
            saves,
            appends,
            kept: if appends { Kept::All } else { Kept::Nothing },
            data: (1..=10).collect(),
            loaded: 0,
            saved: ((1..=10).collect(), 100, 10),
            admits: false,
            logs_in: false,
            logs_in_on_disk: false,
            replid: 100,
            offset: 10,
            former: None,
            link_up: index > 0,
            was_linked: index > 0,
        };
        Self { all: (0..count).map(server).collect(), refuses: true, last: 1_000 }
    }

    fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    pub fn kill(&mut self, server: usize) {
        (self.all[server].up, self.all[server].stopped) = (false, false);
        self.cut_links();
    }

    /// The process starts with the role and the data that it finds on disk.
    pub fn restart(&mut self, server: usize) {
        let (run, replid) = (self.number(), self.number());
        let server = &mut self.all[server];
        (server.up, server.run, server.replid, server.offset, server.former) = (true, run, replid, 0, None);
        (server.follows, server.link_up, server.was_linked) = (server.follows_on_disk, false, false);
        (server.logs_in, server.admits) = (server.logs_in_on_disk, false);
        match server.kept {
            Kept::All => {}
            Kept::Saved => {
                let (data, replid, offset) = server.saved.clone();
                server.data = data;
                if server.follows.is_some() {
                    (server.replid, server.offset) = (replid, offset);
                }
            }
            Kept::Nothing => server.data.clear(),
        }
        server.loaded = server.data.len();
    }

    /// Servers save their data.
    pub fn save(&mut self, server: usize) {
        let server = &mut self.all[server];
        if server.answers() {
            server.saved = (server.data.clone(), server.replid, server.offset);
        }
    }

    /// REPLICAOF. A server that follows the other one already is left alone.
    pub fn replicaof(&mut self, server: usize, primary: usize) {
        if self.all[server].follows == Some(primary) {
            return;
        }
        let server = &mut self.all[server];
        (server.follows, server.link_up, server.was_linked) = (Some(primary), false, false);
        self.cut_links();
    }

    /// REPLICAOF NO ONE. A primary is left alone.
    pub fn replicaof_no_one(&mut self, index: usize) {
        if self.all[index].follows.is_none() {
            return;
        }
        let replid = self.number();
        let server = &mut self.all[index];
        server.former = Some((server.replid, server.offset));
        (server.follows, server.link_up, server.replid) = (None, false, replid);
        // Its own replicas connect again.
        self.all.iter_mut().filter(|other| other.follows == Some(index)).for_each(|other| other.link_up = false);
        self.cut_links();
    }

    /// CONFIG REWRITE. A server that cannot do it answers, too.
    pub fn config_rewrite(&mut self, server: usize) {
        let server = &mut self.all[server];
        if server.saves {
            (server.follows_on_disk, server.logs_in_on_disk) = (server.follows, server.logs_in);
        }
    }

    /// A client's write arrives; `None`: the server is down or refuses it.
    pub fn write(&mut self, server: usize) -> Option<Write> {
        if !self.all[server].answers() || self.all[server].follows.is_some() {
            return None;
        }
        let write = self.number();
        self.all[server].data.push(write);
        self.all[server].offset += 1;
        Some(write)
    }

    /// A link to a server that is down, or that is a replica without a link, is down.
    fn cut_links(&mut self) {
        for _ in 0..self.all.len() {
            for server in 0..self.all.len() {
                if !self.serves_replicas(self.all[server].follows) {
                    self.all[server].link_up = false;
                }
            }
        }
    }

    /// Whether a server can be followed: it is up, and a primary or a replica whose own link is up.
    fn serves_replicas(&self, server: Option<usize>) -> bool {
        let server = server.map(|server| &self.all[server]);
        server.is_some_and(|server| server.up && (server.follows.is_none() || server.link_up))
    }

    /// Whether a server, which follows this one, is linked to it or may log in there.
    fn is_admitted(&self, server: usize, primary: usize) -> bool {
        let RedisServer { logs_in, link_up, .. } = self.all[server];
        link_up || !self.refuses || !logs_in || self.all[primary].admits
    }

    /// Replicas connect, and receive what their primaries have; those that `lags` names receive nothing. Returns what they
    /// no longer have.
    pub fn replicate(&mut self, mut lags: impl FnMut(usize) -> bool) -> Vec<Dropped> {
        let mut all_dropped = Vec::new();
        self.cut_links();
        for server in 0..self.all.len() {
            let Some(primary) = self.all[server].follows.filter(|_| self.all[server].answers()) else { continue };
            let waits = !self.serves_replicas(Some(primary)) || !self.is_admitted(server, primary);
            if waits || self.all[primary].stopped || lags(server) {
                continue;
            }
            // A partial and a full synchronization have the same result.
            let RedisServer { replid, offset, loaded, .. } = self.all[primary];
            let (index, data) = (server, self.all[primary].data.clone());
            let server = &mut self.all[index];
            let extends = data.starts_with(&server.data);
            // What it received itself stays received.
            let all_received = server.data.len() >= loaded && extends;
            server.loaded = if all_received { loaded.min(server.loaded) } else { loaded };
            let had = std::mem::replace(&mut server.data, data);
            (server.replid, server.offset) = (replid, offset);
            (server.link_up, server.was_linked) = (true, true);
            if !extends {
                let writes = had.into_iter().filter(|write| !server.has(*write)).collect();
                all_dropped.push(Dropped { server: index, writes });
            }
        }
        all_dropped
    }
}
