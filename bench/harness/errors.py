"""The one way in which a measurement fails."""


class BenchError(Exception):
    """Something did not happen that should have; the text says what."""
