#!/usr/bin/env python3
"""Uses a node with redis-py's asyncio client as an application does, with RESP2 and RESP3: locks, scripts, transactions.

usage: redis_py_async.py PORT [PORT...]     the ports of one product on several nodes

The exit code is 0 only if every reply is as expected. Needs redis from PyPI.
"""
import asyncio
import sys
from contextlib import asynccontextmanager

import redis
import redis.asyncio
from redis.exceptions import LockError, WatchError


@asynccontextmanager
async def connected(port, protocol):
    client = redis.asyncio.Redis(port=port, protocol=protocol, socket_timeout=10, decode_responses=True)
    try:
        yield client
    finally:
        await client.aclose()


async def exercise(port, protocol, ports):
    tag = f"{{async:{port}:{protocol}}}"
    async with connected(port, protocol) as client, connected(ports[-1], protocol) as other:
        await client.flushall()
        # Many tasks share a pool of connections.
        counts = await asyncio.gather(*(client.incr(f"{tag}:n") for _ in range(100)))
        assert sorted(counts) == list(range(1, 101)), counts
        # A transaction that is tried again until nobody has changed the key meanwhile.
        async def add(pipe):
            value = int(await pipe.get(f"{tag}:t") or 0)
            pipe.multi()
            pipe.set(f"{tag}:t", value + 1)

        await asyncio.gather(*(client.transaction(add, f"{tag}:t") for _ in range(10)))
        assert await client.get(f"{tag}:t") == "10"
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch(f"{tag}:t")
            await other.incr(f"{tag}:t")
            pipe.multi()
            pipe.set(f"{tag}:t", 0)
            try:
                await pipe.execute()
                raise AssertionError("a watched key has changed")
            except WatchError:
                pass
        # A script by its digest, at another node as well, alone and in a pipeline.
        script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert await script(keys=[f"{tag}:s"], args=[5]) == 5
        assert await script(keys=[f"{tag}:s"], args=[5], client=other) == 10
        async with client.pipeline(transaction=False) as pipe:
            await script(keys=[f"{tag}:s"], args=[1], client=pipe)
            pipe.get(f"{tag}:s")
            assert await pipe.execute() == [11, "11"]
        # One holder of a lock at a time, over nodes.
        inside, most = 0, 0

        async def critical(holder):
            nonlocal inside, most
            async with holder.lock(f"{tag}:lock", timeout=10, sleep=0.01, blocking_timeout=20):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(critical(holder) for holder in [client, other] * 5))
        assert most == 1, most
        lock = client.lock(f"{tag}:lock", timeout=10)
        assert await lock.acquire(blocking=False)
        assert not await other.lock(f"{tag}:lock").acquire(blocking=False)
        assert await lock.extend(5)
        await lock.release()
        try:
            await lock.release()
            raise AssertionError("the lock was released before")
        except LockError:
            pass
        # A blocked pop of a task ends when another one pushes.
        popped = asyncio.create_task(client.blpop(f"{tag}:l", timeout=10))
        await other.rpush(f"{tag}:l", "element")
        assert list(await popped) == [f"{tag}:l", "element"]
        names = {f"async:{n}" for n in range(300)}
        await client.mset({name: "1" for name in names})
        assert {name async for name in other.scan_iter("async:*", count=50)} == names
        assert await client.dbsize() == len(names) + 3, await client.keys("*")


def main():
    ports = [int(port) for port in sys.argv[1:]]
    assert ports, __doc__
    for port in ports:
        for protocol in (2, 3):
            asyncio.run(exercise(port, protocol, ports))
    print(f"redis-py {redis.__version__}, asyncio: {len(ports)} nodes")


main()
