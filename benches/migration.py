#!/usr/bin/env python3
"""Measures migrations with the whole product: three release nodes, redis-servers with default settings, migrations started by the command
line.

Parts (--only speed,load,switches,bighash):
  speed     keys/s of string keys of 100 B and MB/s of 1 KB values without other load, and passes of SCAN; compared with MIGRATE KEYS of 100
  load      paced GET/SET of slots that stay, at half of the maximum rate: p99, errors, and the source primary's CPU per request, with
            and without a copy of half of the slots; interleaved, so that noise of the machine affects both equally
  switches  single slots move between two groups under load: each hold according to the leader's log and to a writer of that slot
  bighash   PINGs of both servers every 0.2 ms while a hash of a million fields moves, also while it is written; compared with MIGRATE
The load comes from examples/load.rs. KEEP=1 keeps the nodes' logs. The figures depend on the machine and its other load: the load average
is printed beside them.
"""
import argparse, collections, json, os, random, signal, sys, time

from fixture import LOAD, PONTOON, Fixture, at, loads, med, row, slot

SCAN_COUNT = 500
MIGRATE_KEYS = 100
CLIENTS = 48

def values(keys, size, only=lambda key: True):
    """Yields SETs with random values, so that compression does not improve the figures."""
    noise = random.Random(1).randbytes(1 << 20)
    for i in range(keys):
        key = b"key:%012d" % i
        if only(key):
            at = i * 7919 % ((1 << 20) - size)
            yield (b"SET", key, noise[at:at + size])

def by_keys(source, target, only=lambda key: True, stop=lambda: False):
    """Moves keys with MIGRATE of 100 keys at a time, and returns their number."""
    cursor, moved, batch = b"0", 0, []
    while not stop():
        cursor, keys = source.conn.ask("SCAN", cursor, "COUNT", SCAN_COUNT)
        batch += [k for k in keys if only(k)]
        while len(batch) >= MIGRATE_KEYS or (cursor == b"0" and batch):
            part, batch = batch[:MIGRATE_KEYS], batch[MIGRATE_KEYS:]
            source.conn.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *part)
            moved += len(part)
        if cursor == b"0":
            break
    return moved

