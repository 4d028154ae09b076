"""Verify a received webhook (Standard Webhooks): `v1` with the standard library, `v1a` with `cryptography`.

WEBHOOK_SECRET=whsec_... python verify.py ID TIMESTAMP SIGNATURES < body      (exit code 1 when it is not genuine)
"""

import base64
import hashlib
import hmac
import os
import sys
import time


def verify(secrets, headers, body, tolerance_s=300, now=None):
    """Raise ValueError unless the body is genuine and fresh.

    `secrets`: `whsec_...` (v1) or `whpk_...` (v1a), the old and the new one during a rollover. `headers`: names in
    lower case. `body`: the raw bytes as received.
    """
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and message_id):
        raise ValueError("a header is missing or malformed")
    if abs((time.time() if now is None else now) - int(timestamp)) > tolerance_s:
        raise ValueError("too old, or from the future: see this machine's clock")
    signed = f"{message_id}.{timestamp}.".encode() + body
    for entry in headers.get("webhook-signature", "").split(" "):
        version, _, signature = entry.partition(",")
        if any(_matches(secret, version, signature, signed) for secret in secrets):
            return
    raise ValueError("no signature matches")


def _matches(secret, version, signature, signed):
    if version == "v1" and secret.startswith("whsec_"):
        key = base64.b64decode(secret[6:], validate=True)
        expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
        return hmac.compare_digest(expected, signature.encode())
    if version == "v1a" and secret.startswith("whpk_"):
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(secret[5:])).verify(base64.b64decode(signature), signed)
        except (InvalidSignature, ValueError):
            return False
        return True
    return False


if __name__ == "__main__":
    received = dict(zip(("webhook-id", "webhook-timestamp", "webhook-signature"), sys.argv[1:4]))
    pretended = os.environ.get("NOW")
    try:
        verify(
            os.environ["WEBHOOK_SECRET"].split(), received, sys.stdin.buffer.read(), now=pretended and int(pretended)
        )
    except ValueError as error:
        sys.exit(str(error))
    print("genuine")
