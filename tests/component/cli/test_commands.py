"""The command line against a real nats-server."""

import asyncio
import base64
import json
import shlex
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from messaging.publication import Publication
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult, DeliveryAttempted, decode_request, encode
from schemas.headers import HEADER_ATTEMPT, HEADER_CODE, HEADER_OUTCOME
from schemas.ids import new_delivery_id
from tests.support.commandline import Ran
from tests.support.site import NAMESPACE, TENANT, Process, Site, document
from tests.support.waiting import until

RunHere = Callable[..., Awaitable[Ran]]

DELIVER = ("deliver", "--tenant", TENANT, "--destination", "orders", "--event-type", "invoice.paid")
REF = f"k8s://{NAMESPACE}/signing-key/signing"

BAD_REQUESTS: list[tuple[bytes, tuple[str, ...], str]] = [
    (b'{"a":hidden}', (), "--data: not JSON (byte 5)"),
    (b'{"hidden": ', (), "--data: not JSON"),
    (b"", (), "--data: not JSON"),
    (b'"hidden\xff"', (), "--data: not UTF-8 (byte 7)"),
    (b"[" * 100_000, (), "--data: JSON with too many levels"),
    (b"h" * 120_001, ("--content-type", "text/plain"), "--data: larger than 120000 bytes (ONEPROTECT_MAX_PAYLOAD"),
    (b"1", ("--event-type", "hidden type"), "data.event_type: expected words of A-Z, a-z, 0-9 and `_`"),
    (b"1", ("--id", "hidden.id"), "id: expected 1 to 64 of A-Z, a-z, 0-9, `_` and `-`"),
    (b"1", ("--destination", "Hidden"), "data.destination: expected 1 to 63 of a-z"),
    (b"1", ("--tenant", "hidden_"), "tenant: expected 1 to 63 of a-z"),
    (b"1", ("--content-type", "hidden\ntype"), "data.content_type: "),
]
"""Data, options, and what the error says."""

BAD_DESTINATIONS: list[tuple[tuple[str, ...], int, str]] = [
    (("--url", "https://192.168.0.1/hidden", "--credential", "key"), 2, "url: blocked destination: its address"),
    (
        ("--url", "https://acme.com/", "--credential", "hidden"),
        1,
        "create it first, with `oneprotect credential set`",
    ),
    (
        ("--url", "https://acme.com/", "--credential", "key", "--header", "Host: hidden"),
        2,
        "headers: cannot set `host`",
    ),
    (
        ("--url", "https://acme.com/", "--credential", "key", "--timeout-s", "31"),
        2,
        "timeout_s: expected `float` <=",
    ),
    (
        ("--url", "https://acme.com/", "--credential", "key", "--event-type", "hidden*"),
        2,
        "event_types[0]: expected an",
    ),
]
"""Options, exit code, and what the error says."""

BAD_SECRETS: list[tuple[str, str, str]] = [
    ("k8s://signing-key/signing", "globex", "secret.mismatch: the Secret's owner has not consented"),
    ("k8s://signing-key/other", TENANT, "secret.not_found: the Secret, or the key in it, does not exist"),
    ("k8s://none/signing", TENANT, "secret.not_found: "),
    ("k8s://elsewhere/signing-key/signing", TENANT, "secret.ref_forbidden: this namespace may not be read"),
    ("k8s://short/signing", TENANT, "secret.malformed: no key in the Secret can sign"),
    ("whsec_pasted", TENANT, "secret.ref_invalid: use k8s://NAMESPACE/SECRET/KEY"),
]
"""Ref, tenant, and what the error says."""


async def _record(site: Site, delivery: str, **fields: Any) -> None:
    """Publish an attempt result as a consumer does."""
    result: dict[str, Any] = {
        "delivery": delivery,
        "destination": "orders",
        "event_type": "invoice.paid",
        "attempt": 1,
        "outcome": Outcome.DELIVERED,
        "code": Code.HTTP_2XX,
        "started_at": datetime.now(UTC),
        "duration_ms": 1.5,
        "worker": "w",
    } | fields
    data = AttemptResult(**result)
    event = DeliveryAttempted(
        specversion="1.0",
        id=f"{delivery}.{data.attempt}",
        source="/tests",
        time=data.started_at,
        tenant=TENANT,
        data=data,
    )
    subject = subjects.attempted(TENANT, data.destination, delivery)
    await site.jetstream.publisher.publish(Publication(subject, encode(event), {}))


