#!/bin/sh
# Ask for a delivery over HTTP, with curl. Safe to run again with the same id: it is stored once.
#   echo '{"total": 42}' | DELIVERY_URL=... DELIVERY_TOKEN=... sh publish.sh acme orders invoice.paid [ID]
set -eu

id=${4:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}

# The token goes to curl through a pipe: what is an argument, every user of the machine can read.
answer=$(
  { printf '{"destination":"%s","event_type":"%s","payload":' "$2" "$3"; cat; printf '}'; } |
    curl --silent --show-error --fail-with-body --retry 7 --retry-all-errors --max-time 60 \
      --header "content-type: application/json" --header "idempotency-key: $id" \
      --config /dev/fd/3 --data-binary @- "$DELIVERY_URL/v1/tenants/$1/deliveries" 3<<EOF
header = "authorization: Bearer $DELIVERY_TOKEN"
EOF
) || { echo "$answer" >&2; exit 1; }
echo "$id"
