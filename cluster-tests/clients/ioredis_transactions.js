#!/usr/bin/env node
// Uses transactions of ioredis, pipelined and not.
//
// usage: ioredis_transactions.js PORT [PORT...]     the ports of one product on several nodes
//
// The exit code is 0 only if each transaction is executed once, or not at all. Needs ioredis from npm.
'use strict';
const Redis = require('ioredis');
const assert = require('assert');

async function exercise(port) {
  const client = new Redis({ port, maxRetriesPerRequest: 1 });
  await client.del('js:counter');
  for (let n = 1; n < 4; n++) {
    const replies = await client.multi().incr('js:counter').get('js:counter').exec();
    assert.deepStrictEqual(replies, [[null, n], [null, String(n)]]);
  }
  // One request after the other.
  await client.multi({ pipeline: false });
  assert.strictEqual(await client.incr('js:counter'), 'QUEUED');
  assert.deepStrictEqual(await client.exec(), [[null, 4]]);
  // A command of another slot aborts all.
  await assert.rejects(client.multi().incr('js:counter').incr('{elsewhere}').exec(), /EXECABORT|CROSSSLOT/);
  // Another client changes a watched key.
  await client.watch('js:counter');
  const other = client.duplicate();
  await other.incr('js:counter');
  assert.strictEqual(await client.multi().set('js:counter', 100).exec(), null);
  assert.strictEqual(await client.get('js:counter'), '5');
  other.disconnect();
  client.disconnect();
}

(async () => {
  const ports = process.argv.slice(2).map(Number);
  for (const port of ports) await exercise(port);
  console.log(`${ports.length} nodes`);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
