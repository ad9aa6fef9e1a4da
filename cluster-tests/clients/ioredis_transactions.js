#!/usr/bin/env node
// Uses transactions of ioredis, pipelined and not, and repeats them as an application does.
//
// usage: ioredis_transactions.js PORT [PORT...]     the ports of one product on several nodes
//
// The exit code is 0 only if each is refused and none is executed. Needs ioredis from npm.
'use strict';
const Redis = require('ioredis');
const assert = require('assert');

async function refused(action) {
  try {
    await action();
  } catch (error) {
    assert(/EXECABORT|not executed/.test(String(error)), String(error));
    return;
  }
  throw new Error('a transaction was not refused');
}

async function exercise(port) {
  const client = new Redis({ port, maxRetriesPerRequest: 1 });
  for (let n = 0; n < 3; n++) {
    await refused(() => client.multi().incr('js:counter').incr('js:counter').exec());
  }
  assert.strictEqual(await client.get('js:counter'), null);
  // The connection is in order again.
  assert.strictEqual(await client.ping(), 'PONG');
  client.disconnect();
}

(async () => {
  const ports = process.argv.slice(2).map(Number);
  for (const port of ports) await exercise(port);
  console.log(`${ports.length} nodes refused all transactions`);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
