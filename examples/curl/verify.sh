#!/bin/sh
# Verify a received webhook (Standard Webhooks, v1) with openssl, to inspect one. Not for a server.
#   WEBHOOK_SECRET=whsec_... sh verify.sh ID TIMESTAMP SIGNATURES < body      (exit code 1 when it is not genuine)
# Run it on your own machine: openssl gets the key as an argument, which other users can read.
# `oneprotect verify` also shows why a signature differs.
set -eu

now=${NOW:-$(date +%s)}
case $2 in '' | *[!0-9]*) echo "the timestamp is malformed" >&2; exit 1 ;; esac
if [ $((now - $2)) -gt 300 ] || [ $(($2 - now)) -gt 300 ]; then
  echo "too old, or from the future: see this machine's clock" >&2
  exit 1
fi

body=$(mktemp)
trap 'rm -f "$body"' EXIT
{ printf '%s.%s.' "$1" "$2"; cat; } > "$body"
for secret in $WEBHOOK_SECRET; do
  key=$(printf %s "${secret#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
  expected=$(openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary < "$body" | openssl base64 -A)
  for signature in $3; do
    if [ "$signature" = "v1,$expected" ]; then
      echo "genuine"
      exit 0
    fi
  done
done
echo "no signature matches" >&2
exit 1
