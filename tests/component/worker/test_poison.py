"""Messages that end the process that handles them: they end a few processes, then their own, and then they are kept."""

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable

import msgspec
import pytest

from consumers.isolation.suspects import MAX_DEATHS, MAX_ISOLATED_DEATHS, Suspect
from messaging.delivery_requests import publish_request
from messaging.kv import KvTable
from oneprotect.dev.sample_secrets import write_sample_secrets
from oneprotect.supervisor.supervisor import Supervisor
from schemas import streams, subjects
from schemas.codes import Code, Outcome
from schemas.headers import HEADER_CODE, HEADER_MSG_ID, HEADER_REASON
from schemas.ids import new_delivery_id
from telemetry.metrics import definitions
from tests.component.worker import poisonous
from tests.support.receiver import HANG, Scripted
from tests.support.site import NAMESPACE, TENANT, Process, Site, document
from tests.support.waiting import until

STALL = {"ONEPROTECT_STALL_TIMEOUT_S": "1"}


class Consumers:
    """A consumer that is started again whenever it ends, like a container, and what all of them wrote."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.processes: list[Process] = []
        self.codes: list[int] = []
        self._environ = environ

    async def run(self) -> None:
        """Keep one consumer running."""
        while True:
            self.processes.append(await Process.start(self._environ, module=poisonous.MODULE))
            self.codes.append(await self.processes[-1].process.wait())

    async def kill(self) -> None:
        """Kill the running process, and wait until it has ended."""
        ended = len(self.codes)

        def is_killed() -> bool:
            self.processes[-1].kill()  # again if it ended by itself a moment ago and the next one starts
            return len(self.codes) > ended

        await until(is_killed, 30)

    def count(self, event: str) -> int:
        """Return how often an event was logged."""
        return sum(process.output.count(f'"{event}"'.encode()) for process in self.processes)

    @property
    def output(self) -> str:
        """The output of all processes."""
        return "\n".join(process.output.decode(errors="replace") for process in self.processes)


@contextlib.asynccontextmanager
async def _consumers(site: Site, **environ: str) -> AsyncGenerator[Consumers]:
    consumers = Consumers(site.environ | STALL | environ)
    running = asyncio.create_task(consumers.run())
    try:
        yield consumers
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for process in consumers.processes:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("payload", "code"), [("abort", signal.SIGABRT), ("spin", signal.SIGPROF), ("sleep", signal.SIGPROF)]
)
async def test_a_poisonous_message_ends_two_consumers_and_is_quarantined(
    site: Site, receiver: Scripted, payload: str, code: int
) -> None:
    """All other deliveries arrive; the message is kept after three deaths of its own process."""
    await site.destination("orders", receiver.url)
    await site.destination("bad", receiver.url)
    poison = await site.deliver("bad", payload=f'"{payload}"'.encode())
    good = {await site.deliver("orders") for _ in range(20)}

    async with _consumers(site) as consumers:
        await until(site.is_settled, 60)
        good |= {await site.deliver("orders") for _ in range(5)}
        await until(site.is_settled, 20)
        ended = list(consumers.codes)

    (kept,) = await site.records(streams.QUARANTINE)
    assert ended == [-code] * 2, consumers.output
    assert consumers.count("isolation.died") - MAX_ISOLATED_DEATHS in (0, 1), "one more if it shared a process at first"
    assert kept.headers[HEADER_CODE] == Code.INTERNAL
    assert kept.headers[HEADER_REASON].startswith("ended the process that handled it 3 times")
    assert poison.encode() in kept.data
    assert {result.delivery for result in await site.results() if result.outcome is Outcome.DELIVERED} == good


async def _are_delivered(site: Site, deliveries: list[str]) -> bool:
    return {r.delivery for r in await site.results() if r.outcome is Outcome.DELIVERED} >= set(deliveries)


async def _has_waiting(site: Site, count: int) -> bool:
    return await site.waiting() == count


async def _accuse(site: Site, *deliveries: str) -> None:
    """Make requests suspect, as two deaths of consumers do."""
    for record in await site.records(streams.WORK):
        if any(delivery.encode() in record.data for delivery in deliveries):
            key = f"{streams.WORK.name}.{record.sequence}"
            await site.jetstream.suspects.put(key, msgspec.json.encode(Suspect(deaths=MAX_DEATHS)))


async def _add_tenant(site: Site, tenant: str) -> None:
    write_sample_secrets(site.directory / "secrets", namespace=NAMESPACE, tenant=tenant, names=[f"{tenant}-key"])
    ref = {"secret_ref": f"k8s://{NAMESPACE}/{tenant}-key/signing"}
    await site.jetstream.configuration.set_credential(tenant, "key", ref, by="test")


async def _request(site: Site, tenant: str, destination: str, count: int) -> list[str]:
    deliveries = [new_delivery_id() for _ in range(count)]
    for delivery in deliveries:
        headers = {HEADER_MSG_ID: subjects.msg_id(tenant, destination, delivery)}
        data = document(destination, tenant=tenant, delivery=delivery)
        await publish_request(site.jetstream.publisher, tenant, destination, data, headers)
    return deliveries


async def test_suspects_of_a_silent_receiver_delay_no_other_tenant(
    site: Site, receiver: Scripted, figure: Callable[[str], None]
) -> None:
    """After two kills with many in hand, those of another tenant are sent as soon as the third consumer runs."""
    await _add_tenant(site, "victim")
    receiver.hold = asyncio.Event()
    async with Scripted([HANG]) as silent:
        await site.destination("silent", silent.url, max_in_flight=200, timeout_s=30)
        fields = {"url": receiver.url, "credential": "key", "max_in_flight": 20, "timeout_s": 30}
        await site.jetstream.configuration.set_destination("victim", "orders", fields, by="test")
        hanging = await _request(site, TENANT, "silent", 200)
        victims = await _request(site, "victim", "orders", 20)
        async with _consumers(site, ONEPROTECT_STALL_TIMEOUT_S="10") as consumers:
            for _ in range(2):
                await until(lambda: len(silent.seen) > 150 and len(receiver.seen) == 20, 60)
                silent.seen.clear()
                receiver.seen.clear()
                await consumers.kill()
            receiver.hold.set()
            await until(lambda: consumers.count("consumer.started") == 3, 30)
            started_s = asyncio.get_running_loop().time()
            await until(lambda: len(receiver.seen) == 20, 30)
            await until(lambda: len(silent.seen) > 100, 30)
            await until(lambda: _are_delivered(site, victims), 10)

    took_s = receiver.seen[-1].at - started_s
    results = [r for r in await site.results() if r.delivery in victims]
    assert set(receiver.ids()) == set(victims)
    assert ["isolated" in result.worker for result in results] == [True] * 20, consumers.output
    assert took_s < 20, "a process starts meanwhile, and each silent request lasts 30 s"
    figure(f"{len(hanging)} suspects hang; another tenant's 20 were sent {took_s:.1f} s after the third start")


async def test_poison_among_suspects_of_several_tenants_is_found(site: Site, receiver: Scripted) -> None:
    """What was in hand with it is handled alone, each tenant in a process of its own, and is delivered."""
    await _add_tenant(site, "victim")
    receiver.hold = asyncio.Event()
    async with Scripted([HANG]) as silent:
        await site.destination("silent", silent.url, timeout_s=30)
        fields = {"url": receiver.url, "credential": "key"}
        await site.jetstream.configuration.set_destination("victim", "orders", fields, by="test")
        await site.destination("bad", receiver.url)
        hanging, victims = await _request(site, TENANT, "silent", 4), await _request(site, "victim", "orders", 4)
        await _accuse(site, *hanging, *victims)
        lane = f"lane.{TENANT}.bad"
        await site.jetstream.suspects.put(lane, msgspec.json.encode(Suspect(deaths=MAX_DEATHS)))
        async with _consumers(site) as consumers:
            await until(lambda: len(silent.seen) == len(receiver.seen) == 4, 30)
            await site.deliver("bad", payload=b'"abort"')
            await until(lambda: consumers.count("isolation.died"), 30)
            receiver.hold.set()
            await until(lambda: len(silent.seen) == 5 and _are_delivered(site, victims), 30)
            suspects = await KvTable(site.jetstream.suspects, Suspect).list(">")
            ended = list(consumers.codes)

    assert ended == []
    assert sorted(Counter(receiver.ids()).values()) == [2] * 4
    assert len(silent.seen) == 5, "one of the first tenant's own waits alone, and the others behind it"
    assert len([row for row in suspects if row.value.is_alone]) == 5, "the silent ones, and the poison"


async def test_a_suspect_that_is_no_poison_is_delivered_in_isolation(site: Site, receiver: Scripted) -> None:
    """It is signed, sent, recorded and archived like any other, retries included, and no longer suspect then."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url)
    suspect = await site.deliver("orders")
    await _accuse(site, suspect)

    async with _consumers(site) as consumers:
        await until(site.is_settled, 60)

    results = await site.results(suspect)
    assert consumers.count("isolation.started") == 1
    assert [result.outcome for result in results] == [Outcome.RETRY_SCHEDULED, Outcome.DELIVERED]
    assert "isolated" in results[0].worker
    assert len(await site.records(streams.DELIVERED)) == 1
    assert await site.jetstream.suspects.list() == []


