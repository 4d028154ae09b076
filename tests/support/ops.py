"""Client of the operations port of a process."""

import aiohttp


class Ops:
    """A client of one operations port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._url = f"http://127.0.0.1:{port}"

    async def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Return status and body; the status is 0 when the port does not answer."""
        try:
            async with aiohttp.request(method, self._url + path) as response:
                return response.status, await response.text()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def is_ready(self) -> bool:
        """Return True when the readiness probe succeeds."""
        return (await self.get("/readyz"))[0] == 200

    async def value(self, series: str) -> float | None:
        """Return the value of a series, named as in `/metrics`."""
        for line in (await self.get("/metrics"))[1].splitlines():
            if line.startswith(series + " "):
                return float(line.removeprefix(series))
        return None
