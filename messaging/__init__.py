"""NATS JetStream: client, publisher, pull consumer, reader, key-value buckets, leases and management requests.

Only `messaging.client` imports the client library.
"""
