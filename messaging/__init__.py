"""NATS JetStream as the rest of the program sees it. Only `client` and `connection` know the client library.

`client` connects; `connection` asks; `denials` tells what this user may not do; `publish` stores and awaits
acknowledgements by callback; `pull` keeps a consumer's messages flowing; `read` reads a stream without a consumer;
`bucket` is a key-value bucket; `topology` creates it all, `nack` says it for Kubernetes, `roles` who may do what.
"""

from messaging.client import import_nats

import_nats.import_client_library()
