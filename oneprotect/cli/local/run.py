"""`oneprotect dev`: the local installation, and each attempt as consumers store it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from consumers.attempts.log import follow
from oneprotect.bootstrap.process import stop_on_signals
from oneprotect.cli.local.stack import SAMPLES, TENANT, DevStack, ServedApi, is_port_free, start_stack
from oneprotect.cli.views.attempts import format_attempt
from schemas.events import DeliveryAttempted

NATS_PORT: Final = 4222
DEFAULT_DIRECTORY: Final = Path(".oneprotect/dev")


async def run_dev(directory: Path, *, console: Console, as_json: bool) -> int:
    """Run the installation and print each attempt, until Ctrl-C. Returns the exit code."""
    stop = stop_on_signals()
    nats_port = NATS_PORT if is_port_free(NATS_PORT) else None
    async with start_stack(directory, nats_port=nats_port, with_api=True) as stack:
        if not as_json:
            _print_welcome(console, stack)
        async with follow(stack.jetstream.connection, TENANT) as attempts:
            tasks = [
                asyncio.create_task(_print_attempts(attempts, console, as_json=as_json)),
                asyncio.create_task(stop.wait()),
                asyncio.create_task(_wait_for_any_end(stack)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        if not stop.is_set():
            console.print("[red]The consumer or the API stopped. Its last log lines are above.[/]")
            return 1
    return 0


async def _wait_for_any_end(stack: DevStack) -> None:
    processes = [stack.consumer, *([stack.api.process] if stack.api else [])]
    waiting = [asyncio.create_task(process.wait()) for process in processes]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def _print_attempts(attempts: AsyncIterator[DeliveryAttempted], console: Console, *, as_json: bool) -> None:
    async for event in attempts:
        if as_json:
            console.out(msgspec.json.encode(event.data).decode(), highlight=False)
        else:
            console.print(format_attempt(event.data), highlight=False, soft_wrap=True)


def _print_welcome(console: Console, stack: DevStack) -> None:
    url = stack.settings.nats.url
    lines = [f"[bold]Tenant {TENANT}[/] has these destinations:"]
    lines += [f"  {sample.name:<10} {stack.receiver.url(sample.path):<42} {sample.shows}" for sample in SAMPLES]
    lines += [
        f"NATS is at [bold]{url}[/]. Request a delivery in another terminal:",
        "  . .venv/bin/activate" + (f"; export ONEPROTECT_NATS_URL={url}" if str(NATS_PORT) not in url else ""),
        (
            f"  echo '{{\"total\": 42}}' | oneprotect deliver --tenant {TENANT} --destination orders "
            "--event-type invoice.paid --data -"
        ),
        f"  oneprotect attempts --tenant {TENANT}",
        *(_describe_api(stack.api, url) if stack.api else []),
        "This NATS writes to disk every two minutes: a crash of the machine loses what is newer. Not for production.",
        "Attempts appear here as they are stored. Press Ctrl-C to stop everything.",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _describe_api(api: ServedApi, nats_url: str) -> list[str]:
    return [
        f"The console is at [bold]{api.url}/console/integrations[/]. Sign in with this token, valid for this run:",
        f"  export TOKEN={api.token.reveal()}",
        f"The HTTP API is at [bold]{api.url}[/], its documentation at [bold]{api.url}/docs[/]. Request a delivery:",
        (
            f'  curl -H "authorization: Bearer $TOKEN" -H "content-type: application/json" '
            f"{api.url}/v1/tenants/{TENANT}/deliveries \\\n"
            """       -d '{"destination": "orders", "event_type": "invoice.paid", "payload": {"total": 42}}'"""
        ),
        "The API takes the same requests over NATS. Here every client is trusted; elsewhere a tenant has an account:",
        (
            f"  echo '{{\"total\": 42}}' | NATS_URL={nats_url} python examples/python/publish_nats.py {TENANT} orders "
            "invoice.paid"
        ),
    ]
