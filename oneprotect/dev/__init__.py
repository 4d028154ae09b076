"""A nats-server, a receiver and sample secrets, for `oneprotect dev` and the tests. All of them use loopback only."""
