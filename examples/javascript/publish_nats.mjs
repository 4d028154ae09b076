// Request a delivery over NATS. Node 18 or newer, with @nats-io/transport-node (npm install).
//   echo '{"total": 42}' | NATS_URL=... NATS_NKEY_FILE=acme.nk node publish_nats.mjs acme orders invoice.paid [ID]
// The request is repeated with its id until it is accepted. The id is stored once.

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

import { connect, headers, nkeyAuthenticator } from "@nats-io/transport-node";

const AGAIN = new Set(["429", "500", "502", "503", "504"]);

export async function deliver({ client, tenant, destination, eventType, payload, id = randomUUID(), tries = 8 }) {
  const body = JSON.stringify({ destination, event_type: eventType, payload });
  let problem;
  for (let attempt = 0; attempt < tries; attempt++) {
    let waitMs = Math.min(250 * 2 ** attempt, 30_000);
    const sent = headers();
    sent.set("Idempotency-Key", id);
    let answer;
    try {
      answer = await client.request(`oneprotect.api.v1.${tenant}.deliveries`, body, { timeout: 10_000, headers: sent });
    } catch (error) {
      if (error.cause?.name === "PermissionViolationError") throw error.cause;
      problem = error; // no answer, or no API process: repeat
    }
    if (answer) {
      const status = answer.headers?.get("Nats-Service-Error-Code");
      if (!status) return answer.json();
      problem = new Error(`${status} ${answer.string()}`);
      if (!AGAIN.has(status)) throw problem;
      waitMs = Math.max(waitMs, 1000 * Number(answer.headers.get("Retry-After")) || 0);
    }
    await sleep(waitMs);
  }
  throw problem;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [tenant, destination, eventType, id] = process.argv.slice(2);
  const payload = JSON.parse(await text(process.stdin));
  const { NATS_URL: servers, NATS_NKEY_FILE: seed, NATS_CA_FILE: caFile } = process.env;
  const client = await connect({
    servers,
    authenticator: seed && nkeyAuthenticator(new TextEncoder().encode((await readFile(seed, "utf8")).trim())),
    tls: caFile && { caFile },
    maxReconnectAttempts: -1,
  });
  try {
    console.log((await deliver({ client, tenant, destination, eventType, payload, id })).id);
  } finally {
    await client.close();
  }
}
