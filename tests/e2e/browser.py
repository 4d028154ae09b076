"""Browser for tests: Debian's Chromium, driven by Playwright."""

import contextlib
import os
import shutil
from collections.abc import AsyncGenerator
from typing import Literal

from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.support.waiting import PATIENCE

HOW = "no Chromium found: `apt-get install chromium`, or name one in ONEPROTECT_TEST_CHROMIUM"
DESKTOP = (1280, 900)
PHONE = (390, 844)

Theme = Literal["light", "dark"]


def chromium() -> str | None:
    """Return the path of Chromium, or None."""
    named = os.environ.get("ONEPROTECT_TEST_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.asynccontextmanager
async def launched(path: str) -> AsyncGenerator[Browser]:
    """Run Chromium without a window."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


async def opened(
    browser: Browser, url: str, *, theme: Theme = "light", size: tuple[int, int] = DESKTOP, scripts: bool = True
) -> BrowserContext:
    """Open a new profile; paths of its pages are relative to `url`."""
    context = await browser.new_context(
        base_url=url,
        color_scheme=theme,
        viewport={"width": size[0], "height": size[1]},
        java_script_enabled=scripts,
        locale="en-GB",
        timezone_id="UTC",
    )
    context.set_default_timeout(30_000 * PATIENCE)
    return context


async def sign_in(page: Page, token: str, *, to: str = "/console/integrations") -> None:
    """Sign in with the form."""
    await page.goto(f"/console/sign-in?next={to}")
    await page.get_by_label("Token", exact=True).fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"**{to}")
