#!/usr/bin/env python3
"""Compares the hot path of this tree (B) with that of another revision (A) and says whether it costs at most 3 % more.

usage: ab.py --base REVISION    (make bench-ab BASE=REVISION)

Two measurements:
  cpu           One node and two redis-servers on loopback; redis-benchmark sends requests. The figure is user and system time of
                the pontoon process per request, from /proc/PID/stat. A and B run right after one another in every round, in
                alternating order, and each round gives one ratio B/A, so that drift of the machine cancels out. Printed are the
                median ratio and its range.
  instructions  callgrind counts instructions per request of examples/hotpath (scan, look-up and dispatch, without I/O), which
                is deterministic: two runs give the same count. For information it also counts those of examples/static_proxy
                with a single client (all of the hot path); these vary by some percent, because the number of requests that
                one read returns depends on timing, so they decide nothing.

The CPU ratio of a case decides if its whole range is on one side of 3 %; otherwise the instruction counts decide.

A is built in a git worktree, target/ab/base, with its own target directory; B is the working tree, with its usual one. The first
build of A copies the dependencies from target/release, so that only pontoon is compiled again. If A lacks an example, the one of
this tree is copied into the worktree; cases whose example does not compile against A's API are reported and left out.
"""
import argparse, os, re, shutil, socket, statistics, subprocess, sys, tempfile
from proxies import Contender, bench, cpu, ping

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
AB = os.path.join(ROOT, "target", "ab")
LIMIT = 1.03
EXAMPLES = ("hotpath", "static_proxy")
# test:clients:pipeline:size:requests; enough requests for 1 s of CPU time or more, of which a tick of /proc/PID/stat is 1 %.
CASES = "get:50:1:64:120000,set:50:1:64:120000,get:50:16:64:600000,set:50:16:64:600000,get:50:64:64:800000,set:50:64:64:800000,mset:50:1:64:50000,get:500:1:64:120000"
DISPATCH = ("get", "get-redis-layout", "set", "mget", "mset", "evalsha", "reply")
# test:pipeline, with one client.
PROXY = ("get:1", "set:1", "get:16", "mset:1")
# The product's default port, to which a node adds its offset.
PRODUCT_PORT = 19000

def run(*args, **more):
    return subprocess.run(args, check=True, text=True, **more)

def git(*args):
    return run("git", "-C", ROOT, *args, capture_output=True).stdout.strip()

def cargo(tree, target, *args):
    """Whether the build succeeded."""
    env = dict(os.environ, CARGO_TARGET_DIR=target)
    return subprocess.run(["cargo", "build", "--release", "--quiet", *args], cwd=tree, env=env).returncode == 0

class Side:
    """The binaries of one revision; `pontoon` and `examples` say which ones are needed."""
    def __init__(self, name, tree, target, pontoon, examples):
        self.name, self.bin = name, os.path.join(AB, f"bin-{name}")
        shutil.rmtree(self.bin, ignore_errors=True)
        os.makedirs(self.bin)
        print(f"# building {name} in {tree}", flush=True)
        if pontoon:
            if not cargo(tree, target, "--bin", "pontoon"):
                sys.exit(f"{name} does not compile")
            shutil.copy2(os.path.join(target, "release", "pontoon"), self.bin)
        # rustix reads the vDSO, which valgrind does not map.
        libc = ["--features", "rustix/use-libc"] if "\nrustix" in open(os.path.join(tree, "Cargo.toml")).read() else []
        # All at once is faster. If that fails, one by one shows which of them do not compile.
        at_once = cargo(tree, target, *libc, *(word for e in examples for word in ("--example", e))) if examples else False
        for example in examples:
            if at_once or cargo(tree, target, *libc, "--example", example):
                shutil.copy2(os.path.join(target, "release", "examples", example), self.bin)
            else:
                print(f"# {name}: example {example} does not compile, its cases are left out", flush=True)
    def path(self, binary):
        return os.path.join(self.bin, binary)
    def has(self, binary):
        return os.path.exists(self.path(binary))