async def _keep(site: Site, count: int, *, code: Code = Code.HTTP_5XX, destination: str = "orders") -> list[str]:
    """Keep deliveries as failed, as a consumer does, and return their ids."""
    deliveries = [new_delivery_id() for _ in range(count)]
    for delivery in deliveries:
        headers = {HEADER_ATTEMPT: "8", HEADER_CODE: code, HEADER_OUTCOME: Outcome.FAILED}
        body = document(destination, delivery=delivery)
        await site.jetstream.publisher.publish(
            Publication(subjects.failed(TENANT, destination, delivery), body, headers)
        )
    return deliveries


async def _requested(site: Site) -> list[str]:
    return [decode_request(record.data).id for record in await site.records(streams.WORK)]


async def test_apply_compares_and_changes(oneprotect: RunHere) -> None:
    """--check exits with code 1 and changes nothing; `apply` then removes the differences."""
    smaller = {"work_per_destination": "7"}

    compared = await oneprotect("apply", "--check", **smaller)
    compared_again = await oneprotect("apply", "--check", "--json", **smaller)
    applied = await oneprotect("apply", **smaller)
    well = await oneprotect("apply", "--check", **smaller)

    assert (compared.code, compared_again.code, applied.code, well.code) == (1, 1, 0, 0)
    assert "max_msgs_per_subject: 1000 → 7" in compared.out
    changes = [change for change in compared_again.json["changes"] if change["action"] != "none"]
    assert [(change["name"], change["fields"]) for change in changes] == [
        ("ONEPROTECT_WORK", {"max_msgs_per_subject": [1000, 7]})
    ]
    assert f"1 of {len(compared_again.json['changes'])} changed" in applied.out
    assert "Everything is up to date." in well.out


@pytest.mark.parametrize(
    "payload", [b'{"b" : 1.50,\n "a":[ 1e2, "\\u00e4\xc3\xa4" ]}', b"null", b'"text"', b"[" * 50 + b"]" * 50]
)
async def test_deliver_embeds_json_byte_for_byte(site: Site, oneprotect: RunHere, payload: bytes) -> None:
    """The stored request contains the JSON byte for byte, and consumers can read it."""
    await site.destination("orders", "https://acme.com/hook")

    ran = await oneprotect(*DELIVER, "--data", "-", stdin=b" \n" + payload + b"\n")

    (record,) = await site.records(streams.WORK)
    request = decode_request(record.data)
    assert (ran.code, ran.err) == (0, "")
    assert request.id == ran.out.strip()
    assert request.data.body() == payload
    assert b'"payload":' + payload in record.data
    assert (request.tenant, request.data.destination) == (TENANT, "orders")
    assert (request.data.event_type, request.data.body_content_type) == ("invoice.paid", "application/json")
    assert record.subject == subjects.requested(TENANT, "orders")
    assert record.headers["Nats-Msg-Id"] == f"{TENANT}.orders.{request.id}"
    assert record.headers["content-type"] == "application/cloudevents+json"


@pytest.mark.parametrize(
    ("options", "content_type"),
    [
        (("--content-type", "text/plain; charset=utf-8"), "text/plain; charset=utf-8"),
        (("--base64",), "application/json"),
    ],
)
async def test_deliver_sends_other_bodies_as_they_are(
    site: Site, oneprotect: RunHere, tmp_path: Path, options: tuple[str, ...], content_type: str
) -> None:
    """Bodies of other types, and JSON with significant white space, arrive as the same bytes."""
    await site.destination("orders", "https://acme.com/hook")
    body = b'\n{"a": 1}\n'
    (tmp_path / "body").write_bytes(body)

    ran = await oneprotect(*DELIVER, "--data", str(tmp_path / "body"), *options, "--json")

    (record,) = await site.records(streams.WORK)
    request = decode_request(record.data)
    assert ran.code == 0
    assert request.data.body() == body
    assert request.data.payload_base64 == base64.b64encode(body).decode()
    assert request.data.body_content_type == content_type


