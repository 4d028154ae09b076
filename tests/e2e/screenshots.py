"""`python -m tests.e2e.screenshots DIRECTORY`: a picture of each page in both themes, and of some on a phone."""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.async_api import Browser

from oneprotect.dev.nats_server import EmbeddedNats
from schemas.configuration import ReplayFilter
from schemas.roles import Role
from tests.e2e.browser import DESKTOP, HOW, PHONE, Theme, chromium, launched, opened, sign_in
from tests.e2e.scene import Scene, scene
from tests.support.site import TENANT, Site

BASE: Final = f"/console/t/{TENANT}"
ON_PHONE: Final = ("integrations", "destination", "delivery")


async def pages(scene: Scene) -> dict[str, str]:
    """The address of each page, by the picture's name."""
    delivery = scene.failed[0]
    replays = scene.api.site.jetstream.replayer
    chosen = ReplayFilter(destination="crm", codes=("http.5xx",))
    replay, row = await replays.begin(TENANT, chosen, by="token:4fz8m2k0q7xw1a9c")
    await replays.run(TENANT, replay, row, rate_per_s=200)
    return {
        "sign-in": "/console/sign-in",
        "integrations": f"{BASE}/integrations",
        "destination": f"{BASE}/destinations/crm",
        "attempts": f"{BASE}/attempts",
        "failed": f"{BASE}/failed",
        "replay-plan": f"{BASE}/replays/new?destination=crm&dry_run=1",
        "replays": f"{BASE}/replays",
        "replay": f"{BASE}/replays/{replay}",
        "delivery": f"{BASE}/deliveries/{delivery}?destination=crm",
    }


async def picture(browser: Browser, scene: Scene, directory: Path, theme: Theme, addresses: dict[str, str]) -> None:
    """Take all screenshots."""
    token = await scene.token(Role.OPERATOR)
    for size, suffix in ((DESKTOP, ""), (PHONE, "-phone")):
        context = await opened(browser, scene.api.url, theme=theme, size=size)
        page = await context.new_page()
        for name, address in addresses.items():
            if name == "integrations":
                await sign_in(page, token)
            if suffix and name not in ON_PHONE:
                continue
            await page.goto(address)
            await page.screenshot(path=directory / f"{name}{suffix}-{theme}.png", animations="disabled")
        await context.close()


async def main(directory: Path) -> int:
    """Take the screenshots and return the exit code."""
    path = chromium()
    if path is None:
        sys.stderr.write(HOW + "\n")
        return 1
    with tempfile.TemporaryDirectory() as work:
        async with (
            EmbeddedNats(Path(work) / "nats") as server,
            Site(Path(work), server, log_level="warning", secret_retry_schedule_s="3600") as site,
            scene(site) as running,
            launched(path) as browser,
        ):
            addresses = await pages(running)
            for theme in ("light", "dark"):
                await picture(browser, running, directory, theme, addresses)
    return 0


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    sys.exit(asyncio.run(main(target)))
