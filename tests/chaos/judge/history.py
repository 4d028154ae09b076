"""What a trial leaves behind for the checker. All times are seconds of this machine's monotonic clock."""

from pathlib import Path
from typing import NamedTuple

import msgspec


class Key(NamedTuple):
    """One delivery: a destination and an id."""

    destination: str
    delivery: str


class Request(msgspec.Struct):
    """A delivery that a publisher asks for until the API accepts it, and that it may ask for again later."""

    key: Key
    number: int
    """Place among the requests to this destination; the publisher waits for each answer before the next request."""
    begun: float
    accepted: float | None = None
    refused: int | None = None
    """Status of an answer that no repetition can change."""
    repeated: list[float] = []
    """When the publisher asked again although the API had accepted the delivery."""


class Post(msgspec.Struct):
    """A request that the receiver read, and the status that it answered: 0 if the connection had gone."""

    key: Key
    started: float
    ended: float
    status: int
    sender: str
    """The process that sent it, as in `Event.target`, or an empty string when it had gone too early to see it."""

    @property
    def accepted(self) -> bool:
        """True when the receiver accepted the delivery, and said so."""
        return 200 <= self.status < 300


class Event(msgspec.Struct, frozen=True):
    """A disturbance, from its begin until the target works again."""

    kind: str
    target: str
    """A process, such as `consumer1.3`: its third start; or `servers`."""
    started: float
    ended: float


class Record(msgspec.Struct):
    """A stored attempt result, with the time at which the server stored it."""

    key: Key
    attempt: int
    outcome: str
    code: str
    stored: float
    worker: str
    """The process that recorded it, as in `Event.target`."""


class History(msgspec.Struct):
    """One trial."""

    seed: int
    ack_wait_s: float
    stalled_s: float = 0.0
    """Longest time for which the judge itself saw nothing, because the machine was busy."""
    ordered: list[str] = []
    """Destinations whose deliveries must arrive in the order of their numbers."""
    requests: list[Request] = []
    posts: list[Post] = []
    events: list[Event] = []
    records: list[Record] = []
    kept: list[Key] = []
    """Deliveries given up on that were kept for a replay."""
    quarantined: list[str] = []
    waiting: list[tuple[str, Key]] = []
    """What was left at the end, after the time to settle, with its stream."""

    def save(self, file: Path) -> None:
        """Write the history, so that the checker can look at it again."""
        file.write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, file: Path) -> "History":
        """Read a history."""
        return msgspec.json.decode(file.read_bytes(), type=cls)
