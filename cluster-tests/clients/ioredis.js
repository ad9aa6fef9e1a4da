// Uses a node with ioredis as an application does.
// usage: NODE_PATH=.../node_modules node ioredis.js PORT [PORT...]     the ports of one product on several nodes
// The exit code is 0 only if every reply is as expected.
"use strict";
const assert = require("node:assert");
const Redis = require("ioredis");

const connect = (port, options = {}) =>
  new Redis({ port, host: "127.0.0.1", commandTimeout: 10_000, maxRetriesPerRequest: 0, ...options });

async function exercise(port, others) {
  const client = connect(port);
  const name = `js:${port}`;
  assert.equal(await client.set(`${name}:s`, "value", "EX", 100), "OK");
  for (const other of others) {
    const there = connect(other);
    assert.equal(await there.get(`${name}:s`), "value");
    await there.quit();
  }
  await client.del(`${name}:h`, `${name}:l`);
  await client.hset(`${name}:h`, { a: 1, b: 2 });
  assert.deepEqual(await client.hgetall(`${name}:h`), { a: "1", b: "2" });
  // A binary value that is larger than one read.
  const large = Buffer.alloc(1 << 20, "\r\n\0x");
  await client.set(`${name}:large`, large);
  assert.ok(large.equals(await client.getBuffer(`${name}:large`)));
  const many = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`${name}:m${n}`, String(n)]));
  await client.mset(many);
  assert.deepEqual(await client.mget(Object.keys(many)), Object.values(many));
  const pipeline = client.pipeline();
  for (const key of Object.keys(many)) pipeline.get(key).incr(`${key}:n`).del(`${key}:n`);
  const replies = await pipeline.exec();
  assert.ok(replies.every(([error]) => error === null));
  assert.deepEqual(replies.filter((_, i) => i % 3 === 0).map(([, value]) => value), Object.values(many));
  // Many concurrent requests on one connection, answered in order.
  const answers = await Promise.all(Object.keys(many).map((key) => client.get(key)));
  assert.deepEqual(answers, Object.values(many));
  await assert.rejects(client.sinter(`${name}:1`, `${name}:2`, `${name}:3`, `${name}:4`), /CROSSSLOT/);
  assert.equal(await client.unlink(...Object.keys(many)), 200);
  const database = connect(port, { db: 5 });
  assert.equal(await database.get(`${name}:s`), null);
  await database.quit();
  assert.equal(await client.quit(), "OK");
}

async function main() {
  const ports = process.argv.slice(2).map(Number);
  assert.ok(ports.length > 0, "usage: ioredis.js PORT [PORT...]");
  for (const port of ports) await exercise(port, ports);
  console.log(`ioredis ${require("ioredis/package.json").version}: ${ports.length} nodes`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
