"""NATS JetStream as the rest of the program sees it. Only `connection` knows the client library.

`connection` connects and asks; `publish` stores and awaits acknowledgements by callback; `pull` keeps a consumer's
messages flowing; `read` reads a stream without a consumer; `bucket` is a key-value bucket; `topology` creates it all.
"""
