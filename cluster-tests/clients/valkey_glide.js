// Uses a node with valkey-glide as an application does, with RESP2 and RESP3.
// usage: NODE_PATH=.../node_modules node valkey_glide.js PORT [PORT...]     the ports of one product on several nodes
// The exit code is 0 only if every reply is as expected.
"use strict";
const assert = require("node:assert");
const { Batch, GlideClient, ProtocolVersion, Script, TimeUnit } = require("@valkey/valkey-glide");

const connect = (port, protocol) =>
  GlideClient.createClient({ addresses: [{ host: "127.0.0.1", port }], protocol, requestTimeout: 10_000, clientName: "glide" });

async function exercise(port, protocol, others) {
  const client = await connect(port, protocol);
  const tag = `{glide:${port}:${protocol}}`;
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set(`${tag}:s`, "value", { expiry: { type: TimeUnit.Seconds, count: 100 } }), "OK");
  for (const other of others) {
    const there = await connect(other, protocol);
    assert.equal(await there.get(`${tag}:s`), "value");
    there.close();
  }
  const names = Array.from({ length: 200 }, (_, n) => `glide:${port}:${protocol}:${n}`);
  await Promise.all(names.map((name, n) => client.set(name, String(n))));
  assert.deepEqual(await client.mget(names), names.map((_, n) => String(n)));
  let cursor = "0";
  const found = new Set();
  do {
    const [next, keys] = await client.scan(cursor, { match: `glide:${port}:${protocol}:*`, count: 100 });
    keys.forEach((key) => found.add(key));
    cursor = next;
  } while (cursor !== "0");
  assert.deepEqual([...found].sort(), [...names].sort());
  await client.hset(`${tag}:h`, { a: "1", b: "2" });
  assert.equal((await client.hgetall(`${tag}:h`)).length, 2);
  await client.zadd(`${tag}:z`, { one: 1.5, two: 2 });
  assert.equal(await client.zscore(`${tag}:z`, "one"), 1.5);
  // A transaction, and a watched key that another client changes.
  const transaction = new Batch(true).set(`${tag}:n`, "1").incr(`${tag}:n`);
  assert.deepEqual(await client.exec(transaction, true), ["OK", 2]);
  const other = await connect(port, protocol);
  await client.watch([`${tag}:n`]);
  await other.incr(`${tag}:n`);
  assert.equal(await client.exec(new Batch(true).set(`${tag}:n`, "9"), true), null);
  // A pipeline.
  assert.deepEqual(await client.exec(new Batch(false).get(`${tag}:n`).get("glide:elsewhere"), true), ["3", null]);
  const script = new Script("return redis.call('INCRBY', KEYS[1], ARGV[1])");
  assert.equal(await client.invokeScript(script, { keys: [`${tag}:n`], args: ["10"] }), 13);
  assert.equal(await other.invokeScript(script, { keys: [`${tag}:n`], args: ["10"] }), 23);
  const popped = client.blpop([`${tag}:l`], 10);
  await other.lpush(`${tag}:l`, ["element"]);
  assert.deepEqual(await popped, [`${tag}:l`, "element"]);
  await assert.rejects(client.sinter(["a", "b", "c", "d"]), /CROSSSLOT/i);
  assert.equal(await client.unlink(names), 200);
  client.close();
  other.close();
}

async function main() {
  const ports = process.argv.slice(2).map(Number);
  assert.ok(ports.length > 0, "usage: valkey_glide.js PORT [PORT...]");
  for (const port of ports) for (const protocol of [ProtocolVersion.RESP2, ProtocolVersion.RESP3]) await exercise(port, protocol, ports);
  console.log(`valkey-glide: ${ports.length} nodes`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