async def test_deliver_reports_a_duplicate(site: Site, oneprotect: RunHere) -> None:
    """A repeated id and destination are stored once, and reported as a duplicate."""
    await site.destination("orders", "https://acme.com/hook")

    first = await oneprotect(*DELIVER, "--data", "-", "--id", "order-1", "--json", stdin=b"1")
    second = await oneprotect(*DELIVER, "--data", "-", "--id", "order-1", stdin=b"1")

    assert (first.code, second.code) == (0, 0)
    assert (first.json["id"], first.json["duplicate"]) == ("order-1", False)
    assert second.out == "order-1\n"
    assert second.err.startswith("note: duplicate: ")
    assert await _requested(site) == ["order-1"]


async def test_deliver_goes_to_the_overflow_when_the_destination_is_full(site: Site, oneprotect: RunHere) -> None:
    """Beyond a destination's limit of due work, a request is stored in the overflow and reported."""
    await site.destination("orders", "https://acme.com/hook")
    await oneprotect("apply", work_per_destination="1")

    due = await oneprotect(*DELIVER, "--data", "-", "--id", "one", "--json", stdin=b"1")
    over = await oneprotect(*DELIVER, "--data", "-", "--id", "two", "--json", stdin=b"2")
    over_again = await oneprotect(*DELIVER, "--data", "-", "--id", "three", stdin=b"3")

    overflown = await site.records(streams.OVERFLOW)
    assert (due.json["overflow"], over.json["overflow"]) == (False, True)
    assert over.json["stream"] == "ONEPROTECT_OVERFLOW"
    assert "note: overflow: " in over_again.err
    assert await _requested(site) == ["one"]
    assert [decode_request(record.data).id for record in overflown] == ["two", "three"]
    assert overflown[0].headers["Nats-Msg-Id"] == f"{TENANT}.orders.two"


async def test_deliver_to_nowhere_needs_force(site: Site, oneprotect: RunHere) -> None:
    """An unknown destination is an error before the request is published; --force publishes it."""
    refused = await oneprotect(*DELIVER, "--data", "-", stdin=b"1")
    nothing = await _requested(site)
    forced = await oneprotect(*DELIVER, "--data", "-", "--force", "--id", "x", stdin=b"1")

    assert (refused.code, forced.code) == (1, 0)
    assert "`oneprotect destination set`, or publish with --force" in refused.err
    assert nothing == []
    assert await _requested(site) == ["x"]


async def test_deliver_to_a_disabled_destination_is_stored_with_a_notice(site: Site, oneprotect: RunHere) -> None:
    """A delivery to a disabled destination is stored, and a notice says that it will be retained."""
    await site.destination("orders", "https://acme.com/hook")
    await oneprotect("destination", "disable", "orders", "--tenant", TENANT)

    ran = await oneprotect(*DELIVER, "--data", "-", "--id", "x", stdin=b"1")

    assert (ran.code, await _requested(site)) == (0, ["x"])
    assert "disabled" in ran.err


async def test_deliver_refuses_requests_that_consumers_would_quarantine(site: Site, oneprotect: RunHere) -> None:
    """An invalid request exits with code 2, by field and rule, without its content and without a publication."""
    await site.destination("orders", "https://acme.com/hook")

    runs = [
        await oneprotect(*DELIVER, "--data", "-", *options, stdin=data, max_payload_bytes="120000")
        for data, options, _ in BAD_REQUESTS
    ]
    nothing = await _requested(site)
    right = await oneprotect(*DELIVER, "--data", "-", stdin=b"1")

    assert {(ran.code, ran.out, ran.err.count("\n")) for ran in runs} == {(2, "", 1)}
    assert [ran.err for ran, (_, _, told) in zip(runs, BAD_REQUESTS, strict=True) if told not in ran.err] == []
    assert not [ran.err for ran in runs if "idden" in ran.err]
    assert nothing == []
    assert (right.code, await _requested(site)) == (0, [right.out.strip()])


