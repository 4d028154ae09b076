"""Process of the consumer, as seen by other processes on the machine."""

import signal

from schemas import streams
from tests.leak.support import search_targets
from tests.leak.support.processes import bare
from tests.support.leaks import Canary, Search
from tests.support.site import Site
from tests.support.waiting import until


async def test_a_running_consumer_dumps_no_core_and_cannot_be_traced(site: Site) -> None:
    """Other processes of the same user cannot read the consumer's memory."""
    other = await bare({}, "-c", "import time; time.sleep(60)")
    consumer = await bare(site.environ, "-m", "oneprotect", "consumer")

    async def sees(pid: int, what: str) -> bool:
        return await search_targets.peek(pid) == what

    async def is_at_work() -> bool:
        consumer_info = f"CONSUMER.INFO.{streams.WORK.name}.{streams.WORK_CONSUMER.name}"
        return bool((await site.jetstream.connection.api(consumer_info))["num_waiting"])

    try:
        await until(is_at_work, 10)  # it hears signals by then
        await until(lambda: sees(other.pid, "open"), 10)
        await until(lambda: search_targets.core_limit(consumer.pid) == ["0", "0"], 10)
        await until(lambda: sees(consumer.pid, "closed"), 10)
    finally:
        other.kill()
        consumer.send_signal(signal.SIGTERM)
        await other.wait()
        assert await consumer.wait() == 0


async def test_a_secret_in_arguments_or_environment_is_found() -> None:
    """The search covers arguments and environment, which processes of the same user can read."""
    argument, variable = Canary.secret("argument"), Canary.secret("variable")
    program = ("-c", "import time; time.sleep(60)", argument.reveal())
    process = await bare({"SECRET": variable.reveal()}, *program)

    seen = search_targets.kernel(process.pid, "it")
    process.kill()
    await process.wait()

    search = Search(argument, variable)
    assert {finding.canary for finding in search.find(seen["cmdline of it"])} == {"argument"}
    assert {finding.canary for finding in search.find(seen["environ of it"])} == {"variable"}
