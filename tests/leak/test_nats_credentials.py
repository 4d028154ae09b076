"""NATS credentials: the seed in the file appears nowhere, accepted or refused."""

from collections.abc import Callable
from pathlib import Path

from tests.leak.support import search_targets
from tests.leak.support.commands import Run, ran
from tests.leak.support.processes import consumer_pid
from tests.leak.support.secured import secured
from tests.leak.support.sinks import Sinks
from tests.support.leaks import Search
from tests.support.site import Process
from tests.support.waiting import until

SPOILED: dict[str, Callable[[str], str]] = {
    "its seed cut": lambda text: text[:-60],
    "its seed altered": lambda text: text.replace("\nSU", "\nSUAA"),
    "no seed": lambda text: text.partition("-----BEGIN USER NKEY")[0],
    "its JWT altered": lambda text: text.replace("\ney", "\neyJ"),
    "its JWT empty": lambda text: text.replace("\ney", "\n\ney"),
}


async def test_the_seed_of_nats_credentials_is_never_shown(sinks: Sinks, tmp_path: Path) -> None:
    """No output contains the seed, with valid and with damaged credentials files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    async with secured(tmp_path) as server:
        environ = {
            "ONEPROTECT_NATS_URL": server.url,
            "ONEPROTECT_NATS_CREDS_FILE": str(server.credentials),
            "ONEPROTECT_SECRET_PROVIDER": "local",
            "ONEPROTECT_LOCAL_SECRETS_DIR": str(tmp_path / "secrets"),
            "ONEPROTECT_LOG_LEVEL": "debug",
            "TMPDIR": str(temporary),
        }
        runs = [Run(("apply",)), Run(("attempts",)), Run(("doctor",)), Run(("attempts", "--json"))]
        for number, spoil in enumerate(SPOILED.values()):
            path = tmp_path / f"spoiled-{number}.creds"
            path.write_text(spoil(server.credentials.read_text()))
            runs.append(Run(("attempts",), {"ONEPROTECT_NATS_CREDS_FILE": str(path)}))
        results = await ran(environ, runs)
        sinks.hear("commands", *(result.out + result.err for result in results))
        consumer = await Process.start(environ, "consumer")
        await until(lambda: consumer.says("consumer.started"), 10)
        sinks.hear_all(search_targets.kernel(consumer_pid(), "the consumer"))
        consumer.terminate()
        assert await consumer.wait() == 0
        sinks.hear("output of the consumer", bytes(consumer.output))
        sinks.hear("nats-server's log", server.log.read_bytes())
        sinks.hear("temporary files", search_targets.files(temporary))
        search = Search(server.seed, server.key)
        credentials = server.credentials.read_text()

    assert [result.code for result in results][:2] == [0, 0]
    assert [result.code for result in results][4:] == [1] * len(SPOILED)
    assert sinks.holds("commands", "unreachable at")
    assert sinks.holds("environ of the consumer", "user.creds")
    assert sinks.findings(search) == []
    assert search.find(credentials) != []
