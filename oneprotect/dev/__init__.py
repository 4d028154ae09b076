"""What a developer's machine lacks: a nats-server, a receiver that checks signatures, and a sample tenant's secrets.

All of it listens on loopback only. `oneprotect dev` and the tests run on it; nothing that is deployed imports it.
"""
