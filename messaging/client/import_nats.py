"""Import of the client library without aiohttp, which it uses for WebSockets only.

aiohttp takes time and memory to import. The library works without it where it is not installed.
"""

import importlib
import sys
from typing import Any, Final

_OPTIONAL: Final = ("aiohttp", "multidict")


def import_client_library() -> None:
    """Import the client library as if aiohttp were not installed, unless aiohttp is imported already."""
    if "aiohttp" in sys.modules:
        return
    sys.modules["aiohttp"] = None  # type: ignore[assignment]  # marks it as not installed
    try:
        importlib.import_module("nats.aio.transport")
    finally:
        del sys.modules["aiohttp"]


def allow_websockets() -> None:
    """Give the library the modules that `ws://` and `wss://` need."""
    transport: Any = importlib.import_module("nats.aio.transport")
    for name in _OPTIONAL:
        setattr(transport, name, importlib.import_module(name))
