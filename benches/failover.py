#!/usr/bin/env python3
"""Measures failovers and switchovers with the whole product: three release nodes, two groups of primary and replica, redis-servers with
default settings.

Parts (--only kill,both,switchover):
  kill        the primary of a group is killed with SIGKILL under load: the time until its slots accept writes again, and the p99 of the
              other group's requests before and meanwhile
  both        the primary and the leader are killed in the same second
  switchover  `group promote` back and forth under 20,000 writes per second: each hold according to its event, errors, lost writes
The load comes from examples/load.rs. KEEP=1 keeps the nodes' logs. The figures depend on the machine and its other load: the load average
is printed beside them.
"""
import argparse, json, os, re, signal, sys, threading, time

from fixture import LOAD, PONTOON, Fixture, Conn, at, loads, med, row, slot, until

KEYS = 10_000

class Writer:
    """Writes one key through a node every two milliseconds, and records the gaps between successful writes."""
    def __init__(self, node, key):
        self.node, self.key, self.count, self.stop = int(node.rsplit(":")[-1]), key, 0, False
        self.last_good, self.gaps, self.errors = time.time(), [], 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
    def run(self):
        conn = None
        while not self.stop:
            try:
                conn = conn or Conn(self.node)
                self.count += 1
                conn.ask("SET", self.key, self.count)
                now = time.time()
                self.gaps.append((now - self.last_good, self.last_good))
                self.last_good = now
            except RuntimeError:
                self.errors += 1
            except OSError:
                self.errors += 1
                conn = None
            time.sleep(0.002)
    def end(self):
        self.stop = True
        self.thread.join()

def key_of(first, last):
    return next(k for k in (b"writer:%d" % i for i in range(10_000)) if first <= slot(k) <= last)

def start_fixture(a):
    fixture = Fixture(a.base)
    fixture.__enter__()
    one, two = fixture.redis(), fixture.redis()
    groups = [[one, fixture.redis(one)], [two, fixture.redis(two)]]
    cluster = fixture.cluster(groups, [("0-511", 1), ("512-1023", 2)])
    return fixture, groups, cluster

def leader(cluster):
    status = json.loads(cluster.run("status", "--output", "json").stdout)
    return int(status["leader"])

def promoted(cluster, group, addr):
    """Returns whether `addr` is the group's primary according to the log."""
    found = [g for g in json.loads(cluster.run("group", "ls", "--output", "json").stdout) if g["id"] == group]
    return found and found[0]["servers"][0]["address"] == addr

def outage(a, with_leader):
    times, before, during = [], [], []
    for _ in range(a.rounds):
        fixture, groups, cluster = start_fixture(a)
        try:
            lead = leader(cluster)
            node = cluster.nodes[lead % 3]
            if with_leader:
                cluster.admin = f"127.0.0.1:{a.base + 11 + lead % 3}"
            load = fixture.load(cluster, clients=a.clients, rate=a.rate, keys=KEYS, slots="512-1023") if not with_leader else None
            writer = Writer(node, key_of(0, 511))
            time.sleep(2)
            if load:
                load.mark()
                time.sleep(a.window)
                before.append(load.mark()["clients"])
            killed = time.time()
            if with_leader:
                cluster.processes[lead - 1].kill()
            groups[0][0].proc.kill()
            until("writes to succeed again", lambda: writer.last_good > killed + 0.5, 60)
            if load:
                during.append(load.mark()["clients"])
            writer.end()
            times.append(max(gap for gap, since in writer.gaps if since + gap > killed))
        finally:
            fixture.__exit__(*sys.exc_info())
    return times, before, during

def kill(a):
    print(f"\nA primary is killed (-9); down-after 3 s ({loads()})")
    times, before, during = outage(a, False)
    row("until its slots accept writes again: median; longest", f"{med(times):.2f}; {max(times):.2f} s", "<= 4.5 s", f"of {[round(t, 2) for t in times]}")
    p99 = lambda seen: med([s["p99"] for s in seen])
    row("p99 of the other group: before; meanwhile", f"{p99(before):.2f}; {p99(during):.2f} ms", "the same", f"errors {sum(s['errors'] for s in during)}; {a.rate:.0f} requests/s")

def both(a):
    print(f"\nThe leader and a primary are killed (-9) at the same time ({loads()})")
    times, _, _ = outage(a, True)
    row("until its slots accept writes again: median; longest", f"{med(times):.2f}; {max(times):.2f} s", "<= 7 s", f"of {[round(t, 2) for t in times]}")

def switchover(a):
    fixture, groups, cluster = start_fixture(a)
    try:
        load = fixture.load(cluster, clients=a.clients, rate=a.writes, keys=KEYS, sets=100)
        key = key_of(0, 511).decode()
        time.sleep(1)
        load.mark()
        load.say("watch " + key)
        print(f"\n{a.switchovers} switchovers under {a.writes:,.0f} writes/s ({loads()})")
        holds, servers = [], groups[0]
        for i in range(a.switchovers):
            to = servers[(i + 1) % 2]
            for _ in range(50):
                done = cluster.run("group", "promote", "1", to.addr, "--wait", check=False)
                if done.returncode == 0:
                    break
                # The former primary is still being made a replica.
                last = done.stderr
                time.sleep(0.1)
            else:
                raise RuntimeError(last)
            holds.append(int(re.findall(r"held (\d+) ms", cluster.run("events").stdout)[-1]))
        watched = load.say("unwatch")
        m = load.mark()["clients"]
        stored = int(Conn(int(cluster.nodes[0].rsplit(":")[-1])).ask("GET", key))
        row("hold, p50; p99; longest", f"{med(holds):.1f}; {at(holds, 0.99):.1f}; {max(holds):.1f} ms", "<= 30 (p50)")
        row("longest gap of a writer of the group", f"{watched['gap']:.1f} ms")
        row("client errors", f"{m['errors'] + len(watched['errors'])}", "0", m["first_error"] or " ".join(watched["errors"][:1]))
        row("acknowledged writes of the writer that are lost", f"{watched['writes'] - stored}", "0", f"of {watched['writes']}")
        row("clients: p50; p99; longest", f"{m['p50']:.2f}; {m['p99']:.2f}; {m['max']:.1f} ms", "", loads())
    finally:
        fixture.__exit__(*sys.exc_info())

PARTS = dict(kill=kill, both=both, switchover=switchover)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", default=",".join(PARTS))
    ap.add_argument("--base", type=int, default=25200, help="first of thirty ports")
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--clients", type=int, default=48)
    ap.add_argument("--rate", type=float, default=10_000, help="requests per second of the group that stays")
    ap.add_argument("--writes", type=float, default=20_000, help="writes per second during switchovers")
    ap.add_argument("--window", type=float, default=4, help="seconds of the measurement before a kill")
    ap.add_argument("--switchovers", type=int, default=100)
    a = ap.parse_args()
    for binary in (PONTOON, LOAD):
        if not os.path.exists(binary):
            sys.exit(f"{binary} is missing; `make bench-failover` builds it")
    for part in a.only.split(","):
        PARTS[part](a)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