async def test_a_destination_life_cycle(oneprotect: RunHere) -> None:
    """A destination is set, shown, listed, disabled, enabled and deleted, with output for people and programs."""
    to = ("orders", "--tenant", TENANT)
    fields = (
        "--url",
        "https://acme.com/hook",
        "--credential",
        "key",
        "--event-type",
        "invoice.*",
        "--header",
        "x-a: b:c",
    )

    ran = await oneprotect("destination", "set", *to, *fields, "--retry-schedule-s", "5,60", "--timeout-s", "3")
    shown = await oneprotect("destination", "get", *to)
    view = (await oneprotect("destination", "get", *to, "--json")).json
    disabled = (await oneprotect("destination", "disable", *to, "--reason", "moves", "--json")).json
    listed = await oneprotect("destination", "list", "--tenant", TENANT)
    (in_list,) = (await oneprotect("destination", "list", "--tenant", TENANT, "--json")).json
    enabled = await oneprotect("destination", "enable", *to)
    deleted = (await oneprotect("destination", "delete", *to, "--json")).json
    gone = await oneprotect("destination", "get", *to)

    assert (ran.code, ran.out) == (0, f"Destination {TENANT}/orders is set.\n")
    assert "https://acme.com/hook" in shown.out
    assert (view["tenant"], view["id"], view["headers"]) == (TENANT, "orders", {"x-a": "***"})
    assert (view["retry_schedule_s"], view["timeout_s"], view["enabled"]) == ([5, 60], 3, True)
    assert (disabled["enabled"], disabled["disabled_reason"]) == (False, "moves")
    assert "no: moves" in listed.out
    assert in_list == disabled
    assert (enabled.code, enabled.out) == (0, f"Destination {TENANT}/orders is enabled.\n")
    assert deleted == {"id": "orders", "tenant": TENANT, "deleted": True}
    assert (gone.code, gone.err) == (
        1, "error: the tenant has no destination of this name; see `oneprotect destination list`\n",
    )  # fmt: skip


async def test_a_bad_destination_is_refused(oneprotect: RunHere) -> None:
    """An invalid destination exits with code 2 and a missing one with 1, in one line without the input."""
    for fields, code, told in BAD_DESTINATIONS:
        plain = await oneprotect("destination", "set", "orders", "--tenant", TENANT, *fields)
        as_json = await oneprotect("destination", "set", "orders", "--tenant", TENANT, *fields, "--json")

        assert (plain.code, as_json.code, plain.err.count("\n")) == (code, code, 1)
        assert told in plain.err
        assert told in as_json.error["error"]
        assert "hidden" not in plain.err + as_json.err + plain.out


async def test_a_credential_life_cycle_shows_no_ref(site: Site, oneprotect: RunHere) -> None:
    """A credential is set, shown, listed and deleted, and no output contains its ref."""
    to = ("hook-key", "--tenant", TENANT)

    runs = [
        await oneprotect("credential", "set", *to, "--secret-ref", REF),
        await oneprotect("credential", "set", *to, "--secret-ref", REF, "--json"),
        await oneprotect("credential", "get", *to),
        await oneprotect("credential", "get", *to, "--json"),
        await oneprotect("credential", "list", "--tenant", TENANT),
        await oneprotect("credential", "list", "--tenant", TENANT, "--json"),
    ]
    await site.jetstream.configuration.set_destination(
        TENANT, "orders", {"url": "https://acme.com/", "credential": "hook-key"}, by="test"
    )
    used = await oneprotect("credential", "delete", *to)
    await oneprotect("destination", "delete", "orders", "--tenant", TENANT)
    deleted = await oneprotect("credential", "delete", *to, "--json")
    refused = await oneprotect("credential", "set", *to, "--secret-ref", site.secret)

    assert [ran.code for ran in runs] == [0] * 6
    assert runs[3].json["status"] == "unchecked"
    assert [view["id"] for view in runs[5].json] == ["hook-key", "key"]
    assert (used.code, "orders" in used.err) == (1, True)
    assert deleted.json["deleted"] is True
    assert refused.code == 2
    assert "secret_ref: expected `k8s://NAMESPACE/SECRET/KEY` or `k8s://SECRET/KEY`" in refused.err
    told = "".join(ran.out + ran.err for ran in [*runs, used, deleted, refused])
    assert "signing-key" not in told
    assert site.secret not in told


