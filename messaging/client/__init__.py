"""The NATS client: connections, requests, message parsing and errors."""

from messaging.client import import_nats

import_nats.import_client_library()
