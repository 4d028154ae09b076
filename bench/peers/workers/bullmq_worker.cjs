// BullMQ on Redis: a job for each delivery, many at a time in one Node process; what it returns stays with the job.
// With `<prefix> <count>` it adds a round's jobs instead. CommonJS, as NODE_PATH says where the packages are.
"use strict";
const { createHmac } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { Queue, Worker } = require("bullmq");
const { Agent } = require("undici");

const setup = JSON.parse(readFileSync(process.env.BENCH_SETUP));
const inFlight = Number(process.env.BENCH_IN_FLIGHT);
const broker = new URL(process.env.BENCH_BROKER_URL);
const connection = { host: broker.hostname, port: Number(broker.port), maxRetriesPerRequest: null };
const targets = new Map(
  Object.entries(setup.targets).map(([address, [url, key]]) => [address, [new URL(url), Buffer.from(key, "base64")]]),
);
const agent = new Agent({ connections: inFlight, pipelining: 1 });

async function deliver({ data: delivery }) {
  const began = Date.now();
  const [url, key] = targets.get(`${delivery.tenant}.${delivery.destination}`);
  const timestamp = String(Math.floor(began / 1000));
  const signature = createHmac("sha256", key)
    .update(`${delivery.id}.${timestamp}.${delivery.payload}`)
    .digest("base64");
  const { statusCode, body } = await agent.request({
    origin: url.origin,
    path: url.pathname,
    method: "POST",
    body: delivery.payload,
    headers: {
      "content-type": "application/json",
      "webhook-id": delivery.id,
      "webhook-timestamp": timestamp,
      "webhook-signature": `v1,${signature}`,
    },
  });
  await body.dump();
  if (statusCode !== 200) throw new Error(`the receiver said ${statusCode}`);
  const { id, tenant, destination, event_type } = delivery;
  return {
    delivery: id,
    tenant,
    destination,
    event_type,
    outcome: "delivered",
    http_status: statusCode,
    started_at: began / 1000,
    duration_ms: Date.now() - began,
  };
}

async function produce(prefix, count) {
  const queue = new Queue("deliveries", { connection });
  for (let first = 0; first < count; first += 500) {
    const jobs = [];
    for (let number = first; number < Math.min(first + 500, count); number++) {
      const [tenant, destination] = setup.addresses[number % setup.addresses.length].split(".");
      const data = { id: `${prefix}-${number}`, tenant, destination, event_type: "invoice.paid", payload: setup.payload };
      jobs.push({ name: "deliver", data, opts: { attempts: 3 } });
    }
    await queue.addBulk(jobs);
  }
  await queue.close();
}

function work() {
  const worker = new Worker("deliveries", deliver, { connection, concurrency: inFlight });
  worker.on("error", (error) => console.error(error));
  worker.on("failed", (_, error) => console.error(error));
  process.on("SIGTERM", async () => {
    await worker.close();
    await agent.close();
    process.exit(0);
  });
}

if (process.argv.length === 4) produce(process.argv[2], Number(process.argv[3]));
else work();
