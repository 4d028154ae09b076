"""What the API is made of: opened by the wiring, used by the operations."""

from msgspec import Struct

from consumers.replay import Replayer
from oneprotect.api.auth import Authenticator
from oneprotect.api.bodies import Limits
from oneprotect.configuration import Configuration
from oneprotect.jetstream.connection import Connection
from oneprotect.jetstream.publish import Publisher


class Parts(Struct, frozen=True, kw_only=True):
    """Everything that operations use. Nothing in it opens or closes anything."""

    connection: Connection
    publisher: Publisher
    configuration: Configuration
    replayer: Replayer
    authenticator: Authenticator
    limits: Limits
