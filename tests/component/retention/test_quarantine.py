"""`oneprotect quarantine`: unreadable messages are listed, shown, and published again."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from messaging.publication import Publication
from schemas import streams, subjects
from schemas.codes import Code
from schemas.headers import HEADER_ATTEMPT, HEADER_CODE, HEADER_ORIGIN, HEADER_REASON, HEADER_SINCE
from tests.support.commandline import Ran
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Process, Site, document
from tests.support.terminal import at_terminal
from tests.support.waiting import until

RunHere = Callable[..., Awaitable[Ran]]

POISON = b'{"secret": "\x00\xff'
WORK = subjects.requested(TENANT, "orders")
TOO_BIG = b'"' + b"x" * 262_143 + b'"'


async def _quarantine(
    site: Site, data: bytes, *, origin: str = WORK, code: Code = Code.EVENT_INVALID, **headers: str
) -> int:
    """Keep a message as a consumer does; its number."""
    own = {
        HEADER_ORIGIN: origin,
        HEADER_CODE: code.value,
        HEADER_REASON: "not a JSON document",
    }
    publication = Publication(subjects.quarantined(origin), data, {"content-type": "a/b"} | headers | own)
    return (await site.jetstream.publisher.publish(publication)).seq


async def _events(site: Site) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(record.data)
        for record in await site.records(streams.EVENTS)
        if record.subject.startswith("oneprotect.event.quarantine.released.")
    ]


async def test_quarantined_messages_are_listed_with_their_reasons(site: Site, oneprotect: RunHere) -> None:
    """The list is newest first, filtered by tenant, code, time and number, and without payloads."""
    first = await _quarantine(site, POISON)
    second = await _quarantine(site, POISON, origin=subjects.due("globex", "a"), code=Code.INTERNAL)
    third = await _quarantine(site, POISON)

    async def numbers(*options: str) -> list[int]:
        ran = await oneprotect("quarantine", "list", "--json", *options)
        assert ran.code == 0
        return [row["n"] for row in ran.json["quarantined"]]

    shown = await oneprotect("quarantine", "list")

    assert await numbers() == [third, second, first]
    assert await numbers("--tenant", TENANT) == [third, first]
    assert await numbers("--tenant", "globex", "--code", "internal") == [second]
    assert await numbers("--until", "1h") == []
    assert await numbers("--since", "1h", "--limit", "2") == [third, second]
    assert await numbers("--before", str(third), "--limit", "1") == [second]
    assert "not a JSON document" in shown.out
    assert WORK in shown.out
    assert "secret" not in shown.out


async def test_a_quarantined_message_is_shown(site: Site, oneprotect: RunHere) -> None:
    """The command shows the present problem; `--raw` writes only the original bytes."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    number = str(await _quarantine(site, POISON, traceparent=trace))

    shown = await oneprotect("quarantine", "show", number)
    as_json = (await oneprotect("quarantine", "show", number, "--json")).json
    raw = await Process.start(site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}, "quarantine", "show", number, "--raw")
    await raw.wait()
    unknown = await oneprotect("quarantine", "show", "99")
    both = await oneprotect("quarantine", "show", number, "--json", "--raw")

    assert "no: not a JSON document" in shown.out
    assert as_json["headers"] == {"content-type": "a/b", "traceparent": trace}
    assert (as_json["origin"], as_json["understood"], as_json["bytes"]) == (WORK, False, len(POISON))
    assert bytes(raw.output) == POISON
    assert (unknown.code, unknown.err) == (
        1, "error: message 99 is not in the quarantine; see `oneprotect quarantine list`\n",
    )  # fmt: skip
    assert both.code == 2
    assert "secret" not in shown.out + str(as_json)


async def test_a_released_message_returns_to_its_subject(site: Site, receiver: Scripted, oneprotect: RunHere) -> None:
    """A message that fits a raised limit is requested unchanged and stays in the quarantine."""
    await site.destination("orders", receiver.url)
    async with site.consumer():
        await site.publish("orders", document("orders", payload=TOO_BIG, delivery="big"), "big")
        await until(lambda: site.records(streams.QUARANTINE), 10)
        (kept,) = await site.records(streams.QUARANTINE)
        number = str(kept.sequence)
        refused = await oneprotect("quarantine", "release", number, "--json")
        nothing = await _events(site)

    raised = {"max_payload_bytes": "300000"}
    released = await oneprotect("quarantine", "release", number, "--json", **raised)
    again = await oneprotect("quarantine", "release", number, **raised)
    (waiting,) = await site.records(streams.WORK)

    assert (refused.code, nothing) == (1, [])
    assert "is still invalid, so nothing was released: the payload has 262145 bytes" in refused.error["error"]
    assert released.code == 0
    assert [(row["delivery"], row["understood"], row["duplicate"]) for row in released.json] == [("big", True, False)]
    assert again.out.endswith("0 released; 1 had been released a moment ago.\n")
    assert (waiting.subject, waiting.data) == (kept.headers[HEADER_ORIGIN], kept.data)
    assert not [name for name in waiting.headers if name in (HEADER_REASON, HEADER_ORIGIN)]
    assert len(await site.records(streams.QUARANTINE)) == 1
    told = (await _events(site))[0]
    assert told["tenant"] == TENANT
    assert told["data"] == {
        "sequence": kept.sequence, "subject": WORK, "by": told["data"]["by"], "understood": True, "delivery": "big"
    }  # fmt: skip
    assert told["data"]["by"].startswith("cli:")


