"""References of objects, and the text that objects show when printed, copied or encoded.

The walk sees the objects that Python's garbage collector sees. It cannot see inside C objects: a hash's state,
buffers of OpenSSL and the kernel, and freed memory. The tests make no statement about those. They require that no
object in use keeps a secret's bytes after its key is created.
"""

import asyncio
import copy
import gc
import json
import pickle
import pprint
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from rich.pretty import pretty_repr

_NOT_THEIRS = (types.ModuleType, type, types.CodeType, asyncio.AbstractEventLoop)
"""What many share, and what leads to the whole program."""

SHOWN: Mapping[str, Callable[[Any], object]] = {
    "repr": repr,
    "str": str,
    "format": format,
    "%": lambda it: "%s %r" % (it, it),  # noqa: UP031 - one way among others
    "rich": pretty_repr,
    "pprint": pprint.pformat,
    "in a list": lambda it: str([it]),
    "vars": lambda it: repr(it.__dict__),
}
"""Ways to look at an object."""

DOORS: Mapping[str, Callable[[Any], object]] = {
    "attributes": lambda it: [getattr(it, name, None) for name in dir(it) if not name.startswith("__")],
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "json": json.dumps,
    "msgspec in JSON": msgspec.json.encode,
    "msgspec in MessagePack": msgspec.msgpack.encode,
    "msgspec to builtins": msgspec.to_builtins,
    "bytes": bytes,
    "list": list,
    "dict": dict,
    "hash": hash,
}
"""Ways to get out of an object, or of the process, what it holds."""


def reachable(*roots: object) -> Iterator[object]:
    """The roots and all that they lead to, each object once."""
    seen: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, _NOT_THEIRS):
            continue
        seen[id(one)] = one
        yield one
        waiting += _referents(one)


def contents(objects: Iterable[object]) -> bytes:
    """All text and bytes among the objects."""
    return b"\n".join(found for one in objects if (found := _content(one)) is not None)


def looks(it: object) -> Iterator[tuple[str, str | BaseException]]:
    """Return the text or exception of each way to show or export `it`."""
    ways = {f"seen by {name}": way for name, way in SHOWN.items()} | {
        f"out by {name}": way for name, way in DOORS.items()
    }
    for name, way in ways.items():
        try:
            yield name, repr(way(it))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not show more than the object does
            yield name, error


def _content(one: object) -> bytes | None:
    match one:
        case str():
            return one.encode(errors="surrogatepass")
        case bytes() | bytearray():
            return bytes(one)
        case memoryview():
            return one.tobytes()
        case _:
            return None


def _referents(one: object) -> list[object]:
    if isinstance(one, types.FunctionType):  # its globals are a module's
        return [one.__closure__, one.__defaults__, one.__kwdefaults__]
    return [*gc.get_referents(one), *_slots(one)]


def _slots(one: object) -> Iterator[object]:
    """Return attributes that the collector does not track, as in msgspec's structs without it."""
    for kind in type(one).__mro__:
        names = vars(kind).get("__slots__") or ()
        for name in (names,) if isinstance(names, str) else names:
            private = name.startswith("__") and not name.endswith("__")
            yield getattr(one, f"_{kind.__name__.lstrip('_')}{name}" if private else name, None)
    for name in getattr(type(one), "__struct_fields__", ()):
        yield getattr(one, name, None)
