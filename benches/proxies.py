#!/usr/bin/env python3
"""Benchmarks Redis proxies side by side: throughput, latency and CPU per request.

Every contender is in front of the same two redis-servers. Rounds are interleaved (A B C A B C ...), so that drift of a noisy machine
affects all of them equally. The CPU time of the proxy (user and system time of the whole process, from /proc) divided by the number of
answered requests is the figure that is robust against noise. Throughput and p99 are printed beside it.

Environment variables name the contenders. A contender without a variable is skipped.
  NUTCRACKER, PREDIXY, CODIS_PROXY, HAPROXY, ENVOY: their binaries. NUTCRACKER and HAPROXY default to the installed ones.
  OURS: Pontoon's binary, by default target/release/pontoon. It runs as a node of its own cluster, with two groups, assigned slots and a
        lease. "ours" has one worker. "ours-2w" has two workers (another cluster with the same servers), so that their CPU per request
        can be compared.
  OURS2: another build of Pontoon for comparison.
  OURS_ALONE: the example static_proxy, which is the hot path without a cluster. The difference is the cost of the cluster.
"""
import argparse, json, os, shlex, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

B1, B2 = 22801, 22802
TICK = os.sysconf("SC_CLK_TCK")
# The two that are distribution packages are found automatically. An empty variable leaves one out.
NUTCRACKER = os.environ.get("NUTCRACKER", shutil.which("nutcracker") or "")
HAPROXY = os.environ.get("HAPROXY", shutil.which("haproxy") or "")
BUILT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target", "release", "pontoon")
OURS = os.environ.get("OURS", BUILT if os.path.exists(BUILT) else "")
# The port of product `default`, to which each node's offset is added.
PRODUCT_PORT = 19000

def cpu(pid):
    """Returns the CPU seconds of a process and its living children."""
    total = 0.0
    pids = [pid] + [int(p) for p in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()]
    for p in pids:
        try:
            f = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
            total += (int(f[11]) + int(f[12])) / TICK
        except OSError:
            pass
    return total