async def test_a_suspect_head_of_an_ordered_queue_keeps_its_place(site: Site, receiver: Scripted) -> None:
    """Its retries are made in isolation, in the queue's order, and count on."""
    receiver.script = [500, 200]
    await site.destination("orders", receiver.url, ordering="fifo")
    head, following = await site.deliver("orders"), await site.deliver("orders")
    await site.jetstream.suspects.put(f"{streams.ORDERED.name}.1", msgspec.json.encode(Suspect(deaths=MAX_DEATHS)))

    async with _consumers(site):
        await until(lambda: len(receiver.seen) == 4, 60)
        await until(site.is_settled, 30)

    results = await site.results(head)
    assert receiver.ids() == [head, head, following, following]
    assert "isolated" in results[0].worker
    assert [result.attempt for result in results] == [1, 2]


async def test_a_suspect_that_exceeds_the_memory_limit_is_quarantined(site: Site, receiver: Scripted) -> None:
    """The limit is that of the isolated process, so the consumer does not run out of memory."""
    await site.destination("orders", receiver.url)
    await _accuse(site, await site.deliver("orders", payload=b'"allocate"'))

    async with _consumers(site) as consumers:
        await until(site.is_settled, 60)

    (kept,) = await site.records(streams.QUARANTINE)
    assert consumers.codes == []
    assert kept.headers[HEADER_REASON] == "failed 3 times, last with MemoryError"


