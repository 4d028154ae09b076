"""nats-server that requires credentials, and a credentials file whose seed is a canary."""

import asyncio
import base64
import contextlib
import hashlib
import importlib
import json
import os
import socket
import sysconfig
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import msgspec

from oneprotect.dev.nats_server import free_port
from tests.support.leaks import Canary
from tests.support.waiting import until

_nkeys: Any = importlib.import_module("nkeys")  # it has no types
_UNLIMITED: Final = dict.fromkeys(
    (
        "subs",
        "data",
        "payload",
        "imports",
        "exports",
        "conn",
        "leaf",
        "mem_storage",
        "disk_storage",
        "streams",
        "consumer",
    ),
    -1,
)
_CREDENTIALS: Final = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


class Secured(msgspec.Struct, frozen=True):
    """Address of the server, an accepted credentials file, and its secrets."""

    url: str
    credentials: Path
    seed: Canary
    key: Canary
    log: Path


@contextlib.asynccontextmanager
async def secured(directory: Path) -> AsyncGenerator[Secured]:
    """Run it until the block ends, with everything in `directory`."""
    (operator, _), (account, _), (system, _), (user, seed_of_user) = (_pair(prefix) for prefix in _PREFIXES)
    port = free_port()
    config = {
        "host": "127.0.0.1",
        "port": port,
        "operator": _jwt(operator, operator, {"type": "operator"}),
        "resolver": "MEMORY",
        "resolver_preload": {
            _name(account): _jwt(operator, account, {"type": "account", "limits": _UNLIMITED | {"wildcards": True}}),
            _name(system): _jwt(operator, system, {"type": "account", "limits": {"subs": -1, "conn": -1}}),
        },
        "system_account": _name(system),
        "jetstream": {"store_dir": str(directory / "store")},
    }
    (directory / "nats.conf").write_text(json.dumps(config))
    credentials = directory / "user.creds"
    credentials.write_text(
        _CREDENTIALS.format(jwt=_jwt(account, user, {"type": "user", **_UNLIMITED}), seed=seed_of_user)
    )
    with (directory / "nats.log").open("wb") as log:
        binary = Path(sysconfig.get_path("scripts"), "nats-server")
        server = await asyncio.create_subprocess_exec(binary, "--config", directory / "nats.conf", stderr=log)
    try:
        await until(lambda: _listens(port), 10)
        seed = Canary("seed of NATS credentials", seed_of_user[2:])
        key = Canary("key of NATS credentials", base64.b32decode(seed_of_user + "=" * (-len(seed_of_user) % 8))[2:34])
        yield Secured(f"nats://127.0.0.1:{port}", credentials, seed, key, directory / "nats.log")
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.terminate()
        await server.wait()


_PREFIXES: Final = (
    _nkeys.PREFIX_BYTE_OPERATOR,
    _nkeys.PREFIX_BYTE_ACCOUNT,
    _nkeys.PREFIX_BYTE_ACCOUNT,
    _nkeys.PREFIX_BYTE_USER,
)


def _pair(prefix: int) -> tuple[Any, str]:
    """A new key pair, and its seed."""
    seed = bytes(_nkeys.encode_seed(os.urandom(32), prefix))
    return _nkeys.from_seed(bytearray(seed)), seed.decode()


def _name(pair: Any) -> str:
    return bytes(pair.public_key).decode()


def _jwt(issuer: Any, subject: Any, nats: dict[str, object]) -> str:
    """A JWT as NATS has them (version 2), signed by `issuer`."""
    claims = {"iat": 1, "iss": _name(issuer), "sub": _name(subject), "name": "test", "nats": nats | {"version": 2}}
    claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode().rstrip("=")
    head = _text({"typ": "JWT", "alg": "ed25519-nkey"})
    signed = f"{head}.{_text(claims)}"
    return f"{signed}.{_base64url(issuer.sign(signed.encode()))}"


def _text(value: object) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
