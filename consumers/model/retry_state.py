"""Where a delivery stands: which attempt, since when, in which replay. It rides in headers and nowhere else."""

from datetime import datetime
from typing import Final

import msgspec

from schemas import subjects
from schemas.events import AttemptResult
from schemas.ids import is_name


class RetryState(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The state of one delivery between attempts."""

    attempt: int = 1
    first_attempt_at: datetime | None = None
    replay: str | None = None
    replay_from: int = 1
    secret_waits: int = 0
    deferrals: int = 0
    trace: str | None = None

    @classmethod
    def from_headers(cls, headers: dict[str, str]) -> "RetryState":
        """Read what travels with a request. Raises `ValueError` naming the header."""
        replay = headers.get(subjects.HEADER_REPLAY)
        if replay is not None and not is_name(replay):
            raise ValueError(f"{subjects.HEADER_REPLAY} is not a replay's id")
        since = headers.get(subjects.HEADER_FIRST_ATTEMPT_AT)
        progress = cls(
            attempt=_whole(headers, subjects.HEADER_ATTEMPT, 1),
            first_attempt_at=parse_aware_datetime(since, subjects.HEADER_FIRST_ATTEMPT_AT) if since else None,
            replay=replay,
            replay_from=_whole(headers, subjects.HEADER_REPLAY_FROM, 1),
            secret_waits=_whole(headers, subjects.HEADER_SECRET_WAITS, 0),
            deferrals=_whole(headers, subjects.HEADER_DEFERRALS, 0),
            trace=headers.get(subjects.HEADER_TRACE),
        )
        if progress.attempts_in_schedule < 1:
            raise ValueError(f"{subjects.HEADER_REPLAY_FROM} is more than {subjects.HEADER_ATTEMPT}")
        return progress

    @property
    def attempts_in_schedule(self) -> int:
        """Attempts so far by the schedule in force, this one included: a replay starts its schedule afresh."""
        return self.attempt - self.replay_from + 1

    def after_attempt(self) -> "RetryState":
        """The state in which the next attempt begins."""
        return msgspec.structs.replace(self, attempt=self.attempt + 1, secret_waits=0, deferrals=0)

    def after_secret_wait(self) -> "RetryState":
        """The state in which the same attempt begins once more."""
        return msgspec.structs.replace(self, secret_waits=self.secret_waits + 1)

    def after_result(self, result: AttemptResult) -> "RetryState":
        """The state in which the attempt begins that `result` has announced."""
        first_at = self.first_attempt_at or result.started_at
        begun = msgspec.structs.replace(self, attempt=result.attempt, first_attempt_at=first_at)
        return begun.after_secret_wait() if result.code.startswith("secret.") else begun.after_attempt()

    def after_deferral(self) -> "RetryState":
        """The state in which the same attempt begins after its destination's rest."""
        return msgspec.structs.replace(self, deferrals=self.deferrals + 1)

    def forward_headers(self, headers: dict[str, str]) -> dict[str, str]:
        """The headers that a body travels on with: the producer's own, and this state in place of the one before."""
        kept = {name: value for name, value in headers.items() if not name.startswith(("Oneprotect-", "Nats-"))}
        return kept | self._headers()

    def _headers(self) -> dict[str, str]:
        headers = {subjects.HEADER_ATTEMPT: str(self.attempt)}
        if self.first_attempt_at:
            headers[subjects.HEADER_FIRST_ATTEMPT_AT] = self.first_attempt_at.isoformat()
        if self.replay:
            headers[subjects.HEADER_REPLAY] = self.replay
            headers[subjects.HEADER_REPLAY_FROM] = str(self.replay_from)
        if self.secret_waits:
            headers[subjects.HEADER_SECRET_WAITS] = str(self.secret_waits)
        if self.deferrals:
            headers[subjects.HEADER_DEFERRALS] = str(self.deferrals)
        if self.trace:
            headers[subjects.HEADER_TRACE] = self.trace
        return headers

    def msg_id(self, request_id: str) -> str:
        """`Nats-Msg-Id` of what belongs to this attempt: the same whenever the same attempt is settled again."""
        attempt = f"r{self.replay}.{self.attempt}" if self.replay else f"a{self.attempt}"
        waits = f".w{self.secret_waits}" if self.secret_waits else ""
        return f"{request_id}.{attempt}{waits}" + (f".d{self.deferrals}" if self.deferrals else "")


INITIAL_RETRY_STATE: Final = RetryState()
"""Where a delivery stands that has no header about that, as nearly none has."""


def _whole(headers: dict[str, str], name: str, least: int) -> int:
    text = headers.get(name, str(least))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
        raise ValueError(f"{name} is not a whole number of at least {least}")
    return int(text)


def parse_aware_datetime(text: str, name: str) -> datetime:
    """The time that the header `name` says. Raises `ValueError`."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise ValueError(f"{name} is not a time with an offset")
    return time
