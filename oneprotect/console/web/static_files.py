"""Styles, script and icon: read once, and served under names with a hash, so that browsers keep them for good."""

import hashlib
from pathlib import Path
from typing import Final

import msgspec

DIRECTORY: Final = Path(__file__).parent.parent / "static"
PATH: Final = "/console/static"
HEADERS: Final = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class StaticFile(msgspec.Struct, frozen=True):
    """A file as it is served."""

    name: str
    content: bytes
    media_type: str

    @property
    def url(self) -> str:
        """Its path."""
        return f"{PATH}/{self.name}"


class StaticFiles:
    """All of them, by the name of the file and by the name that they are served under."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        files = [path for path in sorted(directory.iterdir()) if path.suffix in _MEDIA_TYPES]
        self._by_file = {path.name: _asset(path) for path in files}
        self._by_name = {asset.name: asset for asset in self._by_file.values()}

    def url(self, file: str) -> str:
        """The path of a file. Raises `KeyError`."""
        return self._by_file[file].url

    def find(self, name: str) -> StaticFile | None:
        """What is served under a name."""
        return self._by_name.get(name)


def _asset(path: Path) -> StaticFile:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    return StaticFile(f"{path.stem}.{digest}{path.suffix}", content, _MEDIA_TYPES[path.suffix])
