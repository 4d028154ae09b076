"""The nemesis: disturbs consumers, APIs and servers at random, and notes each disturbance."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tests.chaos.judge.history import Event
from tests.chaos.judge.installation import Installation, Program, Server
from tests.chaos.judge.streams import Streams

STREAMS: Final = tuple(
    f"ONEPROTECT_{name}" for name in ("WORK", "OVERFLOW", "RETRIES", "ORDERED", "ATTEMPTS", "FAILED")
)
Disturbance = Callable[[], Awaitable[None]]


class Nemesis:
    """Disturbs an installation; `streams` reach its servers without a proxy."""

    def __init__(self, site: Installation, streams: Streams, chance: random.Random, *, ack_wait_s: float) -> None:
        self.site, self.streams, self.chance, self.ack_wait_s = site, streams, chance, ack_wait_s
        self.events: list[Event] = []
        self._disturbed: set[str] = set()

    async def run(self, until: float) -> None:
        """Disturb until a time, and leave everything working."""
        consumers, apis = self.site.consumers, self.site.apis
        await asyncio.gather(
            self._disturb_programs(consumers, until, pause_s=(1.0, 4.0)),
            self._disturb_programs(consumers, until, pause_s=(2.0, 8.0)),
            self._disturb_programs(apis, until, pause_s=(4.0, 12.0)),
            self._disturb_servers(until, pause_s=(3.0, 10.0)),
        )

    async def _disturb_programs(self, programs: Sequence[Program], until: float, pause_s: tuple[float, float]) -> None:
        while await self._waited(until, pause_s):
            free = [program for program in programs if program.name not in self._disturbed]
            if len(free) < 2:
                continue  # the last one stays, so that there is somebody to take over
            program = self.chance.choice(free)
            self._disturbed.add(program.name)
            await self._disturb(program)
            self._disturbed.discard(program.name)

    async def _disturb(self, program: Program) -> None:
        kinds: dict[str, tuple[int, Callable[[Program], Awaitable[None]]]] = {
            "kill": (4, self._kill),
            "stop": (2, self._stop),
            "pause": (3, self._pause),
            "cut": (3, self._cut),
            "reset": (2, self._reset),
        }
        if program is self.site.consumers[0] and self.site.can_move_clock:
            kinds["clock"] = (2, self._move_clock)
        (kind,) = self.chance.choices(list(kinds), [weight for weight, _ in kinds.values()])
        label, started = program.label, time.monotonic()
        await kinds[kind][1](program)
        self.events.append(Event(kind, label, started, time.monotonic()))

    async def _kill(self, program: Program) -> None:
        await program.kill()
        await asyncio.sleep(self.chance.uniform(0, 2))
        program.start()

    async def _stop(self, program: Program) -> None:
        program.signal(signal.SIGTERM)
        await program.ended()
        program.start()

    async def _pause(self, program: Program) -> None:
        """Pause a process, mostly for longer than the servers wait for its acknowledgements."""
        program.signal(signal.SIGSTOP)
        await asyncio.sleep(self.ack_wait_s * self.chance.uniform(0.5, 1.6))
        program.signal(signal.SIGCONT)

    async def _cut(self, program: Program) -> None:
        """Stall all connections to the servers, mostly for longer than they wait for acknowledgements."""
        for proxy in program.proxies:
            proxy.passing.clear()
        await asyncio.sleep(self.ack_wait_s * self.chance.uniform(0.5, 1.6))
        reset = self.chance.random() < 0.5
        for proxy in program.proxies:
            if reset:
                proxy.reset()
            proxy.passing.set()

    async def _reset(self, program: Program) -> None:
        for proxy in program.proxies:
            proxy.reset()

    async def _move_clock(self, _program: Program) -> None:
        """Move the clock of the first consumer by up to an hour for some seconds."""
        self.site.clock.write_text(f"{self.chance.choice([-3600, -60, 60, 3600]):+d}\n")
        await asyncio.sleep(self.chance.uniform(3, 10))
        self.site.clock.write_text("+0\n")
        await asyncio.sleep(2)  # libfaketime reads the file once a second

    async def _disturb_servers(self, until: float, pause_s: tuple[float, float]) -> None:
        kinds: dict[str, tuple[int, Disturbance]] = {
            "step-down": (5, self._step_down),
            "server kill": (3, self._kill_server),
            "server pause": (1, self._pause_server),
            "rolling restart": (1, self._restart_servers),
            "all servers killed": (1, self._kill_all_servers),
        }
        if self.site.small_store is not None:
            kinds["full disk"] = (1, self._fill_disk)
        while await self._waited(until, pause_s):
            (kind,) = self.chance.choices(list(kinds), [weight for weight, _ in kinds.values()])
            started = time.monotonic()
            await kinds[kind][1]()
            self.events.append(Event(kind, "servers", started, time.monotonic()))

    async def _step_down(self) -> None:
        stream = self.chance.choice(STREAMS)
        subject = self.chance.choice([f"STREAM.LEADER.STEPDOWN.{stream}", "META.LEADER.STEPDOWN"])
        if stream in ("ONEPROTECT_WORK", "ONEPROTECT_RETRIES") and self.chance.random() < 0.5:
            subject = f"CONSUMER.LEADER.STEPDOWN.{stream}.delivery"
        with contextlib.suppress(OSError, TimeoutError):
            await self.streams.ask(subject, {})

    async def _kill_server(self) -> None:
        server = self.chance.choice(self.site.servers)
        await server.kill()
        await asyncio.sleep(self.chance.uniform(0, 6))
        await self._start(server)

    async def _pause_server(self) -> None:
        server = self.chance.choice(self.site.servers)
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(self.chance.uniform(2, 15))
        server.signal(signal.SIGCONT)
        await server.healthy(self.site.http)

    async def _restart_servers(self) -> None:
        for server in self.site.servers:
            server.signal(signal.SIGTERM)
            await server.ended()
            await self._start(server)

    async def _kill_all_servers(self) -> None:
        await asyncio.gather(*(server.kill() for server in self.site.servers))
        for server in self.site.servers:
            server.start()
        await asyncio.gather(*(server.healthy(self.site.http) for server in self.site.servers))

    async def _fill_disk(self) -> None:
        """Fill the disk of one server; it needs a restart afterwards, as the runbook says."""
        assert self.site.small_store is not None
        filler = self.site.small_store / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        await asyncio.sleep(self.chance.uniform(3, 10))
        filler.unlink()
        server = next(one for one in self.site.servers if one.store == self.site.small_store)
        server.signal(signal.SIGTERM)
        await server.ended()
        await self._start(server)

    async def _start(self, server: Server) -> None:
        server.start()
        await server.healthy(self.site.http)

    async def _waited(self, until: float, pause_s: tuple[float, float]) -> bool:
        """Wait a random time, and return False when the trial has no time for a further disturbance."""
        pause = self.chance.uniform(*pause_s)
        latest = until - 2 * self.ack_wait_s if until - time.monotonic() > 3 * self.ack_wait_s else until
        await asyncio.sleep(min(pause, max(0.0, latest - time.monotonic())))
        return time.monotonic() < latest
