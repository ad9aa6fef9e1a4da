#!/usr/bin/env python3
"""Measures what a transaction costs a node: ten SETs of one slot in MULTI and EXEC, sent as one pipeline, and the same ten alone.

Three release nodes, two groups of one redis-server; the load goes to node 1. Both forms alternate in every round, so that drift affects
both equally. The figure is the user and system time of node 1 per ten SETs, less what the idle node takes, from /proc/PID/stat; the ratio
is the median of those of the rounds. The goal is at most 1.3.
"""
import argparse, statistics, time

from fixture import Conn, Fixture, cpu, row

CLIENTS = 8

def batch(client, transaction):
    """Returns the bytes of ten SETs, and the number of their replies."""
    sets = [Conn.pack(["SET", "{c%d}k%d" % (client, n), "v" * 64]) for n in range(10)]
    if transaction:
        return Conn.pack(["MULTI"]) + b"".join(sets) + Conn.pack(["EXEC"]), 12
    return b"".join(sets), 10

def measure(pid, conns, transaction, count, depth):
    """Sends `count` tens of SETs, `depth` of them in one write of each client. Returns the CPU and the elapsed seconds."""
    requests = [batch(i, transaction) for i in range(len(conns))]
    began, at = cpu(pid), time.time()
    for _ in range(count // (len(conns) * depth)):
        for conn, (bytes, _) in zip(conns, requests):
            conn.sock.sendall(bytes * depth)
        for conn, (_, replies) in zip(conns, requests):
            for _ in range(replies * depth):
                conn.reply()
    return cpu(pid) - began, time.time() - at

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=int, default=24100, help="first port")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=100_000, help="tens of SETs in each measurement")
    a = parser.parse_args()
    with Fixture(a.base) as fixture:
        groups = [[fixture.redis()], [fixture.redis()]]
        cluster = fixture.cluster(groups, [("0-511", 1), ("512-1023", 2)])
        pid, port = cluster.processes[0].pid, int(cluster.nodes[0].rsplit(":")[-1])
        conns = [Conn(port) for _ in range(CLIENTS)]
        measure(pid, conns, True, a.count // 10, 1)
        began, at = cpu(pid), time.time()
        time.sleep(2)
        idle = (cpu(pid) - began) / (time.time() - at)
        for depth in (1, 16):
            found = {False: [], True: []}
            for n in range(a.rounds):
                for transaction in ((False, True), (True, False))[n % 2]:
                    used, took = measure(pid, conns, transaction, a.count, depth)
                    found[transaction].append((used - idle * took) * 1e6 / a.count)
            ratios = [with_multi / alone for alone, with_multi in zip(found[False], found[True])]
            alone, with_multi = (statistics.median(found[key]) for key in (False, True))
            row(f"ten SETs, {depth} times in a pipeline: CPU of the node; alone; in MULTI",
                f"{alone:.1f}; {with_multi:.1f} us", f"x {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")

if __name__ == "__main__":
    main()