async def test_all_or_none_are_released(site: Site, oneprotect: RunHere) -> None:
    """A message that would return prevents the release unless forced, and an invalid request is never released."""
    request = document("orders", delivery="dlv_1")
    good = str(await _quarantine(site, request, code=Code.INTERNAL))
    bad = str(await _quarantine(site, POISON))
    foreign = str(await _quarantine(site, POISON, origin="oneprotect.delivery.attempted.acme.orders"))

    held_up = await oneprotect("quarantine", "release", good, bad)
    waiting = await site.records(streams.WORK)
    never = await oneprotect("quarantine", "release", good, foreign, "--force")
    forced = await oneprotect("quarantine", "release", good, bad, good, "--force")

    assert (held_up.code, never.code, forced.code) == (1, 1, 0)
    assert held_up.err == f"error: message {bad} is still invalid, so nothing was released: not a JSON document\n"
    assert "it did not come from a subject of requests" in never.err
    assert waiting == []
    assert forced.out.endswith("2 released.\n")
    assert [record.data for record in await site.records(streams.WORK)] == [request, POISON]
    assert [event["data"]["understood"] for event in await _events(site)] == [True, False]


async def test_a_released_retry_keeps_its_state(site: Site, receiver: Scripted, oneprotect: RunHere) -> None:
    """A message quarantined at its third attempt is attempted as the third."""
    await site.destination("orders", receiver.url)
    origin = subjects.due(TENANT, "orders")
    data = document("orders", delivery="dlv_1")
    number = await _quarantine(site, data, origin=origin, code=Code.INTERNAL, **{HEADER_ATTEMPT: "3"})

    ran = await oneprotect("quarantine", "release", str(number))
    async with site.consumer():
        await until(lambda: receiver.seen, 10)
        await until(site.is_settled, 10)

    (result,) = await site.results("dlv_1")
    assert ran.code == 0
    assert (result.attempt, result.outcome) == (3, "delivered")


@pytest.mark.parametrize("origin", [subjects.ordered(TENANT, "orders"), subjects.overflow(TENANT, "orders")])
async def test_a_head_of_an_ordered_queue_is_released(
    site: Site, receiver: Scripted, oneprotect: RunHere, origin: str
) -> None:
    """Its destination delivers it in order, with the attempt that it had reached."""
    await site.destination("orders", receiver.url, ordering="fifo")
    data = document("orders", delivery="dlv_1")
    number = await _quarantine(site, data, origin=origin, code=Code.INTERNAL, **{HEADER_ATTEMPT: "3"})

    ran = await oneprotect("quarantine", "release", str(number))
    await site.deliver("orders", delivery="dlv_2")
    async with site.consumer():
        await until(lambda: len(receiver.seen) == 2, 20)
        await until(site.is_settled, 10)

    (result,) = await site.results("dlv_1")
    assert ran.code == 0
    assert receiver.ids() == ["dlv_1", "dlv_2"]
    assert (result.attempt, result.outcome) == (3, "delivered")


async def test_all_valid_requests_are_released_at_once_and_sent_once(
    site: Site, receiver: Scripted, oneprotect: RunHere
) -> None:
    """Good deliveries that an outage brought there; what is invalid stays, and a second release sends nothing."""
    await site.destination("orders", receiver.url)
    since = datetime.now(UTC).isoformat()
    for number in range(3):
        good = document("orders", delivery=f"dlv_{number}")
        await _quarantine(site, good, code=Code.INTERNAL, **{HEADER_SINCE: since})
    await _quarantine(site, POISON, code=Code.INTERNAL)
    await _quarantine(site, document("orders", delivery="dlv_other"))

    async with site.consumer():
        first = await oneprotect("quarantine", "release", "--all", "--code", "internal", "--yes", "--json")
        await until(lambda: len(receiver.seen) == 3, 20)
        await until(site.is_settled, 20)
        await site.server.restart()  # which forgets ids
        again = await oneprotect("quarantine", "release", "--all", "--code", "internal", "--yes", "--json")
        await until(site.is_settled, 20)

        said = await oneprotect("quarantine", "release", "--all", "--code", "internal", "--yes")

    assert said.out == "0 released; 3 had been released a moment ago; 1 skipped: still invalid.\n"
    assert first.json == {"released": 3, "duplicates": 0, "skipped": 1}
    assert again.json == {"released": 3, "duplicates": 0, "skipped": 1}
    assert sorted(receiver.ids()) == ["dlv_0", "dlv_1", "dlv_2"]


async def test_numbers_and_all_exclude_each_other(oneprotect: RunHere) -> None:
    """A mistake releases nothing."""
    for options in ((), ("7", "--all"), ("--all", "--force")):
        assert (await oneprotect("quarantine", "release", *options, "--yes")).code == 2


async def test_a_terminal_gets_a_prompt(site: Site) -> None:
    """Only yes releases messages, and `--yes` skips the prompt."""
    number = str(await _quarantine(site, document("orders"), code=Code.INTERNAL))

    no = await at_terminal(site.environ, "quarantine", "release", number, types=b"no\n")
    nothing = await site.records(streams.WORK)
    yes = await at_terminal(site.environ, "quarantine", "release", number, types=b"y\n")
    unasked = await at_terminal(site.environ, "quarantine", "release", number, "--yes")

    assert (no.code, yes.code, unasked.code) == (1, 0, 0)
    assert "Publish 1 messages again? [y/N]" in no.err
    assert "error: nothing was released" in no.err
    assert nothing == []
    assert "1 released." in yes.out
    assert "[y/N]" not in unasked.err
    assert len(await site.records(streams.WORK)) == 1


@pytest.mark.parametrize("command", ["list", "show", "release"])
async def test_help_has_an_example(oneprotect: RunHere, command: str) -> None:
    """Each command has `--json` and a complete example."""
    ran = await oneprotect("quarantine", command, "--help")

    assert ran.code == 0
    assert "--json" in ran.out
    assert f"oneprotect quarantine {command}" in ran.out.partition("\n  Example")[2]
