"""`oneprotect api`: the deployment that producers, admins and operators talk to."""

import os

from oneprotect.cli.support.options import AsJson


def api(*, as_json: AsJson = False) -> None:
    """Serve the HTTP API at ONEPROTECT_API_HOST and ONEPROTECT_API_PORT, until SIGTERM.

    It reads no Secret, and needs no provider. It speaks plain HTTP: put TLS before it. On SIGTERM it takes no more
    requests, finishes those that it has, and exits with 0. What it does is told on stderr, by its log; with --json as
    JSON whatever ONEPROTECT_LOG_FORMAT says. `oneprotect token create` makes what clients need to get in.
    """
    import uvloop

    from oneprotect.bootstrap.api import run_api
    from oneprotect.bootstrap.process import read_export, stop_on_signals
    from oneprotect.bootstrap.process_hardening import harden_process
    from oneprotect.settings.settings import Settings
    from telemetry.log_config import configure_logging

    settings = Settings.load(os.environ)
    export = read_export(os.environ)
    configure_logging(level=settings.log.level, format="json" if as_json else settings.log.format)
    harden_process()

    async def main() -> None:
        await run_api(settings, stop=stop_on_signals(), export=export)

    uvloop.run(main())
