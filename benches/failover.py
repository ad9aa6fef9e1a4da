#!/usr/bin/env python3
"""Issue 5's numbers with the whole product: three release nodes, two groups of primary and replica, stock redis-servers.

Parts (--only kill,both,switchover):
  kill        the primary of a group is killed (-9) under load: how long until its slots take writes again, and the p99 of the other
              group's requests before and meanwhile
  both        the primary and the leader are killed in the same second
  switchover  `group promote` there and back under 20,000 writes per second: each hold by its event, errors, writes lost
The load comes from examples/load.rs. KEEP=1 keeps the nodes' logs. Figures are of this machine in this hour: the load average is printed beside them.
"""
import argparse, json, os, re, signal, sys, threading, time

from bed import LOAD, PONTOON, Bed, Conn, at, loads, med, row, slot, until

KEYS = 10_000

class Writer:
    """Writes one key through a node, every two milliseconds, and knows when a write succeeded last and again."""
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

def bed_of(a):
    bed = Bed(a.base)
    bed.__enter__()
    one, two = bed.redis(), bed.redis()
    groups = [[one, bed.redis(one)], [two, bed.redis(two)]]
    cluster = bed.cluster(groups, [("0-511", 1), ("512-1023", 2)])
    return bed, groups, cluster

def leader(cluster):
    status = json.loads(cluster.run("status", "--output", "json").stdout)
    return int(status["leader"])

def promoted(cluster, group, addr):
    """The group's primary by the log."""
    found = [g for g in json.loads(cluster.run("group", "ls", "--output", "json").stdout) if g["id"] == group]
    return found and found[0]["servers"][0]["address"] == addr

def outage(a, with_leader):
    times, before, during = [], [], []
    for _ in range(a.rounds):
        bed, groups, cluster = bed_of(a)
        try:
            lead = leader(cluster)
            node = cluster.nodes[lead % 3]
            if with_leader:
                cluster.admin = f"127.0.0.1:{a.base + 11 + lead % 3}"
            load = bed.load(cluster, clients=a.clients, rate=a.rate, keys=KEYS, slots="512-1023") if not with_leader else None
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
            bed.__exit__(*sys.exc_info())
    return times, before, during

def kill(a):
    print(f"\nA primary is killed (-9); down-after 3 s ({loads()})")
    times, before, during = outage(a, False)
    row("until its slots take writes again: median; longest", f"{med(times):.2f}; {max(times):.2f} s", "<= 4.5 s", f"of {[round(t, 2) for t in times]}")
    p99 = lambda seen: med([s["p99"] for s in seen])
    row("p99 of the other group: before; meanwhile", f"{p99(before):.2f}; {p99(during):.2f} ms", "the same", f"errors {sum(s['errors'] for s in during)}; {a.rate:.0f} requests/s")

def both(a):
    print(f"\nThe leader and a primary are killed (-9) in the same moment ({loads()})")
    times, _, _ = outage(a, True)
    row("until its slots take writes again: median; longest", f"{med(times):.2f}; {max(times):.2f} s", "<= 7 s", f"of {[round(t, 2) for t in times]}")

def switchover(a):
    bed, groups, cluster = bed_of(a)
    try:
        load = bed.load(cluster, clients=a.clients, rate=a.writes, keys=KEYS, sets=100)
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
        row("acknowledged writes of the writer that are not there", f"{watched['writes'] - stored}", "0", f"of {watched['writes']}")
        row("clients: p50; p99; longest", f"{m['p50']:.2f}; {m['p99']:.2f}; {m['max']:.1f} ms", "", loads())
    finally:
        bed.__exit__(*sys.exc_info())

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
