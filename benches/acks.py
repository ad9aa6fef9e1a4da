#!/usr/bin/env python3
"""Measures the cost of min-acks and of reads at replicas: three release nodes, two groups of primary and replica, redis-servers with
default settings.

Parts (--only acks,reads):
  acks   writes with min-acks 0 and 1: at a fixed rate, and at the maximum rate
  reads  GETs with read-from primary and prefer-replica: at a fixed rate, at the maximum rate, and at the maximum rate in pipelines
Off and on alternate (off, on, off, on, ...), so that drift affects both equally. Each figure is the median of the rounds. A ratio is the
median of the ratios on:off of the rounds, because the two measurements of a round follow each other. CPU is the user and system time of
the three nodes divided by the number of answered requests, which includes the CPU of idle nodes. On a machine with other load, only the
CPU figures are meaningful. The benchmark checks at the servers whether a setting was on: by the number of WAITs, or of GETs at the
replicas. The load comes from examples/load.rs. KEEP=1 keeps the nodes' logs.
"""
import argparse, os, signal, sys, time

from fixture import LOAD, PONTOON, Fixture, Conn, loads, med, row, until

KEYS = 10_000

class Setting:
    """A product setting that is off or on, and the command whose count at the servers shows whether it is on."""
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
                # On a busy machine, a node may have no lease for a moment, and a replica may be late.
                return False
            return self.calls() - before == (len(nodes) if on else 0)
        until(f"every node to have {self.name}={self.values[on]}", seen, every=0.1)

def measure(a, fixture, cluster, setting, on, **load):
    """Returns the figures of one measurement."""
    clients = fixture.load(cluster, clients=a.clients, keys=KEYS, size=a.size, **load)
    try:
        time.sleep(a.settle)
        clients.mark()
        nodes, servers, calls, began = cluster.cpu(), [s.cpu() for s in fixture.servers], setting.calls(), time.time()
        time.sleep(a.window)
        seen, took = clients.mark()["clients"], time.time() - began
        nodes, calls = cluster.cpu() - nodes, setting.calls() - calls
        servers = [s.cpu() - before for s, before in zip(fixture.servers, servers)]
    finally:
        fixture.loads.remove(clients)
        clients.stop()
    count = seen["requests"]
    if not count:
        raise RuntimeError(f"no reply, {seen['errors']} errors: {seen['first_error']}")
    if (calls > 0) != on:
        raise RuntimeError(f"{setting.name} should be {'on' if on else 'off'}, but the servers executed {calls} {setting.command.upper()}")
    us = 1e6 / count
    return dict(rate=count / took, cpu=nodes * us, servers=sum(servers) * us, p50=seen["p50"], p99=seen["p99"], calls=calls / count,
                errors=seen["errors"], error=seen["first_error"])

def compare(a, fixture, cluster, setting, loads_of):
    """Returns the figures of all rounds, off and on, by the name of the load."""
    found = {name: ([], []) for name in loads_of}
    for _ in range(a.rounds):
        for on in (False, True):
            setting.set(cluster, on)
            for name, load in loads_of.items():
                found[name][on].append(measure(a, fixture, cluster, setting, on, **load))
    setting.set(cluster, False)
    return found

def print_figures(found, what):
    off, on = found
    def both(name, key, unit, digits=1):
        figures = [med([f[key] for f in side]) for side in (off, on)]
        ratio = med([second[key] / first[key] for first, second in zip(off, on) if first[key]] or [0])
        row(name, f"{figures[0]:,.{digits}f}; {figures[1]:,.{digits}f} {unit}", f"x {ratio:.2f}")
    both(f"{what}: CPU of the nodes per request", "cpu", "us")
    both(f"{what}: CPU of the servers per request", "servers", "us")
    both(f"{what}: p50", "p50", "ms", 2)
    both(f"{what}: p99", "p99", "ms", 2)
    both(f"{what}: requests per second", "rate", "", 0)
    errors = [f["error"] for f in off + on if f["errors"]]
    if errors:
        row(f"{what}: errors", f"{sum(f['errors'] for f in off)}; {sum(f['errors'] for f in on)}", "0", errors[0].strip())

def idle(a, cluster):
    before = cluster.cpu()
    time.sleep(a.window)
    row("CPU of the three idle nodes, included in all figures below", f"{(cluster.cpu() - before) / a.window * 1000:.0f} ms/s")

def acks(a, fixture, groups, cluster):
    setting = Setting("min-acks", 0, 1, "wait", [primary for primary, _ in groups], ("SET", "probe", 1))
    print(f"\nWrites of {a.size} bytes, min-acks 0; 1, {a.clients} clients, {a.rounds} rounds ({loads()})")
    idle(a, cluster)
    fixed, most = f"{a.rate:,.0f} writes/s", "maximum rate"
    found = compare(a, fixture, cluster, setting, {fixed: dict(rate=a.rate, sets=100), most: dict(rate=0, sets=100)})
    for name in (fixed, most):
        print_figures(found[name], name)
        row(f"{name}: writes confirmed by one WAIT", f"{med([1 / f['calls'] for f in found[name][1]]):.1f}", "", loads())

def reads(a, fixture, groups, cluster):
    setting = Setting("read-from", "primary", "prefer-replica", "get", [replica for _, replica in groups], ("GET", "probe"))
    Conn(int(cluster.nodes[0].rsplit(":")[-1])).fill(("SET", f"key:{i:012}", "x" * a.size) for i in range(KEYS))
    print(f"\nGETs of {a.size} bytes, read-from primary; prefer-replica, {a.clients} clients, {a.rounds} rounds ({loads()})")
    idle(a, cluster)
    fixed, most, piped = f"{a.rate:,.0f} GETs/s", "maximum rate", f"in pipelines of {a.pipeline}"
    wanted = {fixed: dict(rate=a.rate, sets=0), most: dict(rate=0, sets=0), piped: dict(rate=0, sets=0, pipeline=a.pipeline)}
    found = compare(a, fixture, cluster, setting, wanted)
    for name in wanted:
        print_figures(found[name], name)
        row(f"{name}: share answered by replicas", f"{med([f['calls'] for f in found[name][1]]) * 100:.1f} %", "", loads())

PARTS = dict(acks=acks, reads=reads)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", default=",".join(PARTS))
    ap.add_argument("--base", type=int, default=25300, help="first of thirty ports")
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--clients", type=int, default=48)
    ap.add_argument("--rate", type=float, default=5_000, help="the fixed rate, in requests per second")
    ap.add_argument("--size", type=int, default=100, help="bytes of a value")
    ap.add_argument("--pipeline", type=int, default=16)
    ap.add_argument("--window", type=float, default=5, help="seconds of a measurement")
    ap.add_argument("--settle", type=float, default=0.5, help="seconds of load before a measurement")
    a = ap.parse_args()
    for binary in (PONTOON, LOAD):
        if not os.path.exists(binary):
            sys.exit(f"{binary} is missing; `make bench-acks` builds it")
    with Fixture(a.base) as fixture:
        one, two = fixture.redis(), fixture.redis()
        groups = [(one, fixture.redis(one)), (two, fixture.redis(two))]
        cluster = fixture.cluster(groups, [("0-511", 1), ("512-1023", 2)])
        for part in a.only.split(","):
            PARTS[part](a, fixture, groups, cluster)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
