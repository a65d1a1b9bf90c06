"""The admin page in a real browser: three nodes, names that try to inject, actions, and a registry without Redis."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.async_api import Browser, Page, expect

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from fastapi_websocket_stabilizer.testing import RedisServer
from fastapi_websocket_stabilizer.web.admin import Action
from tests.integration.cluster import Managers, join, register
from tests.support.process import free_port
from tests.support.waiting import eventually

SECRET = "a secret of the operators"
CLIENTS = 2_000
HOSTILE = (
    "<img src=x onerror=window.injected=1>",
    '"><script>window.injected=1</script>',
    "'-alert(1)-'",
    "javascript:window.injected=1",
    "{{constructor.constructor('window.injected=1')()}}",
    "\u202egnp.exe",
    "</td></table><h1>injected</h1>",
    "&lt;b&gt;",
    "a/../b?c#d%2e",
    "x" * 500,
)
VIEWS = ("", "nodes", "connections", "rooms", "closed", "limits", "doctor", "live")
expect.set_options(timeout=20_000)


@dataclass
class Visit:
    """A page, and everything that it must not do."""

    page: Page
    address: str
    trouble: list[str] = field(default_factory=list)

    async def go(self, view: str) -> None:
        await self.page.goto(f"{self.address}#/{view}")

    async def shows(self, text: str | re.Pattern[str]) -> None:
        await expect(self.page.locator("main")).to_contain_text(text)


@asynccontextmanager
async def served(
    node: WebSocketConnectionManager, actions: Sequence[Action] = (), dependencies: Sequence[Any] = ()
) -> AsyncIterator[str]:
    """Serve the page of a node on the loop of the test; yield its address."""
    app = FastAPI()
    app.include_router(node.admin_router(prefix="/admin", actions=actions, dependencies=dependencies))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off", ws="none"))
    serving = asyncio.ensure_future(server.serve())
    await eventually(lambda: server.started, what="the page is served")
    try:
        yield f"http://127.0.0.1:{port}/admin/"
    finally:
        server.should_exit = server.force_exit = True
        await serving


@asynccontextmanager
async def visit(browser: Browser, address: str, **options: Any) -> AsyncIterator[Visit]:
    context = await browser.new_context(**options)
    page = await context.new_page()
    found = Visit(page, address)
    page.on("pageerror", lambda error: found.trouble.append(f"error: {error}"))
    page.on("dialog", lambda dialog: found.trouble.append(f"dialog: {dialog.message}"))

    async def violated(what: str) -> None:
        found.trouble.append(f"policy: {what}")

    await page.expose_function("violated", violated)
    await page.add_init_script(
        "addEventListener('securitypolicyviolation', ({ blockedURI }) => window.violated(blockedURI))"
    )
    await page.goto(address)
    try:
        yield found
        assert found.trouble == []
    finally:
        with suppress(Exception):
            await context.close()


@pytest.fixture
async def nodes(own_managers: Managers) -> list[WebSocketConnectionManager]:
    settings = {"redis_timeout_s": 1.0, "log_level": "CRITICAL"}
    return await own_managers.start_many(3, **settings)


async def test_overview_shows_all_nodes_and_their_connections(
    nodes: list[WebSocketConnectionManager], browser: Browser
) -> None:
    for number in range(CLIENTS):
        await register(nodes[number % 3], f"client {number}")
    async with served(nodes[0]) as address, visit(browser, address) as tab:
        tiles = tab.page.locator(".tile")
        await expect(tiles.filter(has_text="Connections").locator("b")).to_have_text(f"{CLIENTS:,}")
        await expect(tiles.filter(has_text="Ready nodes").locator("b")).to_have_text("3")
        await tab.go("nodes")
        await expect(tab.page.locator("tbody tr")).to_have_count(3)
        await tab.go("connections")
        await tab.shows(f"100 of {CLIENTS:,} shown")
        await tab.page.keyboard.press("/")
        await tab.page.keyboard.type("client 7")
        await tab.page.keyboard.press("Enter")
        await tab.shows("Nothing is wrong with its connections.")
        await expect(tab.page.get_by_role("button", name="Disconnect")).to_have_count(0)


async def test_names_and_reasons_are_text(nodes: list[WebSocketConnectionManager], browser: Browser) -> None:
    for number, name in enumerate(HOSTILE):
        await join(nodes[number % 3], name, name)
        await (await register(nodes[number % 3], f"gone {number}")).close(4001, name[:120])
        await (await register(nodes[number % 3], f"{name[:200]}!")).close(4001, name[:120])
    async with served(nodes[0]) as address, visit(browser, address) as tab:
        for view in VIEWS:
            await tab.go(view)
            await expect(tab.page.locator("main h1")).to_be_visible()
            await expect(tab.page.locator("main")).not_to_contain_text("Loading")
        await tab.go("live")
        await tab.shows("Connected")
        for name in HOSTILE:
            await (await register(nodes[1], f"{name[:200]}?")).close(4001, name[:120])
        await expect(tab.page.locator("tbody tr")).to_have_count(2 * len(HOSTILE))
        await tab.go("connections")
        for name in HOSTILE:
            await tab.page.get_by_role("link", name=name, exact=True).first.click()
            await tab.shows("Nothing is wrong with its connections.")
            await expect(tab.page.locator("main h1 bdi")).to_have_text(name)
            await tab.go("connections")
        assert await tab.page.evaluate("window.injected") is None
        assert await tab.page.locator("main img, main script, main h1 h1, main iframe").count() == 0


async def test_actions_ask_first_and_do_what_they_say(own_managers: Managers, browser: Browser) -> None:
    settings: dict[str, Any] = {"admin_secret": SECRET, "log_level": "CRITICAL"}
    nodes = await own_managers.start_many(2, **settings)
    socket = await join(nodes[1], "ada", "lobby")
    async with served(nodes[0], ["kick", "drain", "broadcast"]) as address, visit(browser, address) as tab:
        secret = tab.page.get_by_label("Secret")
        await secret.fill("wrong")
        await tab.page.keyboard.press("Enter")
        await expect(tab.page.get_by_role("alert").first).to_contain_text("403")
        await secret.fill(SECRET)
        await tab.page.keyboard.press("Enter")
        await expect(tab.page.locator("header")).to_contain_text("actions: broadcast, drain, kick")
        await tab.go("client/ada")
        await tab.page.get_by_role("button", name="Disconnect").first.click()
        await expect(tab.page.get_by_role("dialog").get_by_role("button", name="Cancel")).to_be_focused()
        await tab.page.keyboard.press("Enter")
        assert socket.is_open
        await tab.page.get_by_role("button", name="Disconnect").first.click()
        await tab.page.get_by_role("dialog").get_by_role("button", name="Disconnect").click()
        await eventually(lambda: not socket.is_open, what="the client is closed")
        await expect(tab.page.get_by_role("status")).to_contain_text("ada")
        await tab.go("nodes")
        row = tab.page.locator("tr").filter(has_text=nodes[1]._state.name).last
        await row.get_by_role("button", name="Drain").click()
        await tab.page.get_by_role("dialog").get_by_role("button", name="Drain").click()
        await eventually(lambda: any(node._state.is_draining for node in nodes), what="a node drains")
        assert SECRET not in tab.page.url
        tab.trouble = [each for each in tab.trouble if "403" not in each]


async def test_without_redis_the_page_says_so_and_shows_its_own_node(
    nodes: list[WebSocketConnectionManager], browser: Browser, server: RedisServer
) -> None:
    await join(nodes[0], "ada", "lobby")
    async with served(nodes[0]) as address, visit(browser, address) as tab:
        await tab.shows("No problems.")
        server.kill()
        await tab.shows("RedisFailing")
        await expect(tab.page.locator("header")).to_contain_text("Redis is unreachable")
        await tab.go("connections")
        await tab.shows("ada")


async def test_page_asks_for_nothing_while_its_tab_is_hidden(
    nodes: list[WebSocketConnectionManager], browser: Browser
) -> None:
    asked: list[str] = []
    async with served(nodes[0]) as address, visit(browser, address) as tab:
        await tab.shows("No problems.")
        await tab.page.evaluate(
            """() => {
              Object.defineProperty(document, "hidden", { get: () => window.isHidden });
              window.isHidden = true;
              document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        await asyncio.sleep(2.5)  # a request that was under way, and the end of its pause
        tab.page.on("request", lambda request: asked.append(request.url))
        await asyncio.sleep(5.0)
        assert asked == []
        await tab.page.evaluate(
            "window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))"
        )
        await eventually(lambda: asked != [], what="it asks again")


@pytest.mark.parametrize("options", [{"viewport": {"width": 360, "height": 740}}, {"color_scheme": "dark"}])
async def test_page_fits_a_phone_and_a_dark_room(
    nodes: list[WebSocketConnectionManager], browser: Browser, options: dict[str, Any]
) -> None:
    await join(nodes[0], "x" * 500, "y" * 500)
    async with served(nodes[0]) as address, visit(browser, address, **options) as tab:
        for view in VIEWS:
            await tab.go(view)
            await expect(tab.page.locator("main h1")).to_be_visible()
            overflow = await tab.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert overflow <= 0, view