def base(revision, *wanted):
    tree, target = os.path.join(AB, "base"), os.path.join(AB, "base-target")
    commit = git("rev-parse", "--verify", revision + "^{commit}")
    os.makedirs(AB, exist_ok=True)
    if os.path.isdir(tree):
        run("git", "-C", tree, "checkout", "--quiet", "--force", "--detach", commit)
        run("git", "-C", tree, "clean", "--quiet", "-fdx")
    else:
        git("worktree", "prune")
        git("worktree", "add", "--quiet", "--detach", tree, commit)
    ours = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
    if not os.path.isdir(target) and os.path.isdir(ours):
        os.makedirs(target)
        run("cp", "-a", "--reflink=auto", ours, os.path.join(target, "release"))
    for example in EXAMPLES:
        at = os.path.join(tree, "examples", f"{example}.rs")
        if not os.path.exists(at):
            os.makedirs(os.path.dirname(at), exist_ok=True)
            shutil.copy2(os.path.join(ROOT, "examples", f"{example}.rs"), at)
    return Side("A", tree, target, *wanted), commit

class Verdict:
    """Collects which cases are within the limit."""
    def __init__(self):
        self.unclear, self.over = [], []
    def cpu(self, case, ratios):
        low, high = min(ratios), max(ratios)
        if high <= LIMIT:
            return "within 3 %"
        if low > LIMIT:
            self.over.append(case)
            return "MORE than 3 %"
        self.unclear.append(case)
        return "near 3 %: instructions decide"
    def instructions(self, case, ratio):
        if ratio <= LIMIT:
            return "within 3 %"
        self.over.append(case)
        return "MORE than 3 %"
    def last(self, counted):
        if self.over:
            return f"MORE than 3 %: {', '.join(self.over)}"
        if self.unclear and not counted:
            return f"undecided: {', '.join(self.unclear)}; run it again with callgrind, with more --rounds, or on an idle machine"
        return "within 3 %" + (f" (by instructions: {', '.join(self.unclear)})" if self.unclear else "")

def free_ports(n):
    """Ports below the ephemeral range, which the product's port offset can reach."""
    found, port = [], PRODUCT_PORT + 1 + os.getpid() % 4000
    while len(found) < n:
        port += 1
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                found.append(port)
            except OSError:
                pass
    return found

def node(side, tmp, servers, port, admin_port):
    """A node of its own cluster with two groups, as in production, with one worker."""
    binary, admin = side.path("pontoon"), f"127.0.0.1:{admin_port}"
    serve = [binary, "serve", "--id", "1", "--admin", admin, "--peers", f"1={admin}", "--bind", "127.0.0.1",
             "--port-offset", str(port - PRODUCT_PORT), "--data-dir", f"{tmp}/{side.name}", "--workers", "1"]
    steps = [["group", "create", str(i + 1), "--primary", f"127.0.0.1:{s}"] for i, s in enumerate(servers)]
    steps += [["slot", "assign", "0-511", "1"], ["slot", "assign", "512-1023", "2", "--wait"]]
    return Contender(f"ab-{side.name}", port, serve, setup=[[binary, "--node", admin] + s for s in steps])