async def test_attempts_are_listed_newest_last(site: Site, oneprotect: RunHere) -> None:
    """The list has all attempts by default. Filters: tenant, destination, delivery, outcome, code, time and number."""
    await _record(site, "one")
    between = datetime.now(UTC).isoformat()
    await _record(site, "two", outcome=Outcome.RETRY_SCHEDULED, code=Code.HTTP_5XX, next_attempt_at=datetime.now(UTC))
    await _record(site, "two", attempt=2, outcome=Outcome.FAILED, code=Code.HTTP_410)
    await _record(site, "three", destination="other")

    async def listed(*options: str) -> list[tuple[str, int]]:
        ran = await oneprotect("attempts", "--json", *options)
        assert ran.code == 0
        results = [json.loads(line) for line in ran.out.splitlines()]
        assert all(result["tenant"] == TENANT for result in results)
        return [(result["delivery"], result["attempt"]) for result in results]

    shown = await oneprotect("attempts", "--tenant", TENANT)
    nothing = await oneprotect("attempts", "--tenant", "globex")

    assert await listed() == [("one", 1), ("two", 1), ("two", 2), ("three", 1)]
    assert await listed("--limit", "2") == [("two", 2), ("three", 1)]
    assert await listed("--tenant", TENANT, "--destination", "orders", "--since", between) == [("two", 1), ("two", 2)]
    assert await listed("--until", between) == [("one", 1)]
    assert await listed("--id", "two", "--outcome", "failed") == [("two", 2)]
    assert await listed("--code", "http.5xx", "--code", "http.410") == [("two", 1), ("two", 2)]
    assert [line.split()[3] for line in shown.out.splitlines()] == ["#1", "#1", "#2", "#1"]
    assert (nothing.code, nothing.out, nothing.err) == (
        0,
        "",
        "note: no stored attempt matches; check the names of the tenant and the destination\n",
    )


async def test_the_newest_are_found_behind_many_others(site: Site, oneprotect: RunHere) -> None:
    """An old delivery is found behind thousands of newer results."""
    await _record(site, "old", destination="quiet")
    async with asyncio.TaskGroup() as tasks:
        for number in range(6000):
            tasks.create_task(_record(site, f"d{number}"))

    found = await oneprotect("attempts", "--tenant", TENANT, "--destination", "quiet", "--json")
    newest = await oneprotect("attempts", "--limit", "1500", "--json")

    assert found.json["delivery"] == "old"
    assert len(newest.out.splitlines()) == 1500


async def test_attempts_are_followed_until_interrupted(site: Site) -> None:
    """--follow shows stored results, then each new result once, and exits with code 0 on Ctrl-C."""
    await _record(site, "before")
    environ = site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}
    process = await Process.start(
        environ, "attempts", "--tenant", TENANT, "--outcome", "delivered", "--follow", "--json"
    )

    await until(lambda: process.says('"before"'), 20)
    await _record(site, "other", outcome=Outcome.FAILED, code=Code.HTTP_410)
    await _record(site, "after")
    await until(lambda: process.says('"after"'))
    process.terminate()

    assert await process.wait() == 0
    assert [json.loads(line)["delivery"] for line in process.output.splitlines()] == ["before", "after"]


