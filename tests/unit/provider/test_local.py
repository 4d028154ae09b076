"""The local provider: a directory of manifests, with no way out of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from provider.errors import (
    SecretDenied,
    SecretError,
    SecretMalformed,
    SecretMismatch,
    SecretNotFound,
    SecretRefForbidden,
    SecretUnavailable,
)
from provider.local import LocalSecretProvider
from provider.secret_manifest import MAX_BYTES
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from schemas.ids import Purpose
from tests.kubernetes.canary import locals_in_provider, shows
from tests.kubernetes.manifests import KEY, encoded, manifest, write

REF = SecretRef.parse("k8s://webhooks/acme-signing/signing")


async def resolve(directory: Path, ref: SecretRef = REF) -> SigningSecret:
    provider = LocalSecretProvider(directory, frozenset({"webhooks"}))
    return await provider.resolve(ref, tenant="acme", purpose=Purpose.WEBHOOK_SIGNING)


async def refused(directory: Path, error: type[SecretError], ref: SecretRef = REF) -> None:
    with pytest.raises(error) as failure:
        await resolve(directory, ref)
    assert failure.value.__context__ is None
    assert not shows(locals_in_provider(failure.value), KEY)


async def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    """An edited file counts at once."""
    path = write(tmp_path, manifest())
    first = await resolve(tmp_path)

    document = manifest()
    document["metadata"]["resourceVersion"] = "42"
    path.write_bytes(encoded(document))

    assert (first.version, (await resolve(tmp_path)).version) == (
        "6d1f3a52-0000-4000-8000-000000000001/41",
        "6d1f3a52-0000-4000-8000-000000000001/42",
    )


async def test_the_version_of_a_file_by_hand_comes_from_its_time_and_size(tmp_path: Path) -> None:
    """The version changes with the file and reveals nothing about the value."""
    document = manifest()
    del document["metadata"]["uid"], document["metadata"]["resourceVersion"]
    path = write(tmp_path, document)
    os.utime(path, ns=(1, 1_700_000_000_000_000_001))

    secret = await resolve(tmp_path)

    assert secret.version == f"local/1700000000000000001-{path.stat().st_size}"


@pytest.mark.parametrize("missing", ["file", "namespace", "directory"])
async def test_a_missing_file_is_not_found(tmp_path: Path, missing: str) -> None:
    """At whatever level it is missing."""
    path = write(tmp_path / "secrets", manifest())
    path.unlink()
    if missing != "file":
        path.parent.rmdir()
    if missing == "directory":
        path.parent.parent.rmdir()

    await refused(tmp_path / "secrets", SecretNotFound)


async def test_a_name_too_long_for_a_file_is_not_found(tmp_path: Path) -> None:
    """The longest names fit a cluster and no file system."""
    (tmp_path / "webhooks").mkdir()

    await refused(tmp_path, SecretNotFound, SecretRef(namespace="webhooks", name="a" * 253, key="signing"))


async def test_a_namespace_that_is_not_allowed_is_not_read(tmp_path: Path) -> None:
    """Even if the file is there and everything in it is right."""
    write(tmp_path, manifest(namespace="other"))

    await refused(tmp_path, SecretRefForbidden, SecretRef(namespace="other", name="acme-signing", key="signing"))


@pytest.mark.parametrize("link", ["file", "namespace", "chain"])
async def test_a_link_out_of_the_directory_is_denied(tmp_path: Path, link: str) -> None:
    """A file outside the directory is not read, whichever part of the path is a link."""
    inside, outside = tmp_path / "secrets", write(tmp_path / "outside", manifest())
    inside.mkdir()
    if link == "namespace":
        (inside / "webhooks").symlink_to(outside.parent)
    else:
        (inside / "webhooks").mkdir()
        (inside / "hop").symlink_to(outside)
        (inside / "webhooks" / "acme-signing.json").symlink_to(outside if link == "file" else "../hop")

    await refused(inside, SecretDenied)


async def test_a_link_to_a_neighbour_with_a_longer_name_is_denied(tmp_path: Path) -> None:
    """Inside means below the directory, not beside it with the same beginning."""
    outside = write(tmp_path / "secrets-2", manifest())
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "webhooks").symlink_to(outside.parent)

    await refused(tmp_path / "secrets", SecretDenied)


async def test_links_inside_the_directory_are_followed(tmp_path: Path) -> None:
    """Mounted volumes are made of them."""
    write(tmp_path / "..data", manifest())
    (tmp_path / "webhooks").symlink_to("..data/webhooks")
    (tmp_path.parent / f"{tmp_path.name}-link").symlink_to(tmp_path)

    secret = await resolve(tmp_path.parent / f"{tmp_path.name}-link")

    assert isinstance(secret, SigningSecret)


async def test_links_in_a_circle_are_denied(tmp_path: Path) -> None:
    """They lead nowhere."""
    (tmp_path / "webhooks").mkdir()
    (tmp_path / "webhooks" / "acme-signing.json").symlink_to("acme-signing.json")

    await refused(tmp_path, SecretDenied)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
async def test_a_special_file_is_denied(tmp_path: Path, make: object) -> None:
    """A pipe does not block the reader."""
    assert callable(make)
    (tmp_path / "webhooks").mkdir()
    make(tmp_path / "webhooks" / "acme-signing.json")

    await refused(tmp_path, SecretDenied)


def test_an_unreadable_file_is_denied(tmp_path: Path) -> None:
    """Tried as a user who may not read it."""
    path = write(tmp_path, manifest())
    path.chmod(0)
    script = (
        "import asyncio, os, sys, pathlib\n"
        "import encodings.idna, concurrent.futures.thread\n"
        "from tests.unit.provider.test_local import refused, SecretDenied\n"
        "os.chdir(sys.argv[1])\n"
        "os.geteuid() or os.setresuid(65534, 65534, 65534)\n"
        "asyncio.run(refused(pathlib.Path('.'), SecretDenied))\n"
        "print('denied')\n"
    )
    root = Path(__file__).parents[3]
    tmp_path.chmod(0o755)
    path.parent.chmod(0o755)

    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False
    )

    assert (run.returncode, run.stdout) == (0, "denied\n"), run.stderr


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", encoded(manifest())[:300], encoded(manifest()) + b" " * MAX_BYTES]
)
async def test_a_broken_or_endless_file_is_unavailable(tmp_path: Path, body: bytes) -> None:
    """It may be half written, so waiting can help."""
    write(tmp_path, manifest()).write_bytes(body)

    await refused(tmp_path, SecretUnavailable)


async def test_a_file_has_the_size_limit_of_the_api(tmp_path: Path) -> None:
    """The limit is exact to the byte."""
    body = encoded(manifest())
    write(tmp_path, manifest()).write_bytes(b" " * (MAX_BYTES - len(body)) + body)

    assert isinstance(await resolve(tmp_path), SigningSecret)


async def test_plain_values_are_refused(tmp_path: Path) -> None:
    """`stringData` is not how a Secret is kept."""
    write(tmp_path, manifest(stringData={"signing": KEY.decode()}))

    await refused(tmp_path, SecretMalformed)


async def test_the_file_must_contain_the_named_secret(tmp_path: Path) -> None:
    """A copied file does not serve under another name."""
    write(tmp_path, manifest(name="globex-signing")).rename(tmp_path / "webhooks" / "acme-signing.json")

    await refused(tmp_path, SecretMismatch)
