"""The table of what parses or sorts input in the product, and its page, `docs/reference/input-bounds.md`.

A test compares the table with the code: a new regular expression, decode, parse or sort needs a row here. Another test
doubles the input of each row that others than the operator control, and measures the time.
"""

from typing import Final, Literal

import msgspec
from msgspec import Struct

Source = Literal["anyone", "producer", "tenant", "receiver", "server", "operator", "product"]
"""Who controls the input. `server`: NATS, the Kubernetes API or an issuer of JWTs. `product`: written by itself."""

UNTRUSTED: Final = ("anyone", "producer", "tenant", "receiver")


class InputBound(Struct, frozen=True, array_like=True):
    """A module, its uses of parsers with their number, who controls their input, and the bound of that input."""

    module: str
    uses: str
    source: Source
    bound: str
    note: str = "linear"


_ROWS: Final = (
    ("schemas/events.py", "json.Decoder*2 base64.b64decode", "producer", "1 MiB, the server's maximum message"),
    (
        "schemas/headers.py",
        "re.compile*2 datetime.fromisoformat",
        "producer",
        "64 KiB for all headers of a message, 256 for a value",
    ),
    ("schemas/hourly_stats.py", "sorted", "product", "49 hours", "n log n"),
    ("schemas/ids.py", "re.compile*3", "producer", "1 MiB, the message"),
    ("schemas/json_schema.py", "sorted", "product", "the product's own types", "n log n"),
    ("schemas/subscriptions.py", "sorted", "tenant", "destinations of a tenant, by its quota", "n log n"),
    ("schemas/validation.py", "re.compile*2 convert json.decode", "tenant", "405 KiB by default, a body"),
    (
        "provider/fragments.py",
        "re.compile html.unescape unquote sorted*2",
        "receiver",
        "3 KiB of a response; values of 4 KiB",
    ),
    ("provider/kubernetes/access_review.py", "json.decode", "server", "1.5 MB"),
    ("provider/kubernetes/api_server.py", "re.compile", "operator", "token file"),
    ("provider/kubernetes/kubeconfig.py", "base64.b64decode", "operator", "kubeconfig"),
    ("provider/kubernetes/session.py", "re.compile*2", "product", "paths made of checked names"),
    ("provider/secret_manifest.py", "json.Decoder convert", "tenant", "1.5 MB, a Secret"),
    ("provider/secret_ref.py", "re.compile*3", "tenant", "512 characters"),
    ("provider/signing_keys.py", "re.compile*2 base64.b64decode", "tenant", "1.5 MB, a Secret"),
    ("messaging/atomic_batch.py", "sorted", "product", "1,000 messages of a batch", "n log n"),
    ("messaging/client/client.py", "re.compile", "operator", "creds file"),
    ("messaging/client/connection.py", "json.Decoder json.decode", "server", "1 MiB, the server's maximum message"),
    ("messaging/client/headers.py", "re.compile", "producer", "64 KiB, headers of a message"),
    ("messaging/client/permission_violations.py", "re.compile", "server", "a line of the protocol"),
    ("messaging/direct_get.py", "sorted convert", "server", "a page of 1,024 messages", "n log n"),
    ("messaging/kv.py", "sorted*3 json.Decoder", "tenant", "keys of a bucket, by quotas; a row is 1 MiB", "n log n"),
    ("consumers/attempts/leader_reads.py", "convert", "server", "1.5 MiB, a message in base64"),
    ("messaging/lease.py", "json.decode", "product", "a lease"),
    ("messaging/management.py", "convert*5", "server", "1 MiB, the server's maximum message"),
    ("messaging/publisher.py", "json.Decoder", "server", "an acknowledgement"),
    (
        "telemetry/bounded_http.py",
        "re.compile ipaddress.ip_network ipaddress.ip_address",
        "anyone",
        "32 KiB, the head of a request",
    ),
    ("telemetry/log_config.py", "re.compile", "product", "a log event"),
    ("telemetry/metrics/child_reports.py", "msgpack.Decoder", "product", "a report of a child process"),
    ("telemetry/metrics/prometheus_text.py", "sorted*2", "product", "series, bounded by settings", "n log n"),
    ("telemetry/otlp/settings.py", "urlsplit", "operator", "an environment variable"),
    ("telemetry/redaction.py", "re.compile*3", "receiver", "1.5 KiB of a response; texts of logs"),
    ("consumers/attempts/timeline.py", "sorted", "product", "attempts of a delivery", "n log n"),
    ("consumers/credentials/control_client.py", "json.decode*2", "product", "a reply of a consumer"),
    ("consumers/credentials/control_server.py", "json.decode*4", "product", "a control message"),
    ("consumers/delivery/attempt.py", "urlsplit", "tenant", "2,048 characters"),
    (
        "consumers/delivery/response_redaction.py",
        "re.compile*8 urlsplit unquote*3 bytes.fromhex a2b_base64*2",
        "receiver",
        "3 KiB of a response; 2 KiB of URL and 4 KiB of headers as known values",
    ),
    ("consumers/dns/message.py", "", "receiver", "16 KiB, 128 records, 16 aliases, 2,048 labels"),
    ("consumers/dns/resolver.py", "sorted", "receiver", "32 addresses", "n log n"),
    ("consumers/dns/system_files.py", "ipaddress.ip_address*2", "operator", "`/etc/hosts` and `resolv.conf`"),
    ("consumers/egress/policy.py", "re.compile*5 ip_address ip_network idna.encode", "tenant", "2,048 characters"),
    ("consumers/http_client/client.py", "re.compile", "tenant", "4 KiB, headers of a destination"),
    ("consumers/http_client/response.py", "re.compile parsedate_to_datetime", "receiver", "8,190 bytes, a header"),
    (
        "consumers/model/request.py",
        "re.compile json.Decoder datetime.fromisoformat",
        "producer",
        "1 MiB, the server's maximum message",
    ),
    ("consumers/isolation/process.py", "msgpack.Decoder*2", "product", "a frame from or to its own child process"),
    ("consumers/isolation/journal.py", "sorted", "product", "messages in hand", "n log n"),
    ("consumers/isolation/suspects.py", "re.compile", "product", "55 characters, the key of a suspect"),
    ("consumers/notifications/tenant_events.py", "json.decode", "product", "an operational event"),
    ("consumers/replay/index.py", "sorted*2", "tenant", "unfinished replays of a tenant, by its quota", "n log n"),
    ("consumers/queues/lost_messages.py", "sorted", "product", "lost messages", "n log n"),
    ("consumers/queues/ordered_queue.py", "json.decode", "product", "1,024 sequences"),
    ("consumers/queues/ordered_queues.py", "sorted", "product", "ordered destinations", "n log n"),
    ("consumers/queues/overflow_feeder.py", "destinations.sort", "product", "destinations with overflow", "n log n"),
    ("consumers/retention/archive.py", "msgpack.Decoder", "product", "a pack of 1 MiB"),
    ("consumers/signatures/verifier.py", "b64decode json.loads", "operator", "a request given to `oneprotect verify`"),
    ("oneprotect/api/app.py", "sorted", "product", "roles", "n log n"),
    ("oneprotect/api/auth/jwks.py", "json.decode", "server", "1 MiB, the issuer's keys"),
    ("oneprotect/api/auth/jwt.py", "jwt.get_unverified_header jwt.decode", "anyone", "8,192 characters"),
    ("oneprotect/api/auth/token_format.py", "re.compile", "anyone", "32 KiB, the head of a request"),
    ("oneprotect/api/auth/token_store.py", "sorted*2 convert", "tenant", "tokens of a tenant, by its quota", "n log n"),
    ("oneprotect/api/docs/openapi.py", "sorted*2", "product", "operations of the API", "n log n"),
    ("oneprotect/api/nats_service/cloud_events.py", "convert*2", "producer", "1 MiB, the server's maximum message"),
    ("oneprotect/api/operations/preconditions.py", "re.compile*2", "anyone", "1,024 characters"),
    ("oneprotect/api/resources/replays.py", "sorted*6", "tenant", "1,000 ids, 256 event types", "n log n"),
    ("oneprotect/api/web/pagination.py", "base64.b64decode json.decode", "anyone", "512 characters"),
    (
        "oneprotect/api/web/request_body.py",
        "re.compile json.decode convert",
        "anyone",
        "405 KiB by default: the payload in base64, and 64 KiB; 32 KiB of query",
    ),
    ("oneprotect/api/web/routing.py", "sorted", "product", "methods of a route", "n log n"),
    ("oneprotect/configuration/masking.py", "validation.convert", "tenant", "a destination"),
    ("oneprotect/configuration/service.py", "validation.convert*2 sorted", "tenant", "a destination; its tenant's"),
    ("oneprotect/console/pages/attempts.py", "sorted", "product", "result codes", "n log n"),
    ("oneprotect/console/pages/destination.py", "convert", "product", "the result of a test"),
    (
        "oneprotect/console/pages/destination_cards.py",
        "sorted*2 urlsplit",
        "tenant",
        "destinations on a page; 2,048 characters",
        "n log n",
    ),
    ("oneprotect/console/pages/failed.py", "sorted*2", "product", "result codes", "n log n"),
    ("oneprotect/console/pages/integrations.py", "sorted", "tenant", "tenants, destinations of a page", "n log n"),
    ("oneprotect/console/pages/replays.py", "sorted*2", "product", "result codes", "n log n"),
    ("oneprotect/console/web/cookies.py", "", "anyone", "32 KiB, the head of a request"),
    (
        "oneprotect/console/web/forms.py",
        "parse_qsl datetime.fromisoformat",
        "anyone",
        "405 KiB by default; 64 fields",
    ),
    ("oneprotect/console/web/templating.py", "sorted", "product", "files of the console", "n log n"),
)

TABLE: Final = msgspec.convert(_ROWS, tuple[InputBound, ...])

_HEAD: Final = """\
# Input bounds

Consumers and the API each run one event loop. So nothing that parses or sorts input may take more than
linear time, or n log n for sorting, and every input has a bound. The table lists each module that does
so. The command line is not in it, because its user owns the input.

- A test fails when a module gains a regular expression, a decode, a parse or a sort that is not in the table.
- For input of anyone, producers, tenants and receivers, a test doubles hostile input up to the bound. The
  time may at most double, too.

This page is generated: `make generate`.

| module | uses | input of | bound | time |
|---|---|---|---|---|
"""


def page() -> str:
    """Return the page, in Markdown."""
    return _HEAD + "".join(
        f"| `{row.module}` | {', '.join(f'`{use}`' for use in row.uses.split()) or 'a loop'} "
        f"| {row.source} | {row.bound} | {row.note} |\n"
        for row in TABLE
    )
