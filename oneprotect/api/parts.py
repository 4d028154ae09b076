"""What the API is made of: opened by the wiring, used by the operations."""

from msgspec import Struct

from consumers.replay import Replayer
from oneprotect.api.addressees import Addressees
from oneprotect.api.auth import Authenticator
from oneprotect.api.bodies import Limits
from oneprotect.api.known_tokens import KnownTokens
from oneprotect.api.replay_runner import ReplayRunner
from oneprotect.configuration import Configuration
from oneprotect.jetstream.connection import Connection
from oneprotect.jetstream.publish import Publisher
from oneprotect.telemetry.counters import Counters
from oneprotect.telemetry.ops import OpsPages


class Parts(Struct, frozen=True, kw_only=True):
    """Everything that operations use. Nothing in it opens or closes anything."""

    connection: Connection
    publisher: Publisher
    configuration: Configuration
    addressees: Addressees
    replayer: Replayer
    replays: ReplayRunner
    tokens: KnownTokens
    authenticator: Authenticator
    counters: Counters
    ops: OpsPages
    limits: Limits
    max_payload_bytes: int
    request_timeout_s: float
