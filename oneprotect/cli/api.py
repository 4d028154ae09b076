"""`oneprotect api`: the deployment that producers, admins and operators talk to."""

import os

from oneprotect.cli.options import AsJson


def api(*, as_json: AsJson = False) -> None:
    """Serve the HTTP API at ONEPROTECT_API_HOST and ONEPROTECT_API_PORT, until SIGTERM.

    It reads no Secret, and needs no provider. It speaks plain HTTP: put TLS before it. On SIGTERM it takes no more
    requests, finishes those that it has, and exits with 0. What it does is told on stderr, by its log; with --json as
    JSON whatever ONEPROTECT_LOG_FORMAT says. `oneprotect token create` makes what clients need to get in.
    """
    import uvloop

    from oneprotect.settings import Settings
    from oneprotect.telemetry.hardening import harden_process
    from oneprotect.telemetry.logs import configure_logging
    from oneprotect.wiring.api import run_api
    from oneprotect.wiring.process import read_export, stop_on_signals

    settings = Settings.load(os.environ)
    export = read_export(os.environ)
    configure_logging(level=settings.log.level, format="json" if as_json else settings.log.format)
    harden_process()

    async def main() -> None:
        await run_api(settings, stop=stop_on_signals(), export=export)

    uvloop.run(main())
