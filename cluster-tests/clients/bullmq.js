// Runs a job queue of BullMQ through several nodes: producers and workers at each of them.
// usage: NODE_PATH=.../node_modules node bullmq.js JOBS PORT [PORT...]     the ports of one product on several nodes
//
// Each job counts itself in the hash `{bull}:runs`. Jobs are added, done and retried until all JOBS are completed; then a line of
// JSON says how often: {"completed":JOBS,"runs":..,"failed":..}. The exit code is 0 only if every job has completed.
"use strict";
const assert = require("node:assert");
const { Queue, Worker } = require("bullmq");
const Redis = require("ioredis");

// The keys of a queue are used together, so they need one slot.
const prefix = "{bull}";
const RUNS = `${prefix}:runs`;
const DEADLINE_MS = 120_000;

async function main() {
  const [jobs, ...ports] = process.argv.slice(2).map(Number);
  assert.ok(jobs > 0 && ports.length > 0, "usage: bullmq.js JOBS PORT [PORT...]");
  const connections = ports.map((port) => ({ host: "127.0.0.1", port, maxRetriesPerRequest: null }));
  let [failed, completed] = [0, 0];
  const workers = connections.map((connection) => {
    const counter = new Redis(connection);
    counter.on("error", () => {});
    const work = async (job) => {
      await counter.hincrby(RUNS, job.id, 1);
      // Some fail once, and are tried again after a delay.
      if (job.data.number % 10 === 0 && job.attemptsMade === 0) throw new Error("once");
      return job.data.number;
    };
    const worker = new Worker("work", work, { connection, prefix, concurrency: 8, stalledInterval: 2_000, lockDuration: 5_000 });
    worker.on("error", () => {});
    worker.on("failed", () => failed++);
    worker.on("completed", () => completed++);
    return { worker, counter };
  });
  const queues = connections.map((connection) => new Queue("work", { connection, prefix }));
  queues.forEach((queue) => queue.on("error", () => {}));
  const add = async (number) => {
    // The id makes a repeated call harmless.
    for (;;) {
      try {
        const options = { jobId: `job-${number}`, attempts: 5, backoff: { type: "fixed", delay: 20 }, delay: number % 7 === 0 ? 50 : 0 };
        return await queues[number % queues.length].add("job", { number }, { ...options, priority: number % 3 });
      } catch (error) {
        if (!/not executed|outcome unknown|Connection is closed|ECONN/.test(error.message)) throw error;
      }
    }
  };
  for (let number = 0; number < jobs; number++) {
    await add(number);
    // A queue is worked on while it is filled.
    if (number % 50 === 49) await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const until = Date.now() + DEADLINE_MS;
  for (;;) {
    const counts = await queues[0].getJobCounts("completed", "failed", "waiting", "active", "delayed", "prioritized").catch(() => ({}));
    if (counts.completed === jobs) break;
    assert.ok(!(counts.failed > 0), JSON.stringify(counts));
    assert.ok(Date.now() < until, `not completed: ${JSON.stringify(counts)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const runs = Object.values(await workers[0].counter.hgetall(RUNS)).map(Number);
  assert.equal(runs.length, jobs);
  console.log(JSON.stringify({ completed: jobs, runs: runs.reduce((sum, n) => sum + n), most: Math.max(...runs), failed }));
  await Promise.all(workers.map(({ worker }) => worker.close()));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
