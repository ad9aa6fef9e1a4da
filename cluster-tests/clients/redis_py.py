#!/usr/bin/env python3
"""Uses a node with redis-py as an application does.

usage: redis_py.py PORT [PORT...]     the ports of one product on several nodes

The exit code is 0 only if every reply is as expected. Needs redis from PyPI.
"""

import sys

import redis


def exercise(port, protocol, others):
    client = redis.Redis(port=port, protocol=protocol, decode_responses=True, socket_timeout=10)
    name = f"py:{port}:{protocol}"
    assert client.ping()
    assert client.set(f"{name}:s", "value", ex=100)
    assert 0 < client.ttl(f"{name}:s") <= 100
    for other in others:
        there = redis.Redis(port=other, protocol=protocol, decode_responses=True, socket_timeout=10)
        assert there.get(f"{name}:s") == "value", f"written at {port}, not seen at {other}"
    client.delete(f"{name}:h", f"{name}:l", f"{name}:z")
    client.hset(f"{name}:h", mapping={"a": "1", "b": "2"})
    assert client.hgetall(f"{name}:h") == {"a": "1", "b": "2"}
    client.rpush(f"{name}:l", *range(10))
    assert client.lrange(f"{name}:l", 0, -1) == [str(n) for n in range(10)]
    client.zadd(f"{name}:z", {"x": 1.5, "y": 2.5})
    assert client.zrange(f"{name}:z", 0, -1, withscores=True) in ([("x", 1.5), ("y", 2.5)], [["x", 1.5], ["y", 2.5]])
    many = {f"{name}:m{n}": str(n) for n in range(200)}
    assert client.mset(many)
    assert client.mget(list(many)) == list(many.values())
    pipe = client.pipeline(transaction=False)
    for n in range(200):
        pipe.incrby(f"{name}:c{n}", n)
        pipe.get(f"{name}:m{n}")
        pipe.delete(f"{name}:c{n}")
    replies = pipe.execute()
    assert replies[0::3] == list(range(200)) and replies[1::3] == [str(n) for n in range(200)]
    assert client.delete(*many) == 200
    assert client.eval("return redis.call('GET', KEYS[1])", 1, f"{name}:s") == "value"
    try:
        client.sinter([f"{name}:1", f"{name}:2", f"{name}:3", f"{name}:4"])
        raise AssertionError("keys of several slots were not refused")
    except redis.exceptions.ResponseError as error:
        assert "slot" in str(error).lower(), error
    other_db = redis.Redis(port=port, db=5, protocol=protocol, decode_responses=True, socket_timeout=10)
    assert other_db.get(f"{name}:s") is None
    assert "redis_version" in client.info()


def main():
    ports = [int(port) for port in sys.argv[1:]]
    assert ports, __doc__
    for port in ports:
        for protocol in (2, 3):
            exercise(port, protocol, ports)
    print(f"redis-py {redis.__version__}: {len(ports)} nodes, RESP2 and RESP3")


main()
