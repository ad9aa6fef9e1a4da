#!/usr/bin/env python3
"""Uses the transactions of redis-py as applications do: default pipelines, WATCH, and errors in between.

usage: redis_py_transactions.py PORT [PORT...]     the ports of one product on several nodes

The exit code is 0 only if each transaction is executed once, or not at all. Needs redis from PyPI.
"""

import sys
import threading

import redis

INCREMENTS = 50


def increment(port, key):
    """Increments a counter with WATCH; `transaction` repeats it while others are faster."""
    client = redis.Redis(port=port, decode_responses=True, socket_timeout=10)

    def body(pipe):
        value = int(pipe.get(key) or 0)
        pipe.multi()
        pipe.set(key, value + 1)

    for _ in range(INCREMENTS):
        client.transaction(body, key)


def exercise(port, protocol):
    client = redis.Redis(port=port, decode_responses=True, socket_timeout=10, protocol=protocol)
    client.delete("py:counter", "{py}a", "{py}b")
    pipe = client.pipeline()
    pipe.set("{py}a", 1).incr("{py}a").hset("{py}b", mapping={"f": "v"}).hgetall("{py}b")
    assert pipe.execute() == [True, 2, 1, {"f": "v"}]
    # An error inside of a transaction concerns only its command.
    pipe.lpush("{py}a", "x").incr("{py}a")
    results = pipe.execute(raise_on_error=False)
    assert isinstance(results[0], redis.exceptions.ResponseError) and results[1] == 3, results
    # A command that is refused when it is queued aborts all.
    pipe.incr("{py}a").incr("elsewhere{1}")
    try:
        pipe.execute()
        raise AssertionError("two slots in one transaction")
    except redis.exceptions.ResponseError as error:
        assert "same slot" in str(error), error
    assert client.get("{py}a") == "3"
    with client.pipeline() as pipe:
        pipe.watch("{py}a")
        client.incr("{py}a")
        pipe.multi()
        pipe.set("{py}a", 100)
        try:
            pipe.execute()
            raise AssertionError("a changed key was not noticed")
        except redis.WatchError:
            pass
    assert client.get("{py}a") == "4"


ports = [int(port) for port in sys.argv[1:]]
for port in ports:
    for protocol in (2, 3):
        exercise(port, protocol)
threads = [threading.Thread(target=increment, args=(port, "py:counter")) for port in ports]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
value = redis.Redis(port=ports[0], decode_responses=True).get("py:counter")
assert value == str(INCREMENTS * len(ports)), value
print(f"{len(ports)} nodes")
