"""`oneprotect nats`: keys, entries of users, and files."""

import json
import stat
from pathlib import Path

import pytest

from messaging.client.client import is_seed
from tests.support.commandline import CommandLine

PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"


async def test_a_key_is_made_for_its_owner_alone(tmp_path: Path, command_line: CommandLine) -> None:
    """The seed is only in the file, only its owner can read the file, and the public key is printed."""
    path = tmp_path / "consumer.nk"

    ran = await command_line.run({}, "nats", "key", "--output", str(path))
    again = await command_line.run({}, "nats", "key", "--output", str(path), "--json")
    other = await command_line.run({}, "nats", "key", "--output", str(tmp_path / "other.nk"), "--json")

    assert ran.code == 0
    assert len(ran.out.strip()) == 56
    assert ran.out.startswith("U")
    assert is_seed(path.read_bytes())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() not in ran.out + ran.err
    assert again.code == 1
    assert again.error["error"].startswith("--output: the file exists")
    assert other.json["public_key"] not in (ran.out.strip(), "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("producer", "--nkey", PUBLIC), "--tenant: required for the role producer"),
        (("publisher", "--nkey", PUBLIC), "--tenant: required for the role publisher"),
        (
            ("api", "--nkey", PUBLIC, "--tenant", "acme"),
            "--tenant: only the roles producer and publisher have a tenant",
        ),
        (("api", "--nkey", SEED), "--nkey: expected a public key, U and 55 further characters; never pass the seed"),
        (("producer", "--nkey", PUBLIC, "--tenant", "a.b"), "--tenant: "),
    ],
)
async def test_contradictory_options_of_a_user_are_refused(
    command_line: CommandLine, arguments: tuple[str, ...], says: str
) -> None:
    """The error names the mistake and does not repeat the input, which may be the seed."""
    ran = await command_line.run({}, "nats", "user", *arguments, "--json")

    assert ran.code == 2
    assert ran.error["error"].startswith(says)
    assert SEED not in ran.out + ran.err


async def test_a_producer_gets_an_account_that_reaches_its_tenants_service_alone(command_line: CommandLine) -> None:
    """The text is a block of the server's configuration, and --json prints the values of the chart."""
    ran = await command_line.run({}, "nats", "user", "producer", "--tenant", "acme", "--nkey", PUBLIC)
    as_json = await command_line.run({}, "nats", "user", "producer", "--tenant", "acme", "--nkey", PUBLIC, "--json")

    subject = "oneprotect.api.v1.acme.deliveries"
    account = as_json.json["accounts"]["acme"]
    assert ran.code == 0
    assert json.loads(f"{{{ran.out}}}") == as_json.json["accounts"]
    assert as_json.json["subject"] == subject
    assert account["imports"] == [{"service": {"account": "ONEPROTECT", "subject": subject}}]
    assert [user["nkey"] for user in account["users"]] == [PUBLIC]
    assert account["users"][0]["permissions"] == {"publish": {"allow": [subject]}, "subscribe": {"allow": ["_INBOX.>"]}}


async def test_a_publishers_entry_comes_with_a_warning(command_line: CommandLine) -> None:
    """The entry holds the tenant's subjects alone, and stderr names what the user can do to other tenants."""
    ran = await command_line.run({}, "nats", "user", "publisher", "--tenant", "acme", "--nkey", PUBLIC)
    as_json = await command_line.run({}, "nats", "user", "publisher", "--tenant", "acme", "--nkey", PUBLIC, "--json")

    allowed = ["oneprotect.delivery.requested.acme.*", "oneprotect.delivery.overflow.acme.*"]
    permissions = {"publish": {"allow": allowed}, "subscribe": {"allow": ["_INBOX_publisher_acme.>"]}}
    assert json.loads(ran.out) == {"nkey": PUBLIC, "permissions": permissions}
    assert "all tenants trust this user" in ran.err
    assert "inbox prefix: _INBOX_publisher_acme" in ran.err
    assert as_json.json == {
        "user": {"nkey": PUBLIC, "permissions": permissions},
        "inbox_prefix": "_INBOX_publisher_acme",
    }


async def test_files_are_written_for_as_many_servers_as_asked(tmp_path: Path, command_line: CommandLine) -> None:
    """The directory is created, and an unwritable one is an error."""
    ran = await command_line.run(
        {}, "nats", "files", "--output", str(tmp_path / "a" / "b"), "--replicas", "1", "--json"
    )
    (tmp_path / "file").write_text("")
    failed = await command_line.run({}, "nats", "files", "--output", str(tmp_path / "file"))

    assert str(tmp_path / "a" / "b" / "permissions.conf") in ran.json["files"]
    assert '"num_replicas": 1' in (tmp_path / "a" / "b" / "streams" / "ONEPROTECT_WORK.json").read_text()
    assert failed.code == 1
    assert "--output: the directory is not writable" in failed.err
