"""The console as people use it: in a real browser, on a real installation."""

import contextlib
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from schemas.configuration import ReplayFilter
from schemas.roles import Role
from tests.e2e.browser import PHONE, Theme, opened, sign_in
from tests.e2e.scene import Scene
from tests.support.site import TENANT

pytestmark = pytest.mark.asyncio(loop_scope="package")

BASE = f"/console/t/{TENANT}"
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()


@contextlib.asynccontextmanager
async def _visiting(day: Scene, browser: Browser, *roles: Role, **how: Any) -> AsyncGenerator[tuple[Page, list[str]]]:
    """Open a page with a signed-in session, and collect the errors of the browser."""
    context = await opened(browser, day.api.url, **how)
    try:
        page = await context.new_page()
        complaints = _complaints(page)
        await sign_in(page, await day.token(*(roles or (Role.OPERATOR,))))
        yield page, complaints
    finally:
        await context.close()


def _complaints(page: Page) -> list[str]:
    """Errors on the page's console, violations of its policy among them, and exceptions of its script."""
    found: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            found.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


async def _addresses(day: Scene) -> list[str]:
    """Every page, filled and empty ones, and one that is not there."""
    replays = day.site.jetstream.replayer
    replay, row = await replays.begin(TENANT, ReplayFilter(destination="legacy"), by="test")
    await replays.run(TENANT, replay, row)
    return [
        f"{BASE}/integrations",
        f"{BASE}/destinations/crm",
        f"{BASE}/destinations/search",
        f"{BASE}/attempts",
        f"{BASE}/attempts?live=1",
        f"{BASE}/failed",
        f"{BASE}/failed?destination=nowhere",
        f"{BASE}/replays",
        f"{BASE}/replays/{replay}",
        f"{BASE}/replays/new?dry_run=1",
        f"{BASE}/deliveries/{day.failed[0]}?destination=crm",
        f"{BASE}/deliveries/unknown",
        "/console/nowhere",
    ]


async def test_an_operator_signs_in_and_sees_each_state_of_a_credential(day: Scene, browser: Browser) -> None:
    """Configured with its rollover, missing, and mismatched; a tenant sees less than an operator."""
    async with _visiting(day, browser, Role.OPERATOR) as (page, _):
        credentials = page.get_by_role("table", name="Credentials")
        for name, status in (("orders-key", "Configured"), ("erp-key", "Missing"), ("audit-key", "Mismatch")):
            await expect(credentials.get_by_role("row", name=name)).to_contain_text(status)
        await expect(credentials.get_by_role("row", name="orders-key")).to_contain_text(re.compile(r"until \d{4}-"))
        await page.get_by_role("button", name="Check now erp-key").click()
        await expect(page.get_by_role("status")).to_contain_text("checked just now")

    async with _visiting(day, browser, Role.VIEWER) as (page, _):
        credentials = page.get_by_role("table", name="Credentials")
        for name in ("erp-key", "audit-key"):
            await expect(credentials.get_by_role("row", name=name)).to_contain_text("Unavailable")
        await expect(page.get_by_role("button", name=re.compile("Check"))).to_have_count(0)


async def test_a_delivery_is_followed_live(day: Scene, browser: Browser) -> None:
    """Its attempt appears on an open page within moments, and leads to its timeline."""
    async with _visiting(day, browser, Role.VIEWER) as (page, complaints):
        await page.goto(f"{BASE}/attempts")
        await page.get_by_role("link", name="Follow live").click()
        await expect(page.get_by_role("status")).to_have_text("Live")

        delivery = await day.site.deliver("orders")

        row = page.get_by_role("row").filter(has_text=delivery)
        await expect(row).to_contain_text("Delivered")
        await row.get_by_role("link", name=delivery).click()
        await expect(page.get_by_role("heading", level=1)).to_contain_text(delivery)
        await expect(page.get_by_role("listitem")).to_contain_text("Attempt 1 delivered")
        assert complaints == []


async def test_a_failed_delivery_is_replayed(day: Scene, browser: Browser) -> None:
    """From the list through a dry run to a replay that finishes by itself on the page."""
    delivery = day.failed[-1]
    async with _visiting(day, browser, Role.OPERATOR) as (page, complaints):
        await page.goto(f"{BASE}/failed?destination=crm")
        await page.get_by_role("link", name=f"Replay {delivery}").click()
        await expect(page.get_by_role("heading", name="Deliveries to replay: 1")).to_be_visible()

        await page.get_by_role("button", name="Replay 1").click()

        await expect(page.get_by_text("Finished")).to_be_visible()
        await page.get_by_role("link", name=delivery).click()
        await expect(page.get_by_role("listitem")).to_have_count(2)
        assert complaints == []
    assert len(day.broken.of(delivery)) == 2


