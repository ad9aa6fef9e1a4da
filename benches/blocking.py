#!/usr/bin/env python3
"""Measures blocked clients: three release nodes, two groups without replicas, redis-servers with default settings.

Many clients wait in BLPOP at one node, spread over some queues. Measured are
  - the memory of the node with these clients, and its CPU time while nothing happens
  - pops: elements are pushed through the same node at a fixed rate; each element carries the time at which it was pushed, and the
    client that gets it waits again at once. The latency counts from before the push to after the read of the pop's reply, so it
    includes the delays of this program, which handles all clients in one thread
  - the same at a redis-server itself (--direct adds it)
  - holds: slots move to and fro while all clients wait; the time until all of them wait at the new owner
KEEP=1 keeps the nodes' logs.
"""
import argparse, resource, selectors, socket, time

from fixture import Conn, Fixture, at, cpu, loads, row, until

def blocked(servers):
    return sum(int(s.conn.info("clients")["blocked_clients"]) for s in servers)

def rss(pid):
    """Returns the resident memory of a process in MB."""
    return next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")) / 1024

class Clients:
    """Clients that wait at queues, handled by one thread."""
    def __init__(self, port, count, queues):
        self.selector, self.latencies, self.taken = selectors.DefaultSelector(), [], 0
        self.ask = [Conn.pack(["BLPOP", queue, "0"]) for queue in queues]
        self.socks = []
        for n in range(count):
            sock = socket.create_connection(("127.0.0.1", port), 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(self.ask[n % len(queues)])
            sock.setblocking(False)
            self.selector.register(sock, selectors.EVENT_READ, self.ask[n % len(queues)])
            self.socks.append(sock)
    def serve(self, timeout):
        for key, _ in self.selector.select(timeout):
            reply = key.fileobj.recv(4096)
            if not reply.startswith(b"*2\r\n"):
                raise RuntimeError(f"a pop was answered {reply!r}")
            self.latencies.append(time.perf_counter() - float(reply.split(b"\r\n")[4]))
            self.taken += 1
            key.fileobj.sendall(key.data)
    def close(self):
        for sock in self.socks:
            sock.close()

def pops(clients, port, queues, rate, seconds):
    """Pushes at a fixed rate. Returns the latencies in ms."""
    push = socket.create_connection(("127.0.0.1", port), 10)
    push.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    push.setblocking(False)
    clients.latencies, clients.taken = [], 0
    began, pushed = time.perf_counter(), 0
    while True:
        now = time.perf_counter()
        due = min(int((now - began) * rate), rate * seconds)
        while pushed < due:
            push.send(Conn.pack(["RPUSH", queues[pushed % len(queues)], repr(time.perf_counter())]))
            pushed += 1
        try:
            push.recv(65536)
        except BlockingIOError:
            pass
        if pushed == rate * seconds and (clients.taken == pushed or now > began + seconds + 10):
            break
        clients.serve(0.0005)
    push.close()
    if clients.taken != pushed:
        raise RuntimeError(f"{pushed} elements were pushed, {clients.taken} were taken")
    return [latency * 1000 for latency in clients.latencies]

def show(what, latencies, goal=""):
    figures = " ".join(f"{at(latencies, part):.2f}" for part in (0.5, 0.99, 1.0))
    row(what, figures + " ms", goal, f"{len(latencies)} pops; p50, p99, longest")

def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--clients", type=int, default=5000)
    parse.add_argument("--queues", type=int, default=400)
    parse.add_argument("--rate", type=int, default=1000, help="pops per second")
    parse.add_argument("--seconds", type=int, default=10)
    parse.add_argument("--moves", type=int, default=3)
    parse.add_argument("--direct", action="store_true", help="also at a redis-server itself")
    parse.add_argument("--base", type=int, default=21300)
    a = parse.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"# {loads()}")
    queues = [f"queue{n}" for n in range(a.queues)]
    with Fixture(a.base) as fixture:
        servers = [fixture.redis(), fixture.redis()]
        cluster = fixture.cluster([[s] for s in servers], [("0-511", 1), ("512-1023", 2)])
        port, node = int(cluster.nodes[0].rsplit(":")[-1]), cluster.processes[0].pid
        Conn(port).ask("SET", "warm", "up")
        row("memory of the node without clients", f"{rss(node):.1f} MB")
        clients = Clients(port, a.clients, queues)
        until("all clients to wait", lambda: blocked(servers) == a.clients)
        row(f"memory of the node with {a.clients} blocked clients", f"{rss(node):.1f} MB", "< 200 MB")
        before, began = cpu(node), time.time()
        time.sleep(a.seconds)
        row("CPU of the node while they wait", f"{(cpu(node) - before) / (time.time() - began) * 100:.1f} %")
        before = cpu(node)
        show(f"{a.rate} pops a second", pops(clients, port, queues, a.rate, a.seconds), "p99 < 10 ms")
        row("CPU of the node for each pop", f"{(cpu(node) - before) / (a.rate * a.seconds) * 1e6:.0f} us")
        row("memory of the node afterwards", f"{rss(node):.1f} MB", "< 200 MB")
        for n in range(a.moves):
            spans, to = ("0-511", 2 - n % 2) if n % 2 == 0 else ("0-511", 1)
            began = time.time()
            cluster.run("migrate", "start", spans, "--to", str(to), "--wait")
            moved = time.time()
            left = (servers[0],) if to == 2 else ()
            until("all clients to wait again", lambda: blocked(servers) == a.clients and (not left or blocked(left) == 0))
            row(f"half of the slots move, migration {n + 1}", f"{(moved - began) * 1000:.0f} ms", "",
                f"all clients wait again {(time.time() - moved) * 1000:.0f} ms later")
        clients.close()
        until("all clients to be gone", lambda: blocked(servers) == 0)
        if a.direct:
            direct = fixture.redis()
            clients = Clients(direct.port, a.clients, queues)
            until("all clients to wait", lambda: blocked([direct]) == a.clients)
            show("the same at a redis-server itself", pops(clients, direct.port, queues, a.rate, a.seconds))
            clients.close()
    print(f"# {loads()}")

if __name__ == "__main__":
    main()
