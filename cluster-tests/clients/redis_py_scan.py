"""Iterates over all keys and over a hash with redis-py. Argument: the port of a node."""

import sys

import redis

client = redis.Redis(port=int(sys.argv[1]), decode_responses=True)
keys = set(client.scan_iter())
assert keys == set(client.scan_iter(count=500)) == set(client.keys())
assert len(keys) == client.dbsize()
assert set(client.scan_iter(match="big:*")) == {"big:h", "big:s", "big:z"}
assert set(client.scan_iter(_type="zset")) == {"big:z"}
fields = dict(client.hscan_iter("big:h"))
assert set(client.sscan_iter("big:s")) == set(fields)
assert {member for member, _ in client.zscan_iter("big:z")} == set(fields)
print(f"{len(keys)} keys, {len(fields)} fields")
