"""The quarantine as it is shown at the command line."""

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from consumers.model.request import DeliveryAttemptRequest
from consumers.retention.quarantine import QuarantinedMessage, QuarantineStore
from messaging.publisher import PublishAck
from oneprotect.bootstrap.resources import JetStream
from oneprotect.cli.support.context import current_user
from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.output import print_notice, write_fields, write_json, write_line, write_table
from oneprotect.cli.support.prompt import is_yes
from oneprotect.settings.settings import Settings
from schemas import subjects


class ReleaseCheck(msgspec.Struct, frozen=True):
    """Whether a message would be understood now: what it asks for, or what is wrong with it."""

    delivery: DeliveryAttemptRequest | None
    problem: str | None = None


class QuarantineCli:
    """Shows and releases. Any method raises `CliError` and `JetStreamError`."""

    def __init__(self, jetstream: JetStream, settings: Settings, *, as_json: bool) -> None:
        self._quarantine = QuarantineStore(jetstream.connection, jetstream.publisher)
        self._max_payload_bytes = settings.delivery.max_payload_bytes
        self._as_json = as_json

    async def list_newest(
        self,
        *,
        tenant: str | None,
        code: str | None,
        since: datetime | None,
        until: datetime | None,
        limit: int,
        before: int | None,
    ) -> None:
        """List the newest that fit, newest first."""
        found = await self._quarantine.read_newest(
            tenant=tenant, code=code, since=since, until=until, limit=limit, before=before
        )
        following = found[-1].sequence if len(found) == limit else None
        if self._as_json:
            write_json({"quarantined": [_as_json(one) for one in found], "next": following})
            return
        write_table(
            ("n", "kept at", "from", "code", "reason", "bytes"),
            [(one.sequence, one.kept_at, one.origin, one.code, one.reason, len(one.data)) for one in found],
            empty="Nothing that fits is in the quarantine.",
        )
        if following:
            print_notice(f"there may be more: go on with --before {following}")

    async def show(self, number: int) -> None:
        """Show all about one but its bytes."""
        found = await self._get(number)
        verdict = self._try(found)
        if self._as_json:
            write_json(_as_json(found) | {"headers": found.headers} | _verdict(verdict))
            return
        fields: list[tuple[str, Any]] = [
            ("n", found.sequence),
            ("kept at", found.kept_at),
            ("from", found.origin),
            ("code", found.code),
            ("reason", found.reason),
            ("bytes", len(found.data)),
            ("understood now", "no: " + verdict.problem if verdict.problem else "yes"),
        ]
        write_fields(fields + [(f"header {name}", value) for name, value in sorted(found.headers.items())])

    async def write_raw(self, number: int) -> None:
        """Write the bytes of one to stdout."""
        found = await self._get(number)
        sys.stdout.buffer.write(found.data)
        sys.stdout.buffer.flush()

    async def release(self, numbers: Iterable[int], *, force: bool, ask: bool) -> None:
        """Publish these again, all or, when one can't be, none."""
        chosen = [await self._get(number) for number in dict.fromkeys(numbers)]
        verdicts = [self._try(found) for found in chosen]
        for found, verdict in zip(chosen, verdicts, strict=True):
            if verdict.problem and not (force and found.kind in ("requested", "due")):
                raise CliError(
                    f"{found.sequence} would come back: {verdict.problem}. Nothing was released",
                    fields={"n": found.sequence, "problem": verdict.problem},
                )
        if not self._as_json:
            _say(chosen, verdicts)
        if ask and not self._as_json and not is_yes(f"Publish {len(chosen)} again?"):
            raise CliError("nothing was released")
        results: list[dict[str, object]] = []
        for found, verdict in zip(chosen, verdicts, strict=True):
            stored = await self._quarantine.release(found, by=current_user(), delivery=verdict.delivery)
            results.append(_as_json(found) | _verdict(verdict) | _stored(stored))
        if self._as_json:
            write_json(results)
        else:
            again = sum(bool(result["duplicate"]) for result in results)
            write_line(f"{len(results) - again} released" + (f"; {again} had been a moment ago." if again else "."))

    async def _get(self, number: int) -> QuarantinedMessage:
        found = await self._quarantine.get(number)
        if found is None:
            raise CliError(f"{number} is not in the quarantine; see `oneprotect quarantine list`")
        return found

    def _try(self, found: QuarantinedMessage) -> ReleaseCheck:
        try:
            return ReleaseCheck(self._quarantine.decode_request(found, max_payload_bytes=self._max_payload_bytes))
        except ValueError as error:
            return ReleaseCheck(None, str(error))


def _say(chosen: list[QuarantinedMessage], verdicts: list[ReleaseCheck]) -> None:
    rows = [
        (found.sequence, found.origin, verdict.delivery.id if verdict.delivery else None, verdict.problem or "yes")
        for found, verdict in zip(chosen, verdicts, strict=True)
    ]
    write_table(("n", "to", "delivery", "understood now"), rows, empty="")


def _as_json(found: QuarantinedMessage) -> dict[str, object]:
    fields = ("sequence", "kept_at", "tenant", "origin", "code", "reason")
    values: dict[str, object] = {field: getattr(found, field) for field in fields}
    return {"n": values.pop("sequence")} | values | {"bytes": len(found.data)}


def _verdict(verdict: ReleaseCheck) -> dict[str, object]:
    delivery = verdict.delivery.id if verdict.delivery else None
    return {"understood": verdict.delivery is not None, "problem": verdict.problem, "delivery": delivery}


def _stored(stored: PublishAck) -> dict[str, object]:
    return {"duplicate": stored.duplicate, "overflow": stored.stream == subjects.OVERFLOW.name}
