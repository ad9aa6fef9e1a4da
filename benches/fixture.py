"""The environment of the benchmarks of the whole product: redis-servers, three release nodes, a paced load (examples/load.rs) and a
temporary directory. Knows nothing of what is measured."""
import datetime, json, os, shutil, socket, statistics, subprocess, sys, tempfile, time, zlib

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PONTOON = os.environ.get("PONTOON_BIN", os.path.join(ROOT, "target", "release", "pontoon"))
LOAD = os.environ.get("LOAD_BIN", os.path.join(ROOT, "target", "release", "examples", "load"))
PATIENCE = 120

def until(what, condition, patience=PATIENCE, every=0.02):
    end = time.time() + patience
    while time.time() < end:
        value = condition()
        if value:
            return value
        time.sleep(every)
    raise TimeoutError(f"waited {patience} s for {what}")

def slot(key):
    """Returns the slot of a key in the codis layout. The keys of the benchmarks have no hash tags."""
    return zlib.crc32(key) % 1024

def cpu(pid):
    """Returns the user and system CPU seconds of a process, with a resolution of 10 ms."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

class Conn:
    """A blocking connection to a redis-server. It understands the replies that the benchmarks need."""
    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), 5)
        self.sock.settimeout(PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb", 1 << 20)
    @staticmethod
    def pack(words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return rest
    def ask(self, *words):
        self.sock.sendall(self.pack(words))
        return self.reply()
    def fill(self, commands):
        batch = []
        def flush():
            self.sock.sendall(b"".join(batch))
            for _ in batch:
                self.reply()
            batch.clear()
        for command in commands:
            batch.append(self.pack(command))
            if len(batch) == 1000:
                flush()
        flush()
    def info(self, section):
        lines = self.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)
    def calls(self, command):
        found = self.info("commandstats").get(f"cmdstat_{command}", "calls=0,")
        return int(found.split("calls=")[1].split(",")[0])
    def scans(self):
        return self.calls("scan")
    def slowest(self):
        """Returns the duration in ms and the name of the longest command since the last call."""
        worst = max(((entry[2] / 1000, entry[3][0].decode()) for entry in self.ask("SLOWLOG", "GET", 128)), default=(0, "-"))
        self.ask("SLOWLOG", "RESET")
        return worst

class Redis:
    def __init__(self, port, tmp, procs, of=None):
        self.port, self.addr = port, f"127.0.0.1:{port}"
        dir = tempfile.mkdtemp(prefix=f"redis-{port}-", dir=tmp)
        args = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", dir, "--slowlog-log-slower-than", "1000"]
        if of:
            args += ["--replicaof", "127.0.0.1", str(of.port), "--repl-diskless-sync-delay", "0"]
        self.proc = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        procs.append(self.proc)
        self.conn = until(self.addr, self.connect)
        if of:
            until("the replica", lambda: self.conn.info("replication").get("master_link_status") == "up")
    def connect(self):
        try:
            return Conn(self.port)
        except OSError:
            return None
    def cpu(self):
        """Returns the CPU seconds of the main thread, which executes commands. (`stat` has a resolution of only 10 ms.)"""
        return int(open(f"/proc/{self.proc.pid}/schedstat").read().split()[0]) / 1e9

class Cluster:
    """Three nodes. `groups`: for each group its servers, the primary first."""
    def __init__(self, base, tmp, groups, slots, procs):
        self.admin = f"127.0.0.1:{base + 11}"
        self.nodes = [f"127.0.0.1:{base + 20 + i}" for i in (1, 2, 3)]
        peers = ",".join(f"{i}=127.0.0.1:{base + 10 + i}" for i in (1, 2, 3))
        self.events, self.logs, self.processes = [], [], []
        for i in (1, 2, 3):
            log = f"{tmp}/node-{i}.log"
            out = open(log, "wb")
            self.processes.append(subprocess.Popen(
                [PONTOON, "serve", "--id", str(i), "--admin", f"127.0.0.1:{base + 10 + i}", "--peers", peers, "--bind", "127.0.0.1",
                 "--port-offset", str(i), "--data-dir", f"{tmp}/data-{i}", "--log-format", "json", "--set", f"default_port={base + 20}"],
                stdout=out, stderr=out))
            procs.append(self.processes[-1])
            self.logs.append(open(log, "rb"))
        until("the cluster", lambda: self.run("slot", "ls", "--timeout", "1s", check=False).returncode == 0, every=0.2)
        for i, servers in enumerate(groups):
            replicas = [word for s in servers[1:] for word in ("--replica", s.addr)]
            self.run("group", "create", str(i + 1), "--primary", servers[0].addr, *replicas)
        for spans, group in slots:
            self.run("slot", "assign", spans, str(group), "--wait")
    def cpu(self):
        """Returns the user and system CPU seconds of the three processes, with a resolution of 30 ms. (schedstat does not include
        threads that have ended.)"""
        return sum(cpu(p.pid) for p in self.processes)
    def run(self, *args, check=True):
        done = subprocess.run([PONTOON, "--node", self.admin, *args], capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"pontoon {' '.join(args)}: {done.stderr or done.stdout}")
        return done
    def migrations(self):
        return json.loads(self.run("migrate", "ls", "--output", "json").stdout)
    def show(self, id):
        return json.loads(self.run("migrate", "show", str(id), "--output", "json").stdout)
    def start(self, spans, to):
        self.read_logs()
        self.events.clear()
        self.run("migrate", "start", spans, "--to", str(to))
        return self.event("Plan or Start", lambda f: "an attempt begins" in f["message"])
    def read_logs(self):
        for log in self.logs:
            while True:
                at = log.tell()
                line = log.readline()
                if not line.endswith(b"\n"):
                    log.seek(at)
                    break
                try:
                    entry = json.loads(line)
                    when = datetime.datetime.fromisoformat(entry["timestamp"].replace("Z", "+00:00")).timestamp()
                    self.events.append((when, entry["fields"]))
                except (ValueError, KeyError):
                    pass
    def event(self, what, condition, patience=PATIENCE, job=None):
        def find():
            self.read_logs()
            return next(((at, f) for at, f in self.events if condition(f) and job in (None, f.get("job"))), None)
        at, fields = until(what, find, patience, 0.003)
        return at, fields
    def message(self, text, job=None, patience=PATIENCE):
        return self.event(text, lambda f: f["message"].startswith(text), patience, job)
    def done(self):
        until("all migrations to end", lambda: all(m["state"] in ("done", "cancelled") for m in self.migrations()), every=0.3)

class Load:
    def __init__(self, cluster, **wanted):
        args = [LOAD, "to=" + ",".join(cluster.nodes)] + [f"{k}={v}" for k, v in wanted.items()]
        self.proc = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    def say(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()
        answer = self.proc.stdout.readline()
        if not answer:
            raise RuntimeError("the load process has ended")
        return json.loads(answer)
    def mark(self):
        return self.say("mark")
    def stop(self):
        self.proc.kill()
        self.proc.wait()

class Fixture:
    """A directory, servers and nodes. All of them are removed at the end of the `with` block."""
    def __init__(self, base):
        self.base, self.tmp, self.servers, self.procs, self.loads = base, tempfile.mkdtemp(prefix="bench-"), [], [], []
    def __enter__(self):
        return self
    def __exit__(self, kind, *_):
        for load in self.loads:
            load.stop()
        procs = self.procs
        for p in procs:
            p.kill()
        for p in procs:
            p.wait()
        if kind is None and not os.environ.get("KEEP"):
            shutil.rmtree(self.tmp, ignore_errors=True)
        else:
            print(f"# logs: {self.tmp}", file=sys.stderr)
    def redis(self, of=None):
        self.servers.append(Redis(self.base + len(self.servers), self.tmp, self.procs, of))
        return self.servers[-1]
    def cluster(self, groups, slots):
        return Cluster(self.base, self.tmp, groups, slots, self.procs)
    def load(self, cluster, **wanted):
        self.loads.append(Load(cluster, **wanted))
        return self.loads[-1]

def row(what, figure, goal="", note=""):
    print(f"  {what:64} {figure:>22}   {goal:14} {note}", flush=True)

def med(figures):
    return statistics.median(figures)

def at(figures, part):
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * part))]

def loads():
    return "load average " + " ".join(f"{x:.1f}" for x in os.getloadavg()[:2])
