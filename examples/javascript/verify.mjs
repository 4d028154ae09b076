// Verify a received webhook (Standard Webhooks, v1 and v1a). Node 18 or newer, no packages.
//   WEBHOOK_SECRET=whsec_... node verify.mjs ID TIMESTAMP SIGNATURES < body      (exit code 1 when it is not genuine)

import { createHmac, createPublicKey, timingSafeEqual, verify as verifySignature } from "node:crypto";
import { buffer } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

// secrets: whsec_... (v1) or whpk_... (v1a), the old and the new one during a rollover. headers: names in lower case.
// body: a Buffer with the raw bytes as received; with Express: express.raw({ type: "*/*" }).
export function verify(secrets, headers, body, { toleranceS = 300, now = Date.now() / 1000 } = {}) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures } = headers;
  if (!id || !/^[0-9]{1,12}$/.test(timestamp ?? "")) throw new Error("a header is missing or malformed");
  if (Math.abs(now - Number(timestamp)) > toleranceS) throw new Error("too old, or from the future: see the clock");
  const signed = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  for (const entry of (signatures ?? "").split(" ")) {
    const [version, signature] = entry.split(",", 2);
    if (secrets.some((secret) => matches(secret, version, Buffer.from(signature ?? "", "base64"), signed))) return;
  }
  throw new Error("no signature matches");
}

function matches(secret, version, signature, signed) {
  if (version === "v1" && secret.startsWith("whsec_")) {
    const expected = createHmac("sha256", Buffer.from(secret.slice(6), "base64")).update(signed).digest();
    return signature.length === expected.length && timingSafeEqual(signature, expected);
  }
  if (version === "v1a" && secret.startsWith("whpk_")) {
    const x = Buffer.from(secret.slice(5), "base64").toString("base64url");
    return verifySignature(null, signed, createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" }), signature);
  }
  return false;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [id, timestamp, signatures] = process.argv.slice(2);
  const headers = { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures };
  const now = process.env.NOW ? Number(process.env.NOW) : undefined;
  try {
    verify(process.env.WEBHOOK_SECRET.split(" "), headers, await buffer(process.stdin), { now });
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
  console.log("genuine");
}
