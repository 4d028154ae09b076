"""The checker: everything in a history that the guarantees rule out, and what explains each duplicate.

The guarantees allow a second acceptance in one case only: the first one was not on record yet, because a disturbance
hit the process that had sent it, or because the servers stored nothing. A server that has become the leader may not
know to whom the one before gave a message, so it gives it away again while the first request is in flight.
"""

import math
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

from tests.chaos.judge.history import History, Key, Post, Record

SETTLE_S: Final = 2.0
"""Time in which an answer is on record, unless something disturbs it. Generous, for a busy machine."""
REPEAT_S: Final = 6.0
"""Time after which a result whose publish was lost is published again."""
FAILOVER_S: Final = 10.0
"""Time in which the servers elect leaders after a disturbance of theirs has ended."""
SERVERS: Final = "servers"
FINAL: Final = ("delivered", "failed", "skipped")
INTERRUPTING: Final = ("kill", "pause", "cut")
"""Events by which a consumer loses an answer, or cannot record it in time. A consumer that is stopped finishes what it
began, and one whose connection was reset connects again."""

_T = TypeVar("_T", Post, Record)


class Finding(NamedTuple):
    """Something that must not be."""

    kind: str
    subject: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.subject} {self.detail}".rstrip()


class Verdict(NamedTuple):
    """All findings, and the number of explained duplicates for each kind of event."""

    findings: list[Finding]
    duplicates: Counter[str]
    unrecorded: Counter[str]

    def kinds(self) -> Counter[str]:
        """Return the number of findings of each kind."""
        return Counter(finding.kind for finding in self.findings)


def check(history: History) -> Verdict:
    """Judge a history."""
    return _Case(history).judge()


