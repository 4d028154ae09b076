"""Error of a failed measurement."""


class BenchError(Exception):
    """A measurement failed; the text says why."""
