#!/bin/sh
# Request a delivery over HTTP, with curl. An id is stored once, however often the script runs.
#   echo '{"total": 42}' | DELIVERY_URL=... DELIVERY_TOKEN=... sh publish.sh acme orders invoice.paid [ID]
set -eu

id=${4:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}
body=$(printf '{"destination":"%s","event_type":"%s","payload":%s}' "$2" "$3" "$(cat)")
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

for wait_s in 0 1 2 4 8 15 30; do
  sleep "$wait_s"
  # curl gets the token through a pipe, because every user of the machine can read arguments.
  status=$(
    printf %s "$body" | curl --silent --show-error --max-time 10 --output "$answer" --write-out '%{http_code}' \
      --header "content-type: application/json" --header "idempotency-key: $id" \
      --config /dev/fd/3 --data-binary @- "$DELIVERY_URL/v1/tenants/$1/deliveries" 3<<EOF
header = "authorization: Bearer $DELIVERY_TOKEN"
EOF
  ) || true
  case $status in
    202) echo "$id"; exit 0 ;;
    000 | 429 | 5??) ;; # no answer, or a temporary problem: repeat
    *) echo "$status $(cat "$answer")" >&2; exit 1 ;;
  esac
done
echo "not accepted: $status" >&2
exit 1