async def test_a_replay_is_cancelled(day: Scene, browser: Browser) -> None:
    """A slow replay shows its progress, and stops on request."""
    async with _visiting(day, browser, Role.OPERATOR) as (page, complaints):
        page.on("dialog", lambda dialog: dialog.accept())
        await page.goto(f"{BASE}/replays/new?destination=crm&rate=0.5")
        await page.get_by_role("button", name="Dry run").click()
        await page.get_by_role("button", name=re.compile(r"^Replay \d+")).click()
        await expect(page.get_by_text("Running")).to_be_visible()
        await expect(page.get_by_role("progressbar")).to_be_visible()

        await page.get_by_role("button", name="Cancel replay").click()

        await expect(page.get_by_role("status")).to_contain_text("cancelled")
        await expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()
        assert complaints == []


async def test_a_destination_is_tested_disabled_and_enabled(day: Scene, browser: Browser) -> None:
    """The console shows the result of a real ping, and since when the destination is disabled."""
    async with _visiting(day, browser, Role.OPERATOR) as (page, complaints):
        page.on("dialog", lambda dialog: dialog.accept())
        await page.goto(f"{BASE}/destinations/search")
        await page.get_by_role("button", name="Send test").click()
        await expect(page.get_by_role("region", name="Test")).to_contain_text("Delivered")
        await page.goto(f"{BASE}/destinations/search")

        await page.get_by_role("button", name="Disable").click()
        await expect(page.get_by_text("Deliveries are skipped, and can be").last).to_be_visible()
        await page.get_by_role("button", name="Enable").click()

        await expect(page.get_by_role("button", name="Disable")).to_be_visible()
        assert complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_every_page_is_accessible_and_quiet(day: Scene, browser: Browser, theme: Theme) -> None:
    """axe finds nothing serious, and the browser complains about nothing, its content policy above all."""
    async with _visiting(day, browser, Role.OPERATOR, theme=theme) as (page, complaints):
        signed_out = await opened(browser, day.api.url, theme=theme)
        serious = await _serious(await signed_out.new_page(), "/console/sign-in")
        await signed_out.close()
        for address in await _addresses(day):
            serious += await _serious(page, address)
        assert serious == []
        # The browser itself reports responses that are no 200: these pages are requested on purpose.
        assert [text for text in complaints if "status of 404" not in text] == []


async def _serious(page: Page, address: str) -> list[str]:
    await page.goto(address)
    await page.evaluate(AXE)
    found: Any = await page.evaluate("axe.run()")
    assert len(found["passes"]) > 10, "axe has looked"
    return [
        f"{address}: {one['id']}: {node['target']} {node.get('failureSummary', '')}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


async def test_no_page_is_wider_than_a_phone(day: Scene, browser: Browser) -> None:
    """390 pixels: nothing has to be scrolled sideways."""
    async with _visiting(day, browser, Role.OPERATOR, size=PHONE) as (page, _):
        wide: list[str] = []
        for address in await _addresses(day):
            await page.goto(address)
            width = await page.evaluate("document.documentElement.scrollWidth")
            wide += [f"{address}: {width}"] if width > PHONE[0] else []
        assert wide == []


async def test_pages_can_be_read_without_scripts(day: Scene, browser: Browser) -> None:
    """Sign-in, lists, filters and pagination need no scripts."""
    async with _visiting(day, browser, Role.VIEWER, scripts=False) as (page, _):
        await expect(page.get_by_role("table", name="Destinations")).to_contain_text("orders")
        await page.get_by_role("link", name="Failed").click()
        await page.get_by_role("textbox", name="Destination").fill("legacy")
        await page.get_by_role("button", name="Filter").click()
        rows = page.get_by_role("row")
        await expect(rows.filter(has_text="crm")).to_have_count(0)
        await expect(rows.filter(has_text="legacy").first).to_be_visible()
        await page.goto(f"{BASE}/attempts?live=1")
        await expect(page.get_by_text("Live updates need JavaScript")).to_be_visible()


async def test_the_theme_is_switched_and_remembered(day: Scene, browser: Browser) -> None:
    """The button overrides the system's preference, and the next page loads without a flash."""
    async with _visiting(day, browser, Role.VIEWER, theme="light") as (page, _):
        await page.get_by_role("button", name="Switch between dark and light").click()
        await page.get_by_role("link", name="Attempts").click()
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(13, 19, 18)"


async def test_the_keyboard_reaches_everything(day: Scene, browser: Browser) -> None:
    """The first stop skips to the content, the next ones are visible, and focus shows."""
    async with _visiting(day, browser, Role.VIEWER) as (page, _):
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"


async def test_a_revoked_token_ends_open_pages(day: Scene, browser: Browser) -> None:
    """The next page requires a login, and a live page is disconnected."""
    context: BrowserContext = await opened(browser, day.api.url)
    page = await context.new_page()
    token = await day.token(Role.VIEWER)
    await sign_in(page, token)
    await page.goto(f"{BASE}/attempts?live=1")
    await expect(page.get_by_role("status")).to_have_text("Live")

    await day.site.jetstream.tokens.delete(token.removeprefix("oneprotect_")[:16], by="test")

    await expect(page.get_by_role("status")).not_to_have_text("Live")
    await page.goto(f"{BASE}/failed")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await context.close()
