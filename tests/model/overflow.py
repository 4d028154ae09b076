"""The overflow: refused requests go there, a tenant's surplus is shed there, and a feeder moves them back in order."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.model import jetstream as js
from tests.model import protocol
from tests.model.jetstream import Lease, Message, State
from tests.model.ordered import acquire, read, release, under_lease
from tests.model.protocol import Steps

CAP = 2
"""Room of the work stream."""


class FeedRules(NamedTuple):
    """The rules that the promises rest on. A mutation leaves one out."""

    doubts: bool = True
    """A feed looks for what the feed before has moved, and marks its first messages."""
    finds_moved: bool = True
    copies_wait: bool = True
    """A shed copy waits while its original is there."""


def feeder(rules: FeedRules, rounds: int) -> Steps:
    lease: Lease = yield acquire
    in_doubt = rules.doubts
    for _ in range(rounds):
        waiting: tuple[Message, ...] = yield read("overflow", from_leader=True)
        if not waiting:
            break
        oldest = waiting[0]
        stored = ""
        if in_doubt and rules.finds_moved:
            copies: tuple[Message, ...] = yield js.find_waiting(oldest.delivery, "work")
            stored = "moved" if any(m.id == oldest.id for m in copies) else ""
        if not stored:
            copy = oldest._replace(stream="work", since=oldest.since or in_doubt)
            stored = yield under_lease(js.publish(copy, cap=CAP), "move", check=True)
        if stored in ("full", "late", "unknown"):
            break
        removed: str = yield js.delete(oldest)
        if removed == "unknown":
            break
        in_doubt = False
    yield release(lease)


def consumer(feed: FeedRules, *, sheds: int) -> Steps:
    """Handle a message, or move it to the overflow if its sequence is at most `sheds`, to bound the model."""
    handling = protocol.consumer(protocol.Rules(), 1)
    message: Message = yield next(handling)
    origin = int(message.id.rpartition(".o")[2]) if ".o" in message.id else 0
    if origin and feed.copies_wait:
        originals: tuple[Message, ...] = yield js.find_waiting(message.delivery, "work")
        if any(m.number == origin for m in originals):
            return None  # the copy comes again
    action = "handle"
    if message.number <= sheds and not origin:
        action = yield js.choose("handle", "shed")
    if action == "shed":
        copy = message._replace(stream="overflow", since=True, id=f"{message.id}.o{message.number}")
        stored: str = yield js.publish(copy)
        if stored in ("stored", "duplicate"):
            yield js.acknowledge(message, late=False)
        return None
    step = handling.send(message)
    while True:
        answer: Any = yield step
        try:
            step = handling.send(answer)
        except StopIteration:
            return None


def environment(state: State) -> Iterable[tuple[str, State]]:
    yield from js.arrive(state, CAP)
    yield from js.forget(state)
