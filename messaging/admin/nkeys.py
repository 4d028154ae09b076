"""Keys of NATS users (nkeys): an Ed25519 seed for the user, and the public half for the server."""

import importlib
import os
from pathlib import Path
from typing import Any, Final

_nkeys: Final[Any] = importlib.import_module("nkeys")  # untyped


def write_key(path: Path) -> str:
    """Write a new user's seed to `path`, readable by its owner only, and return the public key.

    Raises `FileExistsError` instead of overwriting a key, and `OSError`.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        seed = bytearray(_nkeys.encode_seed(os.urandom(32), _nkeys.PREFIX_BYTE_USER))
        file.write(seed)
        pair = _nkeys.from_seed(seed)
    public = bytes(pair.public_key).decode()
    pair.wipe()
    return public