async def test_a_signal_from_outside_is_no_fault_of_the_message(site: Site, receiver: Scripted) -> None:
    """A suspect whose process is killed again and again is neither quarantined nor lost, and delays no other."""
    await site.destination("orders", receiver.url)
    await site.destination("killed", receiver.url)
    await _accuse(site, await site.deliver("killed", payload=b'"kill"'))

    async with _consumers(site) as consumers:
        await until(lambda: consumers.count("isolation.died") > MAX_ISOLATED_DEATHS, 60)
        await site.deliver("orders")
        await until(lambda: _has_waiting(site, 1), 20)

    assert consumers.codes == []
    assert await site.records(streams.QUARANTINE) == []
    assert len(receiver.seen) == 1


async def test_killed_consumers_and_an_outage_quarantine_nothing(site: Site, receiver: Scripted) -> None:
    """Six kills and an outage of NATS cost a safer route, and every delivery arrives."""
    receiver.hold = asyncio.Event()
    await site.destination("orders", receiver.url, max_in_flight=20)
    deliveries = {await site.deliver("orders") for _ in range(20)}

    async with _consumers(site) as consumers:
        for _ in range(6):
            await until(lambda: receiver.seen, 30)
            receiver.seen.clear()
            await consumers.kill()
        await site.server.restart()
        receiver.hold.set()
        await until(site.is_settled, 90)

    assert consumers.codes == [-signal.SIGKILL] * 6
    assert await site.records(streams.QUARANTINE) == []
    assert {r.delivery for r in await site.results() if r.outcome is Outcome.DELIVERED} == deliveries


async def test_a_paused_process_does_not_count_as_stalled(site: Site, receiver: Scripted) -> None:
    """A process that is stopped and continued works on, as after a pause of its machine."""
    await site.destination("orders", receiver.url)
    async with _consumers(site) as consumers:
        await until(lambda: consumers.count("consumer.started"), 30)
        process = consumers.processes[0].process
        process.send_signal(signal.SIGSTOP)
        paused_s = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > paused_s + 3)
        process.send_signal(signal.SIGCONT)
        await site.deliver("orders")
        await until(site.is_settled, 30)

    assert consumers.codes == []
    assert len(receiver.seen) == 1


async def test_a_destination_whose_message_ended_its_process_is_isolated(site: Site, receiver: Scripted) -> None:
    """Further poison of that destination ends no consumer."""
    await site.destination("bad", receiver.url)
    await _accuse(site, await site.deliver("bad", payload=b'"abort"'))

    async with _consumers(site) as consumers:
        await until(lambda: consumers.count("isolation.died"), 30)
        for _ in range(2):
            await site.deliver("bad", payload=b'"abort"')
        good = await site.deliver("bad")
        await until(site.is_settled, 90)

    assert consumers.codes == []
    assert len(await site.records(streams.QUARANTINE)) == 3
    assert [r.delivery for r in await site.results() if r.outcome is Outcome.DELIVERED] == [good]


async def test_under_a_supervisor_no_poison_ends_more_than_two_consumers(site: Site, receiver: Scripted) -> None:
    """The consumers of a supervisor count the deaths together."""
    await site.destination("orders", receiver.url)
    await site.destination("bad", receiver.url)
    await site.deliver("bad", payload=b'"abort"')
    environ = {"PATH": os.environ["PATH"]} | site.environ | STALL
    command = [sys.executable, "-m", poisonous.MODULE, "--report-to"]
    supervisor, stop = Supervisor(command, environ, count=2, drain_timeout_s=5), asyncio.Event()

    running = asyncio.create_task(supervisor.run(stop))
    try:
        await until(lambda: site.records(streams.QUARANTINE), 60)
        for _ in range(5):
            await site.deliver("orders")
        await until(site.is_settled, 30)
        restarts = supervisor.snapshot().values[definitions.RESTARTS.name, ()]
    finally:
        stop.set()
        await running

    assert restarts == 2
    assert len(receiver.seen) == 5
