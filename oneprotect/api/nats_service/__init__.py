"""The NATS service of the API."""