async def test_a_dry_run_shows_the_deliveries_of_a_replay(site: Site, oneprotect: RunHere) -> None:
    """--dry-run counts by destination and code, counts superseded deliveries, shows a sample, and requests nothing."""
    (superseded, *_) = await _keep(site, 12)
    await _keep(site, 2, code=Code.SECRET_NOT_FOUND, destination="other")
    await _record(site, superseded, attempt=9)

    shown = await oneprotect("replay", "--tenant", TENANT, "--dry-run")
    preview = (await oneprotect("replay", "--tenant", TENANT, "--dry-run", "--json")).json
    by_code = (await oneprotect("replay", "--tenant", TENANT, "--code", "secret.not_found", "--dry-run", "--json")).json

    assert "13 would be replayed; 1 would be skipped" in shown.out
    assert superseded in shown.out
    assert (preview["replayable"], preview["superseded"], len(preview["sample"])) == (13, 1, 10)
    assert preview["by"] == [
        {"destination": "orders", "code": "http.5xx", "count": 11},
        {"destination": "other", "code": "secret.not_found", "count": 2},
    ]
    assert [sample["superseded"] for sample in preview["sample"]] == [True] + [False] * 9
    assert by_code["replayable"] == 2
    assert await _requested(site) == []


async def test_a_replay_requests_matching_deliveries_once(site: Site, oneprotect: RunHere) -> None:
    """A replay requests the deliveries of its filter, and a second one skips those that are pending."""
    first, second = await _keep(site, 2)

    one = await oneprotect("replay", "--tenant", TENANT, "--id", first)
    after_one = await _requested(site)
    both = await oneprotect("replay", "--tenant", TENANT, "--since", "1h", "--json")

    assert (one.code, both.code) == (0, 0)
    assert "is finished: 1 replayed, 0 skipped." in one.out
    assert one.err == ""
    assert after_one == [first]
    assert (both.json["state"], both.json["replayed"], both.json["resumed"]) == ("finished", 1, False)
    assert both.json["skipped"] == 1
    assert both.json["by"].startswith("cli:")
    assert await _requested(site) == [first, second]


@pytest.mark.retry
async def test_an_interrupted_replay_resumes_with_the_printed_command(site: Site, oneprotect: RunHere) -> None:
    """An interrupted replay exits with code 1, and the printed command requests each remaining delivery once."""
    deliveries = await _keep(site, 60)
    environ = site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}
    arguments = ("replay", "--tenant", TENANT, "--since", "2h", "--code", "http.5xx", "--rate", "20", "--json")
    process = await Process.start(environ, *arguments)

    async def has_begun() -> bool:
        return len(await _requested(site)) > 3

    await until(has_begun, 20)
    process.terminate()
    code = await process.wait()
    told = json.loads(process.output)
    before = await _requested(site)
    command = shlex.split(told["resume"])
    rest = await oneprotect(*command[1 : command.index("--rate")], "--json")

    assert code == 1
    assert told["error"].startswith("interrupted; ")
    assert 3 < told["replayed"] < 60
    assert (rest.json["replay"], rest.json["resumed"]) == (told["replay"], True)
    assert (rest.json["replayed"], rest.json["state"]) == (60, "finished")
    assert len(before) < 60
    assert sorted(await _requested(site)) == sorted(deliveries)