def rss(pid):
    try:
        for line in open(f"/proc/{pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0

def logfile(name):
    return os.path.join(tempfile.gettempdir(), f"bench-{name}.log")

def ping(port, timeout=20):
    end = time.time() + timeout
    while time.time() < end:
        try:
            s = socket.create_connection(("127.0.0.1", port), 1)
            s.settimeout(2)
            s.sendall(b"*3\r\n$3\r\nSET\r\n$5\r\nprobe\r\n$1\r\n1\r\n")
            r = s.recv(100)
            s.close()
            if r.startswith(b"+OK"):
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False

class Contender:
    def __init__(self, name, port, argv, cwd=None, setup=None):
        self.name, self.port, self.argv, self.cwd, self.setup = name, port, argv, cwd, setup
        self.proc = None
    def start(self):
        log = open(logfile(self.name), "wb")
        self.proc = subprocess.Popen(self.argv, cwd=self.cwd, stdout=log, stderr=log, start_new_session=True)
        if self.setup:
            end = time.time() + 60
            for step in self.setup:
                while subprocess.run(step, stdout=log, stderr=log).returncode != 0 and time.time() < end:
                    time.sleep(0.5)
        if not ping(self.port):
            print(f"# {self.name}: did not answer; see {logfile(self.name)}", file=sys.stderr)
            self.stop()
            return False
        return True
    def stop(self):
        if self.proc and self.proc.poll() is None:
            try:
                os.killpg(self.proc.pid, signal.SIGTERM)
                self.proc.wait(5)
            except Exception:
                os.killpg(self.proc.pid, signal.SIGKILL)

def build(tmp, names):
    out = []
    env = os.environ.get
    a1, a2 = f"127.0.0.1:{B1}", f"127.0.0.1:{B2}"
    out.append(("direct", lambda: None, B1))
    if HAPROXY:
        cfg = f"{tmp}/haproxy.cfg"
        open(cfg, "w").write(f"""global
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen r
  bind 127.0.0.1:22100
  server s1 {a1}
""")
        out.append(("haproxy-l4", Contender("haproxy-l4", 22100, [HAPROXY, "-db", "-f", cfg]), 22100))
    if NUTCRACKER:
        cfg = f"{tmp}/nutcracker.yml"
        open(cfg, "w").write(f"""alpha:
  listen: 127.0.0.1:22101
  hash: crc32a
  hash_tag: "{{}}"
  distribution: ketama
  auto_eject_hosts: false
  timeout: 4000
  redis: true
  preconnect: true
  servers:
   - {a1}:1
   - {a2}:1
""")
        out.append(("twemproxy", Contender("twemproxy", 22101, [NUTCRACKER, "-c", cfg, "-s", "22901", "-m", "16384"]), 22101))
    if env("PREDIXY"):
        cfg = f"{tmp}/predixy.conf"
        open(cfg, "w").write(f"""Bind 127.0.0.1:22102
WorkerThreads 1
ClientTimeout 300
LogVerbSample 0
LogDebugSample 0
LogInfoSample 0
LogNoticeSample 0
Authority {{
  Auth {{
    Mode admin
  }}
}}
StandaloneServerPool {{
  Databases 16
  Hash crc16
  HashTag "{{}}"
  Distribution modula
  RefreshMethod fixed
  Group g1 {{
    + {a1}
  }}
  Group g2 {{
    + {a2}
  }}
}}
""")
        out.append(("predixy", Contender("predixy", 22102, [env("PREDIXY"), cfg]), 22102))
    if env("CODIS_PROXY"):
        slots = [{"id": i, "backend_addr": a1 if i < 512 else a2} for i in range(1024)]
        json.dump(slots, open(f"{tmp}/slots.json", "w"))
        cfg = f"{tmp}/codis.toml"
        d = subprocess.run([env("CODIS_PROXY"), "--default-config"], capture_output=True, text=True).stdout
        d = d.replace('proxy_addr = "0.0.0.0:19000"', 'proxy_addr = "127.0.0.1:22103"').replace('admin_addr = "0.0.0.0:11080"', 'admin_addr = "127.0.0.1:22903"')
        open(cfg, "w").write(d)
        out.append(("codis", Contender("codis", 22103, [env("CODIS_PROXY"), "--ncpu=2", "--config=" + cfg, f"--fillslots={tmp}/slots.json"], cwd=tmp), 22103))
    if env("ENVOY"):
        cfg = f"{tmp}/envoy.json"
        ep = lambda p: {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": p}}}}
        json.dump({"static_resources": {
            "listeners": [{"name": "redis", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 22104}},
                "filter_chains": [{"filters": [{"name": "envoy.filters.network.redis_proxy", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
                    "stat_prefix": "r", "settings": {"op_timeout": "5s", "enable_hashtagging": True},
                    "prefix_routes": {"catch_all_route": {"cluster": "c"}}}}]}]}],
            "clusters": [{"name": "c", "type": "STATIC", "lb_policy": "MAGLEV", "connect_timeout": "1s",
                "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [ep(B1), ep(B2)]}]}}]}}, open(cfg, "w"))
        out.append(("envoy", Contender("envoy", 22104, [env("ENVOY"), "-c", cfg, "--concurrency", "1", "-l", "error", "--disable-hot-restart"]), 22104))
    for i, (name, binary, workers) in enumerate((("ours", OURS, 1), ("ours-2w", OURS, 2), ("ours2", env("OURS2"), 1))):
        if binary:
            port, admin = 22110 + i, f"127.0.0.1:{22150 + i}"
            serve = [binary, "serve", "--id", "1", "--admin", admin, "--peers", f"1={admin}", "--bind", "127.0.0.1",
                     "--port-offset", str(port - PRODUCT_PORT), "--data-dir", f"{tmp}/{name}", "--workers", str(workers)]
            steps = [["group", "create", "1", "--primary", a1], ["group", "create", "2", "--primary", a2],
                     ["slot", "assign", "0-511", "1"], ["slot", "assign", "512-1023", "2", "--wait"]]
            out.append((name, Contender(name, port, serve, setup=[[binary, "--node", admin] + s for s in steps]), port))
    if env("OURS_ALONE"):
        out.append(("ours-alone", Contender("ours-alone", 22115, [env("OURS_ALONE"), "22115", a1, a2]), 22115))
    return [o for o in out if not names or o[0] in names]

def bench(port, test, clients, pipeline, size, requests, keyspace):
    argv = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-c", str(clients), "-P", str(pipeline),
            "-d", str(size), "-n", str(requests), "-r", str(keyspace), "--csv", "-t", test]
    r = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    line = [l for l in r.stdout.splitlines() if l.startswith('"') and "rps" not in l]
    if not line:
        raise RuntimeError(r.stdout[-300:] + r.stderr[-300:])
    f = [x.strip('"') for x in line[0].split(",")]
    return dict(rps=float(f[1]), p50=float(f[4]), p99=float(f[6]), max=float(f[7]))

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--only", default="", help="comma-separated contender names")
    ap.add_argument("--cases", default="get:50:1:64:200000,set:50:1:64:200000,get:50:16:64:800000,set:50:16:64:800000,get:50:64:64:1000000,mset:50:1:64:60000,get:500:1:64:200000",
                    help="test:clients:pipeline:size:requests,...")
    ap.add_argument("--json", help="write all figures here")
    ap.add_argument("--serve", type=int, help="only start the contenders, print their ports, and stop after this number of seconds")
    a = ap.parse_args()
    tmp = tempfile.mkdtemp(prefix="bench-")
    redis = [subprocess.Popen(["redis-server", "--port", str(p), "--save", "", "--appendonly", "no", "--dir", tmp, "--bind", "127.0.0.1"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for p in (B1, B2)]
    for p in (B1, B2):
        assert ping(p)
    conts = []
    for name, c, port in build(tmp, [n for n in a.only.split(",") if n]):
        if isinstance(c, Contender):
            if not c.start():
                continue
            conts.append((name, c, port))
        else:
            conts.append((name, None, port))
    results = []
    try:
        if a.serve:
            for name, _, port in conts: print(name, port, flush=True)
            time.sleep(a.serve); a.cases = ""
        for case in filter(None, a.cases.split(",")):
            test, cl, pl, sz, n = case.split(":")
            cl, pl, sz, n = int(cl), int(pl), int(sz), int(n)
            rows = {name: [] for name, _, _ in conts}
            for rnd in range(a.rounds):
                for name, c, port in conts:
                    c0 = cpu(c.proc.pid) if c else 0
                    try:
                        r = bench(port, test, cl, pl, sz, n, 100000)
                    except Exception as e:
                        print(f"# {name} {case}: {str(e)[:150]}", file=sys.stderr)
                        continue
                    r["cpu_us"] = ((cpu(c.proc.pid) - c0) / n * 1e6) if c else 0
                    r["rss"] = rss(c.proc.pid) if c else 0
                    rows[name].append(r)
            print(f"\n{test} c={cl} P={pl} d={sz} n={n} rounds={a.rounds} (medians)")
            print(f"  {'contender':12} {'req/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'cpu us/req':>11} {'RSS MB':>8}   to twemproxy: req/s  p99   cpu")
            base = {k: statistics.median(r[k] for r in rows["twemproxy"]) for k in ("rps", "p99", "cpu_us")} if rows.get("twemproxy") else None
            for name, rs in rows.items():
                if not rs:
                    print(f"  {name:12} failed"); continue
                m = {k: statistics.median(r[k] for r in rs) for k in rs[0]}
                ratio = "  ".join(f"{m[k] / base[k]:5.2f}" for k in ("rps", "p99", "cpu_us")) if base else ""
                print(f"  {name:12} {m['rps']:10.0f} {m['p50']:8.3f} {m['p99']:8.3f} {m['cpu_us']:11.3f} {m['rss']:8.1f}{'':16}{ratio}")
                results.append(dict(case=case, name=name, **m))
            sys.stdout.flush()
    finally:
        for _, c, _ in conts:
            if c: c.stop()
        for r in redis:
            r.terminate()
        shutil.rmtree(tmp, ignore_errors=True)
    if a.json:
        json.dump(results, open(a.json, "w"), indent=1)

if __name__ == "__main__":
    main()