def speed(a):
    print(f"\nNo load ({loads()})")
    for keys, size in ((a.keys, 100), (a.keys // 5, 1000)):
        rates, opened, holds, scans, theirs = [], [], [], [], []
        for _ in range(a.rounds):
            with Fixture(a.base) as fixture:
                one, two = fixture.redis(), fixture.redis()
                cluster = fixture.cluster([[one], [two]], [("0-1023", 1)])
                one.conn.fill(values(keys, size))
                scans_before, began = one.conn.scans(), time.time()
                cluster.start("0-1023", 2)
                copying, _ = cluster.message("Copying")
                caught_up, _ = cluster.message("CaughtUp")
                scans.append((one.conn.scans() - scans_before) * SCAN_COUNT / keys)
                _, hold = cluster.message("the hold and its parts")
                rates.append(keys / (caught_up - copying))
                opened.append((copying - began) * 1000)
                holds.append(hold["total_ms"])
                got = two.conn.ask("DBSIZE")
                if got != keys:
                    raise RuntimeError(f"{got} of {keys} keys are at the target")
            with Fixture(a.base) as fixture:
                one, two = fixture.redis(), fixture.redis()
                one.conn.fill(values(keys, size))
                began = time.time()
                theirs.append(by_keys(one, two) / (time.time() - began))
        if size == 100:
            row(f"{keys} keys of 100 B, Copying to CaughtUp", f"{med(rates):,.0f} keys/s", ">= 200,000", f"of {[round(r) for r in rates]}")
        else:
            row(f"{keys} values of 1 KB", f"{med(rates) * size / 1e6:.0f} MB/s", ">= 70", f"of {[round(r * size / 1e6) for r in rates]}")
        row("  the command until copying; the hold, source's slots all", f"{med(opened):.0f} ms; {med(holds):.1f} ms")
        row("  passes of SCAN (calls x COUNT / keys)", f"{med(scans):.2f}", "1")
        figure = f"{med(theirs):,.0f} keys/s" if size == 100 else f"{med(theirs) * size / 1e6:.0f} MB/s"
        row("  MIGRATE KEYS of 100 (one client, zero round trip)", figure, "", f"of {[round(r) for r in theirs]} keys/s")

def most(fixture, cluster, keys, slots):
    """Returns the maximum rate: each client sends its next request when the previous one is answered."""
    load = fixture.load(cluster, clients=CLIENTS, keys=keys, slots=slots)
    time.sleep(1)
    load.mark()
    time.sleep(3)
    rate = load.mark()["clients"]["requests"] / 3
    load.stop()
    return rate

def load(a):
    keys, half = a.keys, lambda key: slot(key) >= 512
    with Fixture(a.base) as fixture:
        one = fixture.redis()
        one.conn.fill(values(keys, 100))
        replica, two = fixture.redis(one), fixture.redis()
        cluster = fixture.cluster([[one, replica], [two]], [("0-1023", 1)])
        rate = a.rate or most(fixture, cluster, keys, "0-511") / 2
        print(f"\nUnder load: {rate:,.0f} requests/s of slots 0-511, 20 % SET of 100 B, {CLIENTS} clients, {keys} keys; slots 512-1023 are copied ({loads()})")
        clients = fixture.load(cluster, clients=CLIENTS, keys=keys, slots="0-511", rate=rate)
        errors, seen = [], collections.defaultdict(list)
        def window(name, run):
            clients.mark()
            cpu, began = one.cpu(), time.time()
            copied = run()
            took, cpu, m = time.time() - began, one.cpu() - cpu, clients.mark()["clients"]
            if m["errors"]:
                errors.append((name, m["errors"], m["first_error"]))
            seen[name].append(dict(cpu=cpu / m["requests"] * 1e6, p50=m["p50"], p99=m["p99"], p999=m["p999"], max=m["max"],
                                   rate=m["requests"] / took, copied=copied / took))
        def still():
            time.sleep(a.window)
            return 0
        def copying(id):
            began, before = time.time(), cluster.show(id)["keys_copied"]
            while time.time() - began < a.window:
                time.sleep(0.1)
                now = cluster.show(id)
                if now["state"] != "copying" or now["keys_copied"] > keys * 0.35:
                    break
            return cluster.show(id)["keys_copied"] - before
        def move(name):
            cluster.start("512-1023", 2)
            cluster.message("Copying")
            id = max(m["id"] for m in cluster.migrations())
            window(name, lambda: copying(id))
            cluster.run("migrate", "cancel", str(id), check=False)
            cluster.done()
            if cluster.show(id)["state"] != "cancelled":
                raise RuntimeError("the copy ended before it could be cancelled; more keys are needed")
        time.sleep(1)
        for _ in range(a.rounds * 2 + 1):
            window("nothing moves", still)
            move("a replica feeds")
        cluster.run("group", "remove-server", "1", replica.addr)
        replica.conn.ask("REPLICAOF", "NO", "ONE")
        for _ in range(a.rounds):
            window("nothing moves, no replica", still)
            move("the primary feeds")
        def ours():
            end = time.time() + a.window
            return by_keys(one, two, half, lambda: time.time() > end)
        for _ in range(a.rounds):
            window("MIGRATE KEYS of 100", ours)
        for name, rows in seen.items():
            m = {k: med([r[k] for r in rows]) for k in rows[0]}
            row(name, f"{m['cpu']:.2f} us/request", "", f"p50 {m['p50']:.2f} p99 {m['p99']:.2f} p99.9 {m['p999']:.2f} max {m['max']:.1f} ms; "
                f"{m['rate']:,.0f} requests/s; {m['copied']:,.0f} keys/s moved; {len(rows)} windows")
        pairs = list(zip(seen["nothing moves"], seen["a replica feeds"]))
        row("primary's CPU per request, a replica feeds", f"{(med([b['cpu'] / q['cpu'] for q, b in pairs]) - 1) * 100:+.1f} %", "<= +5 %",
            f"of {[round((b['cpu'] / q['cpu'] - 1) * 100, 1) for q, b in pairs]}")
        row("client errors", str(sum(n for _, n, _ in errors)), "0", str(errors[:3]) if errors else "")

def switches(a):
    keys = a.switch_keys
    with Fixture(a.base) as fixture:
        one, two = fixture.redis(), fixture.redis()
        cluster = fixture.cluster([[one], [two]], [("0-511", 1), ("512-1023", 2)])
        one.conn.fill(values(keys, 100, lambda k: slot(k) < 512))
        two.conn.fill(values(keys, 100, lambda k: slot(k) >= 512))
        rate = a.rate or most(fixture, cluster, keys, "0-1023") / 2
        print(f"\n{a.switches} switches of single slots under {rate:,.0f} requests/s of all slots, {keys} keys ({loads()})")
        clients = fixture.load(cluster, clients=CLIENTS, keys=keys, rate=rate)
        time.sleep(2)
        quiet = clients.mark()["clients"]
        key_of = {}
        for i in range(100000):
            key_of.setdefault(slot(b"w:%d" % i), f"w:{i}")
        # The first half of the switches moves slots, the second half moves them back. Both directions alternate.
        n = max(2, a.switches // 4)
        there = [x for i in range(n) for x in ((i, 2), (512 + i, 1))]
        back = [x for i in range(n) for x in ((i, 1), (512 + i, 2))]
        parts, gaps, errors, releases, began = collections.defaultdict(list), [], [], 0, time.time()
        end = began + a.switch_seconds
        for i, (s, to) in enumerate(there + back):
            if time.time() > end:
                break
            if i == len(there):
                # A slot can move back when its former source is clean.
                cluster.done()
            clients.say(f"watch {key_of[s]}")
            cluster.start(str(s), to)
            _, hold = cluster.message("the hold and its parts")
            time.sleep(0.02)
            seen = clients.say("unwatch")
            releases += sum("slots are released" in f["message"] for _, f in cluster.events)
            gaps.append(seen["gap"])
            errors += seen["errors"]
            for k, v in hold.items():
                if k.endswith("_ms"):
                    parts[k].append(v)
        busy = clients.mark()["clients"]
        cluster.done()
        total = parts.pop("total_ms")
        row(f"hold according to the leader's log, {len(total)} switches, p50", f"{at(total, .5):.1f} ms", "<= 15")
        row("  p99; longest", f"{at(total, .99):.1f} ms; {max(total):.1f} ms", "<= 50")
        for k, v in parts.items():
            row(f"  of it {k[:-3]}: p50; p99", f"{at(v, .5):.2f} ms; {at(v, .99):.1f} ms")
        row("longest gap of a writer of the slot: p50; p99; longest", f"{at(gaps, .5):.1f}; {at(gaps, .99):.1f}; {max(gaps):.1f} ms", "<= 15; 50")
        row("clients: p50; p99; p99.9; longest", f"{busy['p50']:.2f}; {busy['p99']:.2f}; {busy['p999']:.2f}; {busy['max']:.1f}", "",
            f"before: {quiet['p50']:.2f}; {quiet['p99']:.2f}; {quiet['p999']:.2f}; {quiet['max']:.1f} ms")
        row("client errors", str(busy["errors"] + len(errors)), "0", str((busy["first_error"], errors[:2])) if busy["errors"] or errors else "")
        row("holds released without a switch", str(releases), "", f"{len(total) / (time.time() - began):.1f} switches/s; {loads()}")
        if a.json:
            json.dump(dict(total=total, gaps=gaps, busy=busy, quiet=quiet, **parts), open(a.json, "w"))

def bighash(a):
    fields, key = a.fields, "big"
    print(f"\nA hash of {fields} fields ({loads()})")
    with Fixture(a.base) as fixture:
        one, two = fixture.redis(), fixture.redis()
        s = slot(key.encode())
        cluster = fixture.cluster([[one], [two]], [("0-1023", 1)])
        one.conn.fill(("HSET", key, f"field:{i:010}", f"value:{i:010}") for i in range(fields))
        for server in (one, two):
            server.conn.slowest()
        probes = dict(probe=f"{one.addr},{two.addr}")
        seen = collections.defaultdict(list)
        def measure(name, run, **more):
            load = fixture.load(cluster, **probes, **more)
            time.sleep(1)
            load.mark()
            [server.conn.slowest() for server in (one, two)]
            began = time.time()
            run()
            took, m = time.time() - began, load.mark()
            load.stop()
            slow = [server.conn.slowest() for server in (one, two)]
            seen[name].append((took, max(p["max"] for p in m["probes"].values()), max(p["p99"] for p in m["probes"].values()), max(slow), m["contended"]))
        def move(to):
            cluster.start(str(s), to)
            cluster.message("the hold and its parts")
        for i in range(a.rounds):
            measure("no copy", lambda: time.sleep(3))
            measure("it moves", lambda: move(2))
            cluster.done()
            measure("it moves while 1,000 of its fields are written per second", lambda: move(1), contended=f"{key}:{fields}:1000")
            cluster.done()
        measure("MIGRATE", lambda: one.conn.ask("MIGRATE", "127.0.0.1", two.port, key, 0, 60000, "REPLACE"))
        for name, rows in seen.items():
            writer = rows[0][4]
            row(name + ": longest stall of either server", f"{med([r[1] for r in rows]):.1f} ms", "" if name in ("no copy", "MIGRATE") else "<= 10",
                f"of {[round(r[1], 1) for r in rows]}; p99 {med([r[2] for r in rows]):.2f}; longest command {max(r[3] for r in rows)}; "
                f"{med([r[0] for r in rows]):.1f} s" + (f"; writer's max {writer['max']:.1f} ms, {writer['errors']} errors {writer['first_error']}" if writer["requests"] or writer["errors"] else ""))

PARTS = dict(speed=speed, load=load, switches=switches, bighash=bighash)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", default=",".join(PARTS))
    ap.add_argument("--base", type=int, default=25200, help="first of thirty ports")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--keys", type=int, default=1_000_000)
    ap.add_argument("--rate", type=float, default=0, help="requests per second; default: half of the maximum rate")
    ap.add_argument("--window", type=float, default=4, help="seconds of one measurement under load")
    ap.add_argument("--switches", type=int, default=500)
    ap.add_argument("--switch-keys", type=int, default=100_000)
    ap.add_argument("--switch-seconds", type=float, default=900, help="no further switch is started after this time")
    ap.add_argument("--fields", type=int, default=1_000_000)
    ap.add_argument("--json", help="write each switch's figures here")
    a = ap.parse_args()
    for binary in (PONTOON, LOAD):
        if not os.path.exists(binary):
            sys.exit(f"{binary} is missing; `make bench-migration` builds it")
    for part in a.only.split(","):
        PARTS[part](a)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
