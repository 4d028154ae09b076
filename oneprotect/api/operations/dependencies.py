"""What the API is made of: opened by the wiring, used by the operations."""

from msgspec import Struct

from consumers.replay.service import Replayer
from messaging.client.connection import Connection
from messaging.publisher import Publisher
from oneprotect.api.auth.authenticator import Authenticator
from oneprotect.api.auth.token_cache import KnownTokens
from oneprotect.api.operations.destination_cache import Addressees
from oneprotect.api.operations.replay_runner import ReplayRunner
from oneprotect.api.web.request_body import Limits
from oneprotect.configuration.service import Configuration
from telemetry.metrics.registry import Counters
from telemetry.ops_server import OpsPages


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