class _Case:
    def __init__(self, history: History) -> None:
        self.history = history
        self.posts: dict[Key, list[Post]] = _by_key(sorted(history.posts, key=lambda post: post.started))
        self.records: dict[Key, list[Record]] = _by_key(sorted(history.records, key=lambda record: record.stored))
        self.stored_by: defaultdict[str, list[float]] = defaultdict(list)
        """When each process stored a result; and under the empty string when any did."""
        for record in sorted(history.records, key=lambda record: record.stored):
            self.stored_by[record.worker].append(record.stored)
            self.stored_by[""].append(record.stored)
        self.duplicates: Counter[str] = Counter()
        self.unrecorded: Counter[str] = Counter()

    def judge(self) -> Verdict:
        findings = [*self._losses(), *self._duplicates(), *self._mismatches(), *self._disorder(), *self._remains()]
        return Verdict(findings, self.duplicates, self.unrecorded)

    def _losses(self) -> Iterator[Finding]:
        """Accepted requests that were never sent, or have no outcome."""
        kept, waiting = set(self.history.kept), {key for _, key in self.history.waiting}
        for request in self.history.requests:
            key, outcomes = request.key, {record.outcome for record in self.records[request.key]}
            if request.refused is not None:
                yield Finding("refused", _name(key), f"with {request.refused}, after {request.begun:.3f}")
            if request.accepted is None or key in waiting:
                continue
            if not self.posts[key]:
                yield Finding("never sent", _name(key), f"accepted {request.accepted:.3f}, records {sorted(outcomes)}")
            if outcomes.isdisjoint(FINAL):
                yield Finding("no outcome", _name(key), f"accepted {request.accepted:.3f}, {self._story(key)}")
            elif "delivered" not in outcomes and key not in kept:
                yield Finding("not kept", _name(key), self._story(key))

    def _duplicates(self) -> Iterator[Finding]:
        """Deliveries that were sent although their acceptance was on record, or accepted again without a cause."""
        for key, posts in self.posts.items():
            accepted = [post for post in posts if post.accepted]
            stored = next((one.stored for one in self.records[key] if one.outcome == "delivered"), None)
            if stored is not None and posts[-1].started > stored + SETTLE_S:
                yield Finding("sent after its record", _name(key), self._story(key))
                continue
            kinds = [self._explanation(first, again, stored) for first, again in pairwise(accepted)]
            if None in kinds:
                yield Finding("unexplained duplicate", _name(key), self._story(key))
            self.duplicates.update(kind for kind in kinds if kind)

    def _explanation(self, first: Post, second: Post, stored: float | None) -> str | None:
        """Return the kind of event that kept the first acceptance off the record until the second request began."""
        until = min(second.started, stored or second.started)
        return self._interruption(first, until) or self._outage(first, second) or self._failover(first, second)

    def _interruption(self, post: Post, until: float) -> str | None:
        """Return the kind of event that hit the sender between its request and the record of the answer."""
        limit = min(until, self._recorded_by(post))
        for event in self.history.events:
            is_sender = event.target == post.sender or (not post.sender and event.target.startswith("consumer"))
            if event.kind in INTERRUPTING and is_sender and event.started <= limit and event.ended >= post.started:
                return event.kind
        return None

    def _recorded_by(self, post: Post) -> float:
        """Return the time until which the sender must have recorded this answer.

        After a disturbance of the servers, that is soon after the sender has recorded anything else.
        """
        soon = post.ended + SETTLE_S
        if not self._is_disturbed(post.ended, soon):
            return soon
        times = self.stored_by[post.sender]
        at = bisect(times, soon)
        return times[at] + REPEAT_S if at < len(times) else math.inf

    def _is_disturbed(self, since: float, until: float) -> bool:
        return any(
            event.target == SERVERS and event.started <= until and event.ended + FAILOVER_S >= since
            for event in self.history.events
        )

    def _outage(self, first: Post, second: Post) -> str | None:
        """Return "outage" when disturbed servers stored nothing of the first sender until they gave up waiting."""
        waited = second.started - first.ended >= self.history.ack_wait_s / 2
        return "outage" if waited and self._recorded_by(first) >= second.started else None

    def _failover(self, first: Post, second: Post) -> str | None:
        """Return "failover" when the second request began during the first one, and the servers changed leaders."""
        in_flight = first.started <= second.started <= first.ended
        return "failover" if in_flight and self._is_disturbed(first.started, second.started) else None

    def _mismatches(self) -> Iterator[Finding]:
        """Requests without a record that no event explains, and records without a request."""
        for key in self.posts.keys() | self.records.keys():
            posts, records = self.posts[key], self.records[key]
            answered = sum(record.code.startswith("http.") for record in records if record.outcome != "suppressed")
            if answered > len(posts):
                yield Finding("record without POST", _name(key), self._story(key))
            attempted = answered + sum(record.code.startswith("net.") for record in records)
            kinds = [
                kind for post in posts if (kind := self._interruption(post, post.ended + 3600) or self._replaced(post))
            ]
            if len(posts) - attempted > len(kinds):
                yield Finding("POST without record", _name(key), self._story(key))
            self.unrecorded.update(kinds[: max(len(posts) - attempted, 0)])

    def _replaced(self, post: Post) -> str | None:
        """Return the kind of event at which another request of the delivery began before its result could be stored."""
        others = [other for other in self.posts[post.key] if other is not post]
        outages = (self._outage(post, other) for other in others if other.started > post.ended)
        failovers = (self._failover(*pair) for other in others for pair in ((post, other), (other, post)))
        return next((kind for kind in (*outages, *failovers) if kind), None)

    def _disorder(self) -> Iterator[Finding]:
        """Requests to ordered destinations after a later delivery."""
        numbers = {request.key: request.number for request in self.history.requests}
        for destination in self.history.ordered:
            highest = -1
            for post in sorted(self.history.posts, key=lambda post: post.started):
                if post.key.destination == destination and (number := numbers.get(post.key)) is not None:
                    if number < highest:
                        yield Finding("out of order", _name(post.key), f"after {highest} at {post.started:.3f}")
                    highest = max(highest, number)

    def _remains(self) -> Iterator[Finding]:
        """What waits, was quarantined, or was never requested."""
        for stream, key in self.history.waiting:
            yield Finding("left over", f"{stream} {_name(key)}", self._story(key))
        for text in self.history.quarantined:
            yield Finding("quarantined", text)
        for key in self.posts.keys() - {request.key for request in self.history.requests}:
            if self.posts[key]:
                yield Finding("not requested", _name(key))

    def _story(self, key: Key) -> str:
        """Return what happened to one delivery, and every event meanwhile, for the reader of a finding."""
        request = next((one for one in self.history.requests if one.key == key), None)
        lines = [(request.begun, "requested"), *((at, "repeated") for at in request.repeated)] if request else []
        if request and request.accepted is not None:
            lines.append((request.accepted, "accepted"))
        for post in self.posts[key]:
            lines.append(
                (post.started, f"POST {post.status} in {post.ended - post.started:.3f} by {post.sender or '?'}")
            )
        for record in self.records[key]:
            lines.append((record.stored, f"{record.outcome} {record.code} #{record.attempt} by {record.worker}"))
        begin, end = min(lines)[0], max(lines)[0]
        for event in self.history.events:
            if event.started <= end + 3 * self.history.ack_wait_s and event.ended >= begin:
                lines.append((event.started, f"<{event.kind} {event.target} until {event.ended - begin:.3f}>"))
        return "; ".join(f"{at - begin:.3f} {text}" for at, text in sorted(lines))


def _by_key(items: Iterable[_T]) -> defaultdict[Key, list[_T]]:
    found: defaultdict[Key, list[_T]] = defaultdict(list)
    for item in items:
        found[item.key].append(item)
    return found


def _name(key: Key) -> str:
    return f"{key.destination}/{key.delivery}"
