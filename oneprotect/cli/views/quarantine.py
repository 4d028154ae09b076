"""The quarantine on a terminal or as JSON."""

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec

from consumers.model.request import DeliveryAttemptRequest
from consumers.retention.quarantine import QuarantinedMessage, QuarantineStore
from messaging.publication import PublishAck
from oneprotect.bootstrap.resources import JetStream
from oneprotect.cli.support.context import current_user
from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.output import confirm, print_notice, write_fields, write_json, write_line, write_table
from oneprotect.settings.settings import Settings
from schemas import streams

PAGE_SIZE: Final = 200
"""Messages that a release of many reads at a time."""


class ReleaseCheck(msgspec.Struct, frozen=True):
    """Result of reading a quarantined message: its delivery, or the problem."""

    delivery: DeliveryAttemptRequest | None
    problem: str | None = None


class QuarantineCli:
    """Commands on the quarantine. Every method raises `CliError` and `JetStreamError`."""

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
        """Write the newest messages that match, newest first."""
        found = await self._quarantine.read_newest(
            tenant=tenant, code=code, since=since, until=until, limit=limit, before=before
        )
        following = found[-1].sequence if len(found) == limit else None
        if self._as_json:
            write_json({"quarantined": [_message_fields(message) for message in found], "next": following})
            return
        write_table(
            ("n", "stored at", "from", "code", "reason", "bytes"),
            [(one.sequence, one.kept_at, one.origin, one.code, one.reason, len(one.data)) for one in found],
            empty="No quarantined message matches.",
        )
        if following:
            print_notice(f"there may be more; continue with --before {following}")

    async def show(self, number: int) -> None:
        """Write everything about a message except its bytes."""
        found = await self._get(number)
        check = self._check(found)
        if self._as_json:
            write_json(_message_fields(found) | {"headers": found.headers} | _check_fields(check))
            return
        fields: list[tuple[str, Any]] = [
            ("n", found.sequence),
            ("stored at", found.kept_at),
            ("from", found.origin),
            ("code", found.code),
            ("reason", found.reason),
            ("bytes", len(found.data)),
            ("valid now", "no: " + check.problem if check.problem else "yes"),
        ]
        write_fields(fields + [(f"header {name}", value) for name, value in sorted(found.headers.items())])

    async def write_raw(self, number: int) -> None:
        """Write the bytes of a message to stdout."""
        found = await self._get(number)
        sys.stdout.buffer.write(found.data)
        sys.stdout.buffer.flush()

    async def release(self, numbers: Iterable[int], *, force: bool, ask: bool) -> None:
        """Publish all these messages again, or none when one of them is still invalid."""
        messages = [await self._get(number) for number in dict.fromkeys(numbers)]
        checked = [(found, self._check(found)) for found in messages]
        for found, check in checked:
            if check.problem and not (force and found.is_request):
                raise CliError(
                    f"message {found.sequence} is still invalid, so nothing was released: {check.problem}",
                    fields={"n": found.sequence, "problem": check.problem},
                )
        if not self._as_json:
            rows = [
                (found.sequence, found.origin, check.delivery.id if check.delivery else None, check.problem or "yes")
                for found, check in checked
            ]
            write_table(("n", "to", "delivery", "valid now"), rows, empty="")
        if ask and not self._as_json and not confirm(f"Publish {len(checked)} messages again?"):
            raise CliError("nothing was released")
        results: list[dict[str, object]] = []
        for found, check in checked:
            stored = await self._quarantine.release(found, by=current_user(), delivery=check.delivery)
            results.append(_message_fields(found) | _check_fields(check) | _stored_fields(stored))
        if self._as_json:
            write_json(results)
            return
        duplicates = sum(bool(result["duplicate"]) for result in results)
        write_line(
            f"{len(results) - duplicates} released"
            + (f"; {duplicates} had been released a moment ago." if duplicates else ".")
        )

    async def release_all(
        self, *, tenant: str | None, code: str | None, since: datetime | None, until: datetime | None, ask: bool
    ) -> None:
        """Publish all requests again that match and are valid now, newest first; skip the others."""
        if ask and not self._as_json and not confirm("Publish all matching requests that are valid now?"):
            raise CliError("nothing was released")
        counts, before = {"released": 0, "duplicates": 0, "skipped": 0}, None
        while True:
            page = await self._quarantine.read_newest(
                tenant=tenant, code=code, since=since, until=until, limit=PAGE_SIZE, before=before
            )
            for found in page:
                check = self._check(found)
                if check.delivery is None:
                    counts["skipped"] += 1
                    continue
                stored = await self._quarantine.release(found, by=current_user(), delivery=check.delivery)
                counts["duplicates" if stored.duplicate else "released"] += 1
            if len(page) < PAGE_SIZE:
                break
            before = page[-1].sequence
        if self._as_json:
            write_json(counts)
        else:
            parts = (
                (counts["released"], "released"),
                (counts["duplicates"], "had been released a moment ago"),
                (counts["skipped"], "skipped: still invalid"),
            )
            said = [f"{count} {what}" for number, (count, what) in enumerate(parts) if count or number == 0]
            write_line("; ".join(said) + ".")

    async def _get(self, number: int) -> QuarantinedMessage:
        found = await self._quarantine.get(number)
        if found is None:
            raise CliError(f"message {number} is not in the quarantine; see `oneprotect quarantine list`")
        return found

    def _check(self, found: QuarantinedMessage) -> ReleaseCheck:
        try:
            return ReleaseCheck(self._quarantine.decode_request(found, max_payload_bytes=self._max_payload_bytes))
        except ValueError as error:
            return ReleaseCheck(None, str(error))


def _message_fields(found: QuarantinedMessage) -> dict[str, object]:
    fields = ("sequence", "kept_at", "tenant", "origin", "code", "reason")
    values: dict[str, object] = {field: getattr(found, field) for field in fields}
    return {"n": values.pop("sequence")} | values | {"bytes": len(found.data)}


def _check_fields(check: ReleaseCheck) -> dict[str, object]:
    delivery = check.delivery.id if check.delivery else None
    return {"understood": check.delivery is not None, "problem": check.problem, "delivery": delivery}


def _stored_fields(stored: PublishAck) -> dict[str, object]:
    return {"duplicate": stored.duplicate, "overflow": stored.stream == streams.OVERFLOW.name}
