"""`python -m tests.component.worker.poisonous [--report-to N | --isolated N]`: a consumer that some payloads kill.

It is the product's consumer with a sender for which some bodies are fatal, as for a fault that nobody knows yet.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from typing import Any, Final

from consumers.http_client.client import HttpWebhookSender
from oneprotect.bootstrap.consumer import run_consumer, run_isolated
from oneprotect.bootstrap.process import stop_on_signals
from oneprotect.bootstrap.resources import egress_policy
from oneprotect.bootstrap.watchdog import watch_event_loop
from oneprotect.settings.settings import Settings
from telemetry.log_config import configure_logging

MODULE: Final = "tests.component.worker.poisonous"


class PoisonousSender(HttpWebhookSender):
    """A sender that some bodies end."""

    def start(self, *arguments: Any, body: bytes, **named: Any) -> Any:
        """Send, unless the body is poison."""
        if b"abort" in body:
            os.abort()
        if b"spin" in body:
            while True:
                pass
        if b"sleep" in body:
            time.sleep(3600)
        if b"allocate" in body:
            bytearray(10**9)
        if b"kill" in body and "--isolated" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().start(*arguments, body=body, **named)


async def _main() -> None:
    settings = Settings.load(os.environ, resolves_secrets=True)
    configure_logging(level=settings.log.level, format=settings.log.format)
    sender = PoisonousSender(egress_policy(settings))
    link = socket.socket(fileno=int(sys.argv[2])) if len(sys.argv) > 2 else None
    async with watch_event_loop(settings.delivery.stall_timeout_s):
        if sys.argv[1:2] == ["--isolated"] and link is not None:
            await run_isolated(settings, link=link, sender=sender)
        else:
            isolated = [sys.executable, "-m", MODULE, "--isolated"]
            await run_consumer(settings, stop=stop_on_signals(), link=link, sender=sender, isolated=isolated)


if __name__ == "__main__":
    asyncio.run(_main())
