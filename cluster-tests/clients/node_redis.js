// Uses a node with node-redis as an application does, with RESP2 and RESP3.
// usage: NODE_PATH=.../node_modules node node_redis.js PORT [PORT...]     the ports of one product on several nodes
// The exit code is 0 only if every reply is as expected.
"use strict";
const assert = require("node:assert");
const { createClient, createClientPool, defineScript } = require("redis");

const ADD = defineScript({
  NUMBER_OF_KEYS: 1,
  SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1]) + 0",
  parseCommand(parser, key, by) {
    parser.pushKey(key);
    parser.push(String(by));
  },
  transformReply: (reply) => reply,
});

async function exercise(port, RESP, others) {
  const options = { socket: { host: "127.0.0.1", port }, RESP, scripts: { add: ADD }, commandOptions: { timeout: 10_000 } };
  const client = createClient(options);
  client.on("error", (error) => assert.fail(error));
  await client.connect();
  const tag = `{node-redis:${port}:${RESP}}`;
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set(`${tag}:s`, "value", { expiration: { type: "EX", value: 100 } }), "OK");
  for (const other of others) {
    const there = await createClient({ socket: { host: "127.0.0.1", port: other } }).connect();
    assert.equal(await there.get(`${tag}:s`), "value");
    await there.close();
  }
  // All that is sent in one turn is pipelined.
  const names = Array.from({ length: 200 }, (_, n) => `node-redis:${port}:${RESP}:${n}`);
  await Promise.all(names.map((name, n) => client.set(name, String(n))));
  assert.deepEqual(await client.mGet(names), names.map((_, n) => String(n)));
  // A scan finds each key, the server's types come as they are.
  const found = new Set();
  for await (const keys of client.scanIterator({ MATCH: `node-redis:${port}:${RESP}:*`, COUNT: 50 })) keys.forEach((key) => found.add(key));
  assert.deepEqual([...found].sort(), [...names].sort());
  await client.hSet(`${tag}:h`, { a: "1", b: "2" });
  assert.deepEqual({ ...(await client.hGetAll(`${tag}:h`)) }, { a: "1", b: "2" });
  await client.zAdd(`${tag}:z`, [{ score: 1.5, value: "one" }, { score: 2, value: "two" }]);
  assert.equal(await client.zScore(`${tag}:z`, "one"), 1.5);
  assert.deepEqual(await client.zRangeWithScores(`${tag}:z`, 0, -1), [{ value: "one", score: 1.5 }, { value: "two", score: 2 }]);
  // Transactions.
  const [set, counted] = await client.multi().set(`${tag}:n`, "1").incr(`${tag}:n`).exec();
  assert.deepEqual([set, counted], ["OK", 2]);
  await client.watch(`${tag}:n`);
  const other = await client.duplicate().connect();
  await other.incr(`${tag}:n`);
  await assert.rejects(client.multi().set(`${tag}:n`, "9").exec(), /watch/i);
  // A script is called by its digest.
  assert.equal(await client.add(`${tag}:n`, 10), 13);
  assert.equal(await other.add(`${tag}:n`, 10), 23);
  // A blocked call ends when another client pushes.
  const popped = client.blPop(`${tag}:l`, 10);
  await other.lPush(`${tag}:l`, "element");
  assert.equal((await popped).element, "element");
  assert.equal(await client.blPop(`${tag}:l`, 0.05), null);
  // Streams.
  const id = await client.xAdd(`${tag}:x`, "*", { field: "value" });
  await client.xGroupCreate(`${tag}:x`, "group", "0");
  const read = await client.xReadGroup("group", "consumer", { key: `${tag}:x`, id: ">" }, { COUNT: 1, BLOCK: 100 });
  assert.ok(JSON.stringify(read).includes(id) && JSON.stringify(read).includes("value"));
  assert.equal(await client.xAck(`${tag}:x`, "group", id), 1);
  await assert.rejects(client.sInter(["a", "b", "c", "d"]), /CROSSSLOT/);
  const pool = await createClientPool(options).connect();
  const counts = await Promise.all(Array.from({ length: 50 }, () => pool.incr(`${tag}:pool`)));
  assert.deepEqual(counts.sort((a, b) => a - b), Array.from({ length: 50 }, (_, n) => n + 1));
  await pool.close();
  await client.del(names);
  await Promise.all([client.close(), other.close()]);
}

async function main() {
  const ports = process.argv.slice(2).map(Number);
  assert.ok(ports.length > 0, "usage: node_redis.js PORT [PORT...]");
  for (const port of ports) for (const RESP of [2, 3]) await exercise(port, RESP, ports);
  console.log(`node-redis ${require("redis/package.json").version}: ${ports.length} nodes`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
