"""Recorded output by sink, and the search for secrets in it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from tests.leak.support.tracebacks import shown
from tests.support.leaks import Search


class Sinks:
    """Output by sink. Sinks are named as findings show them."""

    def __init__(self) -> None:
        self._heard: defaultdict[str, bytearray] = defaultdict(bytearray)

    def hear(self, sink: str, *contents: bytes | str) -> None:
        """Record the output of a sink."""
        for content in contents:
            self._heard[sink] += content.encode(errors="surrogateescape") if isinstance(content, str) else content
            self._heard[sink] += b"\n"

    def hear_error(self, sink: str, error: BaseException) -> None:
        """Record an exception in every form in which it could be shown."""
        for way, text in shown(error):
            self.hear(f"{sink}: {way}", text)

    def hear_all(self, contents: Mapping[str, bytes]) -> None:
        """Record the output of several sinks."""
        for sink, content in contents.items():
            self.hear(sink, content)

    @property
    def names(self) -> list[str]:
        """All sinks that were given something."""
        return sorted(self._heard)

    def findings(self, search: Search, *, but: Iterable[str] = ()) -> list[str]:
        """Return the findings of `search`, without sinks whose names begin with one of `but`."""
        return [
            f"{sink}: {finding.canary}, as {finding.form}"
            for sink in self.names
            if not sink.startswith(tuple(but))
            for finding in search.find(bytes(self._heard[sink]))
        ]

    def carry(self, marker: str) -> list[str]:
        """Return the sinks that contain `marker`."""
        return [sink for sink in self.names if marker.encode() in self._heard[sink]]

    def holds(self, sink: str, text: str) -> bool:
        """Return whether `sink` contains `text`."""
        return text.encode() in self._heard.get(sink, b"")