def cpu_cases(sides, tmp, servers, ports, cases, rounds, verdict):
    nodes = [node(side, tmp, servers, port, admin) for side, port, admin in zip(sides, ports[0::2], ports[1::2])]
    try:
        for n in nodes:
            if not n.start():
                sys.exit("a node did not start")
        print(f"\nCPU per request, us (median of {rounds} rounds), and B/A\n"
              f"  {'case':22} {'A':>8} {'B':>8} {'B/A':>7}   {'range':15}", flush=True)
        for case in cases:
            test, clients, pipeline, size, requests = case.split(":")
            clients, pipeline, requests = int(clients), int(pipeline), int(requests)
            figures, ratios = ([], []), []
            for n in nodes:
                bench(n.port, test, clients, pipeline, size, requests // 10, 100000)
            for i in range(rounds):
                now = {}
                for side in (0, 1) if i % 2 == 0 else (1, 0):
                    before = cpu(nodes[side].proc.pid)
                    bench(nodes[side].port, test, clients, pipeline, size, requests, 100000)
                    now[side] = (cpu(nodes[side].proc.pid) - before) / requests * 1e6
                    figures[side].append(now[side])
                ratios.append(now[1] / now[0])
            name = f"{test} c={clients} P={pipeline}"
            a, b = (statistics.median(f) for f in figures)
            print(f"  {name:22} {a:8.3f} {b:8.3f} {statistics.median(ratios):7.3f}   "
                  f"{min(ratios):.3f} - {max(ratios):.3f}   {verdict.cpu(name, ratios)}", flush=True)
    finally:
        for n in nodes:
            n.stop()

def collected(log):
    found = re.search(r"Collected : (\d+)", open(log).read())
    if not found:
        raise RuntimeError(f"callgrind reported no count: {open(log).read()[-300:]}")
    return int(found.group(1))

def callgrind(tmp, *argv):
    log = tempfile.mktemp(prefix="callgrind-", dir=tmp)
    return log, ["valgrind", "--tool=callgrind", f"--log-file={log}", "--callgrind-out-file=/dev/null", *argv]

def dispatch_count(side, tmp, case):
    """Instructions per request: the difference between a long and a short run, without the start of the process."""
    counts = []
    for n in (1000, 11000):
        log, argv = callgrind(tmp, side.path("hotpath"), case, str(n))
        run(*argv, capture_output=True)
        counts.append(collected(log))
    return (counts[1] - counts[0]) / 10000

def proxy_count(side, tmp, case, servers, port):
    test, pipeline = case.split(":")
    counts = []
    for n in (2000, 10000):
        log, argv = callgrind(tmp, side.path("static_proxy"), str(port), *(f"127.0.0.1:{s}" for s in servers))
        proxy = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if not ping(port, 60):
                raise RuntimeError("static_proxy did not answer")
            bench(port, test, 1, int(pipeline), 64, n, 100000)
        finally:
            proxy.terminate()
            proxy.wait(60)
        counts.append(collected(log))
    return (counts[1] - counts[0]) / 8000

def instruction_cases(sides, tmp, servers, port, verdict):
    print(f"\nInstructions per request by callgrind, and B/A\n  {'case':22} {'A':>8} {'B':>8} {'B/A':>7}", flush=True)
    cases = [(f"dispatch {c}", "hotpath", lambda s, c=c: dispatch_count(s, tmp, c)) for c in DISPATCH]
    cases += [(f"proxy {c.replace(':', ' P=')}", "static_proxy", lambda s, c=c: proxy_count(s, tmp, c, servers, port)) for c in PROXY]
    for name, example, count in cases:
        if not all(side.has(example) for side in sides):
            print(f"  {name:22} left out: A and B do not both have the example {example}", flush=True)
            continue
        try:
            a, b = (count(side) for side in sides)
        except (subprocess.SubprocessError, RuntimeError) as error:
            print(f"  {name:22} failed: {str(error)[:150]}", flush=True)
            if example == "hotpath":
                verdict.over.append(f"{name} (not measured)")
            continue
        judged = verdict.instructions(name, b / a) if example == "hotpath" else "for information"
        print(f"  {name:22} {a:8.0f} {b:8.0f} {b / a:7.3f}   {judged}", flush=True)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--base", default="HEAD", help="revision to compare with (default: HEAD)")
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--cases", default=CASES, help="CPU cases, test:clients:pipeline:size:requests,...; empty: none")
    ap.add_argument("--no-callgrind", action="store_true", help="measure CPU time only")
    a = ap.parse_args()
    callgrind_too = not a.no_callgrind
    if callgrind_too and not shutil.which("valgrind"):
        sys.exit("valgrind is not installed")
    wanted = bool(a.cases), EXAMPLES if callgrind_too else ()
    head = Side("B", ROOT, os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), *wanted)
    side_a, commit = base(a.base, *wanted)
    sides, verdict = (side_a, head), Verdict()
    print(f"# A: {git('log', '-1', '--format=%h %s', commit)}\n# B: {git('describe', '--always', '--dirty')}, the working tree"
          f"\n# load average {os.getloadavg()[0]:.1f}", flush=True)
    tmp = tempfile.mkdtemp(prefix="ab-")
    servers, ports = (found := free_ports(7))[:2], found[2:]
    redis = [subprocess.Popen(["redis-server", "--port", str(p), "--save", "", "--appendonly", "no", "--dir", tmp, "--bind", "127.0.0.1"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for p in servers]
    try:
        for p in servers:
            if not ping(p):
                sys.exit("redis-server did not start")
        if a.cases:
            cpu_cases(sides, tmp, servers, ports[:4], a.cases.split(","), a.rounds, verdict)
        if callgrind_too:
            instruction_cases(sides, tmp, servers, ports[4], verdict)
    finally:
        for r in redis:
            r.terminate()
            r.wait()
        shutil.rmtree(tmp, ignore_errors=True)
    print(f"\n{verdict.last(callgrind_too)}")
    sys.exit(1 if verdict.over else 0)

main()
