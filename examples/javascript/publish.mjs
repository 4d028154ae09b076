// Request a delivery over HTTP. Node 18 or newer, no packages.
//   echo '{"total": 42}' | DELIVERY_URL=... DELIVERY_TOKEN=... node publish.mjs acme orders invoice.paid [ID]
// The request is repeated with its id until it is accepted. The id is stored once.

import { randomUUID } from "node:crypto";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const AGAIN = new Set([429, 500, 502, 503, 504]);

export async function deliver({ url, token, tenant, destination, eventType, payload, id = randomUUID(), tries = 8 }) {
  let problem;
  for (let attempt = 0; attempt < tries; attempt++) {
    let waitMs = Math.min(250 * 2 ** attempt, 30_000);
    try {
      const answer = await fetch(`${url}/v1/tenants/${tenant}/deliveries`, {
        method: "POST",
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json", "idempotency-key": id },
        body: JSON.stringify({ destination, event_type: eventType, payload }),
        signal: AbortSignal.timeout(10_000),
      });
      if (answer.status === 202) return await answer.json();
      problem = new Error(`${answer.status} ${await answer.text()}`);
      if (!AGAIN.has(answer.status)) throw Object.assign(problem, { final: true });
      waitMs = Math.max(waitMs, 1000 * Number(answer.headers.get("retry-after") ?? 0) || 0);
    } catch (error) {
      if (error.final) throw error;
      problem = error; // a network problem: repeat
    }
    await sleep(waitMs);
  }
  throw problem;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [tenant, destination, eventType, id] = process.argv.slice(2);
  const payload = JSON.parse(await text(process.stdin));
  const { DELIVERY_URL: url, DELIVERY_TOKEN: token } = process.env;
  console.log((await deliver({ url, token, tenant, destination, eventType, payload, id })).id);
}
