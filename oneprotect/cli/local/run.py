"""`oneprotect dev`: everything at once for a developer, and every attempt as it is made."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from consumers.attempts.log import follow
from oneprotect.bootstrap.process import stop_on_signals
from oneprotect.cli.local.stack import SAMPLES, TENANT, DevStack, stage
from oneprotect.cli.views.attempt import attempt_line
from schemas.events import DeliveryAttempted

NATS_PORT: Final = 4222
DEFAULT_DIRECTORY: Final = Path(".oneprotect/dev")


async def run(directory: Path, *, console: Console, as_json: bool) -> int:
    """Keep everything running, and show each attempt, until Ctrl-C. Returns the exit code."""
    stop = stop_on_signals()
    async with stage(directory, nats_port=_port(), with_api=True) as running:
        if not as_json:
            _welcome(console, running)
        async with follow(running.jetstream.connection, TENANT) as attempts:
            showing = asyncio.create_task(_show(attempts, console, as_json=as_json))
            stopping = asyncio.create_task(stop.wait())
            ending = asyncio.create_task(_any_end(running))
            await asyncio.wait({stopping, ending, showing}, return_when=asyncio.FIRST_COMPLETED)
            for task in (showing, stopping, ending):
                task.cancel()
        if not stop.is_set():
            console.print("[red]The consumer or the API has stopped; its last words are above.[/]")
            return 1
    return 0


async def _any_end(running: DevStack) -> None:
    """Wait until a process of ours ends."""
    processes = [running.consumer, *([running.api.process] if running.api else [])]
    waiting = [asyncio.create_task(process.wait()) for process in processes]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def _show(attempts: AsyncIterator[DeliveryAttempted], console: Console, *, as_json: bool) -> None:
    async for event in attempts:
        if as_json:
            console.out(msgspec.json.encode(event.data).decode(), highlight=False)
        else:
            console.print(attempt_line(event.data), highlight=False, soft_wrap=True)


def _of_api(running: DevStack) -> list[str]:
    """Where the HTTP API is, and a request to try."""
    if running.api is None:
        return []
    url = running.api.url
    return [
        f"The console is at [bold]{url}/console/integrations[/]; this run's token, on the next lines, signs in.",
        f"The HTTP API is at [bold]{url}[/], its documentation at [bold]{url}/docs[/]:",
        f"  export TOKEN={running.api.token.reveal()}",
        (
            f'  curl -H "authorization: Bearer $TOKEN" -H "content-type: application/json" '
            f"{url}/v1/tenants/{TENANT}/deliveries \\\n"
            """       -d '{"destination": "orders", "event_type": "invoice.paid", "payload": {"total": 42}}'"""
        ),
    ]


def _port() -> int | None:
    """The port that NATS clients try by themselves, or None (any) when something is there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", NATS_PORT))
        except OSError:
            return None
    return NATS_PORT


def _welcome(console: Console, running: DevStack) -> None:
    url = running.settings.nats.url
    lines = [f"[bold]Tenant {TENANT}[/], with these destinations:"]
    lines += [f"  {sample.name:<10} {running.receiver.url(sample.path):<42} {sample.shows}" for sample in SAMPLES]
    lines += [
        f"NATS is at [bold]{url}[/]. In another terminal, try:",
        "  . .venv/bin/activate" + (f"; export ONEPROTECT_NATS_URL={url}" if str(NATS_PORT) not in url else ""),
        (
            f"  echo '{{\"total\": 42}}' | oneprotect deliver --tenant {TENANT} --destination orders "
            "--event-type invoice.paid --data -"
        ),
        f"  oneprotect attempts --tenant {TENANT}",
        *_of_api(running),
        "Attempts appear here as they are recorded. Ctrl-C stops everything.",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
