"""Output of `oneprotect doctor` for people and programs."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams
from schemas.codes import CredentialStatus
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.kubeconfigs import kubeconfig, written
from tests.kubernetes.manifests import KEY, manifest
from tests.support.commandline import CommandLine, Ran
from tests.support.leaks import Canary, Search
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

RunHere = Callable[..., Awaitable[Ran]]

PASTED = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


async def _is_configured(site: Site) -> bool:
    view = await site.jetstream.configuration.get_credential(TENANT, "key")
    return view.status is CredentialStatus.CONFIGURED


def _named(ran: Ran, group: str, status: str) -> dict[str, dict[str, Any]]:
    """The checks of a group with a status, by name."""
    return {
        check["name"]: check for check in ran.json["checks"] if (check["group"], check["status"]) == (group, status)
    }


async def test_a_sound_installation(site: Site, oneprotect: RunHere, receiver: Scripted) -> None:
    """Without problems every check has a tick in its group, and the exit code is 0.

    This server does not let its configuration be read, so its durability is unknown.
    """
    await site.destination("orders", receiver.url)
    async with site.consumer():
        await until(lambda: _is_configured(site))
        plain = await oneprotect("doctor")
        as_json = await oneprotect("doctor", "--json")

    assert (plain.code, as_json.code) == (0, 0)
    headings = re.findall(r"^\w+$", plain.out, re.MULTILINE)
    assert headings == ["settings", "files", "nats", "streams", "work", "credentials", "telemetry"]
    unknown = [check["name"] for check in as_json.json["checks"] if check["status"] != "ok"]
    assert unknown == ["durability"]
    assert len(re.findall(r"^  ✓", plain.out, re.MULTILINE)) == len(as_json.json["checks"]) - 1
    assert as_json.json["counts"] == {"ok": len(as_json.json["checks"]) - 1, "warning": 0, "failed": 0, "unknown": 1}
    for ran in (plain, as_json):
        _require_discretion(site, ran)
        assert ran.err == ""


def _require_discretion(site: Site, ran: Ran) -> None:
    told = ran.out + ran.err
    assert Search(Canary("secret", site.secret)).find(told) == []
    assert "signing-key" not in told
    assert str(site.directory) not in told


async def test_a_failed_check_has_a_remedy(site: Site, oneprotect: RunHere) -> None:
    """A failed check is marked and followed by its remedy, and the exit code is 1."""
    path = site.directory / "secrets" / NAMESPACE / "signing-key.json"
    broken = msgspec.json.decode(path.read_bytes())
    broken["metadata"]["labels"] = {}
    path.write_bytes(msgspec.json.encode(broken))
    await site.jetstream.connection.api(f"STREAM.DELETE.{streams.QUARANTINE.name}")

    plain = await oneprotect("doctor", drain_timeout_s="5")
    as_json = await oneprotect("doctor", "--json", drain_timeout_s="5")

    assert (plain.code, as_json.code) == (1, 1)
    lines = plain.out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("  !")] == [["!", "drain"]]
    (missing,) = (number for number, line in enumerate(lines) if "✗ stream ONEPROTECT_QUARANTINE" in line)
    assert lines[missing + 1] == "    → oneprotect apply"
    assert "oneprotect.io/tenant: acme" in _named(as_json, "credentials", "failed")["acme/key"]["mending"]
    assert "drain timeout" in _named(as_json, "settings", "warning")
    assert as_json.json["counts"]["failed"] == len([line for line in lines if line.startswith("  ✗")])
    _require_discretion(site, plain)
    _require_discretion(site, as_json)


async def test_unusable_settings_are_reported(command_line: CommandLine) -> None:
    """All problems of the settings are shown without values, and the exit code is 2."""
    environ = {"ONEPROTECT_NATS_ULR": PASTED, "ONEPROTECT_API_PORT": PASTED}
    plain = await command_line.run(environ, "doctor")
    as_json = await command_line.run(environ, "doctor", "--json")

    assert (plain.code, as_json.code) == (2, 2)
    assert "✗ ONEPROTECT_NATS_ULR" in plain.out
    assert "→ did you mean ONEPROTECT_NATS_URL?" in plain.out
    assert set(_named(as_json, "settings", "failed")) == {"ONEPROTECT_NATS_ULR", "ONEPROTECT_API_PORT"}
    assert PASTED not in plain.out + plain.err + as_json.out + as_json.err


async def test_without_nats(site: Site, oneprotect: RunHere, nats_server: EmbeddedNats) -> None:
    """Without NATS, the other checks still run."""
    await nats_server.stop()
    ran = await oneprotect("doctor", "--json")

    assert ran.code == 1
    assert "reachable" in _named(ran, "nats", "failed")
    assert set(_named(ran, "files", "ok")) == {"ONEPROTECT_LOCAL_SECRETS_DIR", "ONEPROTECT_NATS_NKEY_FILE"}
    assert _named(ran, "streams", "unknown")
    _require_discretion(site, ran)


class _Closed(EmbeddedNats):
    """A server that requires authentication."""

    def _config(self, port: int) -> dict[str, Any]:
        return super()._config(port) | {"authorization": {"token": "a-token"}}


async def test_a_server_that_refuses_us(command_line: CommandLine, tmp_path: Path) -> None:
    """A server that requires credentials has another result than an unreachable one."""
    async with _Closed(tmp_path / "nats") as server:
        ran = await command_line.run({"ONEPROTECT_NATS_URL": server.url}, "doctor", "--json")

    refused = _named(ran, "nats", "failed")["reachable"]
    assert ran.code == 1
    assert "uthorization" in refused["finding"]
    assert "ONEPROTECT_NATS_CREDS_FILE" in refused["mending"]


async def test_a_cluster_from_outside(site: Site, command_line: CommandLine, tmp_path: Path) -> None:
    """With a kubeconfig, Secrets are checked, and the consumers' permissions are unknown."""
    async with ApiServer.running(tmp_path / "apiserver") as server:
        server.put(manifest(name="signing-key", data={"signing": KEY + b"\n"}))
        document = kubeconfig(server.url, server.authority.ca_file.read_bytes(), {"token": "token-1"})
        file = written(tmp_path / "kubeconfig", document)
        ran = await _with_kubeconfig(site, command_line, file)
        gone = await _with_kubeconfig(site, command_line, tmp_path / "nothing")
    down = await _with_kubeconfig(site, command_line, file)

    assert "echo" in _named(ran, "credentials", "failed")["acme/key"]["mending"]
    assert "kubectl exec" in _named(ran, "permissions", "unknown")["service account"]["mending"]
    assert "could not be loaded" in _named(gone, "credentials", "failed")["secret provider"]["finding"]
    assert _named(down, "credentials", "failed")["acme/key"]["finding"] == "the secret provider did not answer"
    for each in (ran, gone, down):
        assert each.code == 1
        assert _named(each, "streams", "ok")
        assert Search(Canary("key", KEY)).find(each.out + each.err) == []
        _require_discretion(site, each)


async def _with_kubeconfig(site: Site, command_line: CommandLine, file: Path) -> Ran:
    changed = {"ONEPROTECT_SECRET_PROVIDER": "kubernetes", "ONEPROTECT_LOG_LEVEL": "info", "KUBECONFIG": str(file)}
    return await command_line.run(site.environ | changed, "doctor", "--json")