async def test_secret_check_gives_a_remedy(site: Site, oneprotect: RunHere) -> None:
    """An unusable secret exits with code 1, its result code and a remedy, without the ref."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "short",
            "namespace": NAMESPACE,
            "labels": {"oneprotect.io/tenant": TENANT, "oneprotect.io/purpose": "webhook-signing"},
        },
        "data": {"signing": base64.b64encode(b"whsec_c2hvcnQ=").decode()},
    }
    (site.directory / "secrets" / NAMESPACE / "short.json").write_text(json.dumps(manifest))

    for ref, tenant, told in BAD_SECRETS:
        plain = await oneprotect("secret", "check", ref, "--tenant", tenant)
        as_json = await oneprotect("secret", "check", ref, "--tenant", tenant, "--json")

        assert (plain.code, as_json.code, plain.out) == (1, 1, "")
        assert plain.err.startswith(f"error: {told}")
        assert plain.err.count("\n") == 1
        assert as_json.error["code"] == told.partition(":")[0]
        assert ref not in plain.err + as_json.err


async def test_secret_check_shows_all_but_the_secret(site: Site, oneprotect: RunHere) -> None:
    """A usable secret shows its version and keys, and no form of its value."""
    plain = await oneprotect("secret", "check", REF, "--tenant", TENANT)
    as_json = await oneprotect("secret", "check", REF, "--tenant", TENANT, "--json")

    assert (plain.code, as_json.code) == (0, 0)
    assert as_json.json["signs_with"] == ["current"]
    assert as_json.json["version"] in plain.out
    assert (as_json.json["rollover_expires_at"], as_json.json["provider"]) == (None, "local")
    told = plain.out + plain.err + as_json.out + as_json.err
    assert site.secret.removeprefix("whsec_") not in told
    assert "signing-key" not in told


async def test_verify_accepts_a_valid_signature_and_explains_an_invalid_one(
    site: Site, oneprotect: RunHere, tmp_path: Path
) -> None:
    """A valid request exits with code 0 and a changed body with 1; neither output shows the secret."""
    body, delivery, now = b'{"a":  1}', "dlv_1", datetime.now(UTC)
    signature = Webhook(site.secret).sign(delivery, now, body.decode())
    headers = f"""POST / HTTP/1.1
webhook-id: {delivery}
webhook-timestamp: {int(now.timestamp())}
webhook-signature: {signature}
"""
    (tmp_path / "headers").write_text(headers)
    (tmp_path / "secret").write_text(site.secret + "\n")
    (tmp_path / "body").write_bytes(body)
    (tmp_path / "anew").write_bytes(b'{"a":  1}\n')
    given = ("--secret-file", str(tmp_path / "secret"), "--headers", str(tmp_path / "headers"))

    right = await oneprotect("verify", *given, "--body", str(tmp_path / "body"))
    right_json = await oneprotect("verify", *given, "--body", "-", "--json", stdin=body)
    anew = await oneprotect("verify", *given, "--body", str(tmp_path / "anew"))
    anew_json = await oneprotect("verify", *given, "--body", str(tmp_path / "anew"), "--json")
    late = await oneprotect("verify", *given, "--body", str(tmp_path / "body"), "--at", "2040-01-01T00:00:00Z")
    one_by_one = await oneprotect(
        "verify", "--secret-file", "-", "--body", str(tmp_path / "body"),
        *(part for line in headers.splitlines()[1:] for part in ("--header", line)),
        stdin=site.secret.encode(),
    )  # fmt: skip

    assert [ran.code for ran in (right, right_json, anew, anew_json, late, one_by_one)] == [0, 0, 1, 1, 1, 0]
    assert right_json.json["valid"] is True
    assert "extra line end" in anew_json.json["cause"]
    assert "extra line end" in anew.out
    assert "webhook-timestamp" in late.out
    told = "".join(ran.out + ran.err for ran in (right, right_json, anew, anew_json, late, one_by_one))
    assert site.secret.removeprefix("whsec_") not in told


async def test_another_body_under_a_used_id_is_an_error(site: Site, oneprotect: RunHere, tmp_path: Path) -> None:
    """As at the API, whose claims the command uses. A repeat is none, and an id in the quarantine is free."""
    await site.destination("orders", "https://acme.com/")
    for n in (1, 2):
        (tmp_path / f"{n}.json").write_text(f'{{"n": {n}}}')
    await site.publish("orders", document("elsewhere", delivery="k"), "k")
    (invalid,) = await site.records(streams.WORK)
    await site.jetstream.publisher.remove(streams.WORK.name, invalid.sequence)

    replies = [
        await oneprotect(*DELIVER, "--id", "k", "--data", str(tmp_path / f"{n}.json"), "--json") for n in (1, 1, 2)
    ]

    assert [reply.code for reply in replies] == [0, 0, 1]
    assert [reply.json["duplicate"] for reply in replies[:2]] == [False, True]
    assert replies[2].error["error"].startswith("This id was used with another body")
    assert [record.data.count(b'"n": 1') for record in await site.records(streams.WORK)] == [1]
