#!/usr/bin/env python3
"""Uses the default pipelines of redis-py, which are transactions, and repeats them as an application does.

usage: redis_py_transactions.py PORT [PORT...]     the ports of one product on several nodes

The exit code is 0 only if each is refused and none is executed. Needs redis from PyPI.
"""

import sys

import redis


def refused(action):
    try:
        action()
    except redis.exceptions.ResponseError as error:
        assert "not executed" in str(error) or "EXECABORT" in str(error), error
        return
    raise AssertionError("a transaction was not refused")


def exercise(port):
    client = redis.Redis(port=port, decode_responses=True, socket_timeout=10)
    for _ in range(3):
        pipe = client.pipeline()
        pipe.incr("py:counter")
        pipe.incr("py:counter")
        refused(pipe.execute)
    refused(lambda: client.transaction(lambda pipe: pipe.incr("py:counter"), "py:watched"))
    assert client.get("py:counter") is None
    # The connection is in order again.
    assert client.ping()


for port in sys.argv[1:]:
    exercise(int(port))
print(f"{len(sys.argv) - 1} nodes refused all transactions")
