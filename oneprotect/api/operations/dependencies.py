"""The parts of the running API that operations use."""

from msgspec import Struct

from consumers.replay.service import ReplayService
from messaging.client.connection import NatsConnection
from messaging.publisher import JetStreamPublisher
from oneprotect.api.auth.authenticator import Authenticator
from oneprotect.api.auth.token_cache import TokenCache
from oneprotect.api.operations.destination_cache import DestinationCache
from oneprotect.api.operations.replay_runner import ReplayRunner
from oneprotect.api.web.request_body import BodyLimits
from oneprotect.configuration.service import ConfigurationService
from telemetry.ops_server import OpsPages


class ApiDependencies(Struct, frozen=True, kw_only=True):
    """Everything that operations use; opened and closed elsewhere."""

    connection: NatsConnection
    publisher: JetStreamPublisher
    configuration: ConfigurationService
    destinations: DestinationCache
    replay_service: ReplayService
    replay_runner: ReplayRunner
    tokens: TokenCache
    authenticator: Authenticator
    ops: OpsPages
    limits: BodyLimits
    max_payload_bytes: int
    request_timeout_s: float
