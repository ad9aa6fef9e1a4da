#!/usr/bin/env python3
"""What min-acks and reads at replicas cost: three release nodes, two groups of primary and replica, stock redis-servers.

Parts (--only acks,reads):
  acks   writes with min-acks 0 and 1: at a fixed rate, and as many as come back
  reads  GETs with read-from primary and prefer-replica: at a fixed rate, as many as come back, and so in pipelines
Off and on alternate (off, on, off, on, ...), so that drift hits both alike. Each figure is the median of the rounds; a ratio is the median of
the ratios on:off of the rounds, because the two of a round were measured one after the other. CPU is user and system time of the three nodes
by the requests answered, what they do at rest included; only it means something on a machine that does other things, too. Whether a setting
was on is read off the servers: WAITs, GETs at the replicas. The load comes from examples/load.rs. KEEP=1 keeps the nodes' logs.
"""
import argparse, os, signal, sys, time

from bed import LOAD, PONTOON, Bed, Conn, loads, med, row, until

KEYS = 10_000

class Setting:
    """Something of the product that is off or on, and how the servers tell which."""
    def __init__(self, name, off, on, command, servers, probe):
        self.name, self.values, self.command, self.servers, self.probe = name, (off, on), command, servers, probe
    def calls(self):
        return sum(s.conn.calls(self.command) for s in self.servers)
    def set(self, cluster, on):
        cluster.run("product", "set", "default", f"{self.name}={self.values[on]}")
        nodes = [Conn(int(node.rsplit(":")[-1])) for node in cluster.nodes]
        def seen():
            before = self.calls()
            try:
                for node in nodes:
                    node.ask(*self.probe)
            except RuntimeError:
                # A busy machine: a node without its lease for a moment, a replica that is late.
                return False
            return self.calls() - before == (len(nodes) if on else 0)
        until(f"every node to have {self.name}={self.values[on]}", seen, every=0.1)

def measure(a, bed, cluster, setting, on, **load):
    """Figures of one window."""
    clients = bed.load(cluster, clients=a.clients, keys=KEYS, size=a.size, **load)
    try:
        time.sleep(a.settle)
        clients.mark()
        nodes, servers, calls, began = cluster.cpu(), [s.cpu() for s in bed.servers], setting.calls(), time.time()
        time.sleep(a.window)
        seen, took = clients.mark()["clients"], time.time() - began
        nodes, calls = cluster.cpu() - nodes, setting.calls() - calls
        servers = [s.cpu() - before for s, before in zip(bed.servers, servers)]
    finally:
        bed.loads.remove(clients)
        clients.stop()
    count = seen["requests"]
    if not count:
        raise RuntimeError(f"no answer, {seen['errors']} errors: {seen['first_error']}")
    if (calls > 0) != on:
        raise RuntimeError(f"{setting.name} is to be {'on' if on else 'off'}, and the servers were asked {calls} {setting.command.upper()}")
    us = 1e6 / count
    return dict(rate=count / took, cpu=nodes * us, servers=sum(servers) * us, p50=seen["p50"], p99=seen["p99"], calls=calls / count,
                errors=seen["errors"], error=seen["first_error"])

def compare(a, bed, cluster, setting, loads_of):
    """By name of the load: figures of all rounds, off and on."""
    found = {name: ([], []) for name in loads_of}
    for _ in range(a.rounds):
        for on in (False, True):
            setting.set(cluster, on)
            for name, load in loads_of.items():
                found[name][on].append(measure(a, bed, cluster, setting, on, **load))
    setting.set(cluster, False)
    return found

def tell(found, what):
    off, on = found
    def both(name, key, unit, digits=1):
        figures = [med([f[key] for f in side]) for side in (off, on)]
        ratio = med([second[key] / first[key] for first, second in zip(off, on) if first[key]] or [0])
        row(name, f"{figures[0]:,.{digits}f}; {figures[1]:,.{digits}f} {unit}", f"x {ratio:.2f}")
    both(f"{what}: CPU of the nodes for one", "cpu", "us")
    both(f"{what}: CPU of the servers for one", "servers", "us")
    both(f"{what}: p50", "p50", "ms", 2)
    both(f"{what}: p99", "p99", "ms", 2)
    both(f"{what}: done in a second", "rate", "", 0)
    errors = [f["error"] for f in off + on if f["errors"]]
    if errors:
        row(f"{what}: errors", f"{sum(f['errors'] for f in off)}; {sum(f['errors'] for f in on)}", "0", errors[0].strip())

def rest(a, cluster):
    before = cluster.cpu()
    time.sleep(a.window)
    row("CPU of the three nodes at rest, included in all below", f"{(cluster.cpu() - before) / a.window * 1000:.0f} ms/s")

def acks(a, bed, groups, cluster):
    setting = Setting("min-acks", 0, 1, "wait", [primary for primary, _ in groups], ("SET", "probe", 1))
    print(f"\nWrites of {a.size} bytes, min-acks 0; 1, {a.clients} clients, {a.rounds} rounds ({loads()})")
    rest(a, cluster)
    fixed, most = f"{a.rate:,.0f} writes/s", "as many as come back"
    found = compare(a, bed, cluster, setting, {fixed: dict(rate=a.rate, sets=100), most: dict(rate=0, sets=100)})
    for name in (fixed, most):
        tell(found[name], name)
        row(f"{name}: writes confirmed by one WAIT", f"{med([1 / f['calls'] for f in found[name][1]]):.1f}", "", loads())

def reads(a, bed, groups, cluster):
    setting = Setting("read-from", "primary", "prefer-replica", "get", [replica for _, replica in groups], ("GET", "probe"))
    Conn(int(cluster.nodes[0].rsplit(":")[-1])).fill(("SET", f"key:{i:012}", "x" * a.size) for i in range(KEYS))
    print(f"\nGETs of {a.size} bytes, read-from primary; prefer-replica, {a.clients} clients, {a.rounds} rounds ({loads()})")
    rest(a, cluster)
    fixed, most, piped = f"{a.rate:,.0f} GETs/s", "as many as come back", f"in pipelines of {a.pipeline}"
    wanted = {fixed: dict(rate=a.rate, sets=0), most: dict(rate=0, sets=0), piped: dict(rate=0, sets=0, pipeline=a.pipeline)}
    found = compare(a, bed, cluster, setting, wanted)
    for name in wanted:
        tell(found[name], name)
        row(f"{name}: share answered by replicas", f"{med([f['calls'] for f in found[name][1]]) * 100:.1f} %", "", loads())

PARTS = dict(acks=acks, reads=reads)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", default=",".join(PARTS))
    ap.add_argument("--base", type=int, default=25300, help="first of thirty ports")
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--clients", type=int, default=48)
    ap.add_argument("--rate", type=float, default=5_000, help="requests per second where it is fixed")
    ap.add_argument("--size", type=int, default=100, help="bytes of a value")
    ap.add_argument("--pipeline", type=int, default=16)
    ap.add_argument("--window", type=float, default=5, help="seconds of a measurement")
    ap.add_argument("--settle", type=float, default=0.5, help="seconds of load before it")
    a = ap.parse_args()
    for binary in (PONTOON, LOAD):
        if not os.path.exists(binary):
            sys.exit(f"{binary} is missing; `make bench-acks` builds it")
    with Bed(a.base) as bed:
        one, two = bed.redis(), bed.redis()
        groups = [(one, bed.redis(one)), (two, bed.redis(two))]
        cluster = bed.cluster(groups, [("0-511", 1), ("512-1023", 2)])
        for part in a.only.split(","):
            PARTS[part](a, bed, groups, cluster)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
