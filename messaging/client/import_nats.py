"""The client library without the HTTP client that it brings for WebSockets, which takes 0.1 to 0.3 s and 20 MB.

It does without by itself where aiohttp is not installed; here it is, for other purposes.
"""

import importlib
import sys
from typing import Any, Final

_OPTIONAL: Final = ("aiohttp", "multidict")


def import_client_library() -> None:
    """Import it as if there was no aiohttp, unless that has been imported already."""
    if "aiohttp" in sys.modules:
        return
    sys.modules["aiohttp"] = None  # type: ignore[assignment]  # says that there is none
    try:
        importlib.import_module("nats.aio.transport")
    finally:
        del sys.modules["aiohttp"]


def allow_websockets() -> None:
    """Give the library what it needs for `ws://` and `wss://`."""
    transport: Any = importlib.import_module("nats.aio.transport")
    for name in _OPTIONAL:
        setattr(transport, name, importlib.import_module(name))
