#!/usr/bin/env python3
"""Measures SCAN over all groups: three release nodes, three groups of one redis-server, a million keys.

One client scans the whole keyspace with COUNT 1000, through node 1 and then at each of the servers directly, one after the other; both
alternate in every round. The ratio is that of the elapsed times, the median of the rounds. The goal is at most 1.5. Shown is also the CPU
time of the servers for both, and that of the node.
"""
import argparse, statistics, time

from fixture import Conn, Fixture, cpu, loads, row

GROUPS = 3

def scan(conn, count):
    """Scans all keys. Returns their number and that of the calls."""
    cursor, keys, calls = b"0", 0, 0
    while True:
        cursor, page = conn.ask("SCAN", cursor, "COUNT", count)
        keys, calls = keys + len(page), calls + 1
        if cursor == b"0":
            return keys, calls

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=int, default=24300, help="first port")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    a = parser.parse_args()
    print(f"# {loads()}")
    with Fixture(a.base) as fixture:
        servers = [fixture.redis() for _ in range(GROUPS)]
        ends = [1024 * n // GROUPS for n in range(GROUPS + 1)]
        spans = [(f"{ends[n]}-{ends[n + 1] - 1}", n + 1) for n in range(GROUPS)]
        cluster = fixture.cluster([[s] for s in servers], spans)
        node = cluster.processes[0].pid
        conn = Conn(int(cluster.nodes[0].rsplit(":")[-1]))
        conn.fill(("SET", f"key:{n}", "v" * 16) for n in range(a.keys))
        pids = [int(s.conn.info("server")["process_id"]) for s in servers]
        of_servers = lambda: sum(cpu(pid) for pid in pids)
        found = {"node": [], "direct": []}
        used = {"node": [], "direct": [], "self": []}
        for n in range(a.rounds):
            for way in (("node", "direct"), ("direct", "node"))[n % 2]:
                before, self_before, began = of_servers(), cpu(node), time.perf_counter()
                if way == "node":
                    keys, calls = scan(conn, a.count)
                else:
                    keys = sum(scan(s.conn, a.count)[0] for s in servers)
                found[way].append(time.perf_counter() - began)
                used[way].append(of_servers() - before)
                if way == "node":
                    used["self"].append(cpu(node) - self_before)
                if keys < a.keys:
                    raise RuntimeError(f"{way}: {keys} of {a.keys} keys")
        ratios = [node / direct for node, direct in zip(found["node"], found["direct"])]
        median = lambda values: statistics.median(values)
        row("at the servers, one after the other", f"{median(found['direct']) * 1000:.0f} ms", "",
            f"CPU of the servers {median(used['direct']) * 1000:.0f} ms")
        row("through a node", f"{median(found['node']) * 1000:.0f} ms", "",
            f"{calls} calls; CPU of the servers {median(used['node']) * 1000:.0f} ms, of the node {median(used['self']) * 1000:.0f} ms")
        row("ratio", f"{median(ratios):.2f}", "< 1.5", f"{min(ratios):.2f} to {max(ratios):.2f} of {a.rounds} rounds")
    print(f"# {loads()}")

if __name__ == "__main__":
    main()
