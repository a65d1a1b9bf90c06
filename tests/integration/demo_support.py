"""The demo as a process of its own, and the system's Chromium to look at it."""

import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from playwright.async_api import Browser, Locator, Page, async_playwright
from redis import Redis

from tests.support import http
from tests.support.process import ChildProcess, free_port
from tests.support.requirements import missing
from tests.support.waiting import eventually_sync

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
START_TIMEOUT_S = 30.0
DEMO = (sys.executable, "-m", "fastapi_websocket_stabilizer.cli", "demo")


class Demo:
    """A running ``stabilizer demo``: where its replicas are and which processes it has."""

    def __init__(self, process: ChildProcess) -> None:
        self.process = process
        eventually_sync(self._answers, START_TIMEOUT_S, "all replicas ready")
        self.urls: list[str] = re.findall(r"replica-\d\s+(http://\S+)", process.output)

    def _answers(self) -> bool:
        assert self.process.is_running, self.process.output
        return "Ctrl-C ends everything" in self.process.output

    def children(self) -> dict[int, str]:
        """Return the pid and the command of everything the supervisor runs."""
        return {
            int(process.name): (process / "cmdline").read_text().replace("\0", " ")
            for process in Path("/proc").glob("[0-9]*")
            if _state_and_parent(int(process.name))[1] == self.process.pid
        }

    def directory(self) -> Path:
        """Return the demo's temporary directory, which a replica's command names."""
        command = next(command for command in self.children().values() if "uvicorn" in command)
        return Path(command.split("--app-dir ")[1].split()[0])

    def is_as_new(self) -> bool:
        """Whether every replica serves its page, and no client is registered."""
        pages = [http.get(url) for url in self.urls]
        return all(page.is_success for page in pages) and not any(
            ":client:" in key for key in self.stored_keys()
        )

    def stored_keys(self) -> list[str]:
        """Return the names of all keys in the demo's Valkey."""
        with Redis(unix_socket_path=str(self.directory() / "valkey.sock")) as valkey:
            return [key.decode() for key in valkey.scan_iter()]


@contextmanager
def running_demo(*options: str) -> Iterator[Demo]:
    with ChildProcess([*DEMO, "--port", str(free_port()), *options]) as process:
        yield Demo(process)


def is_gone(pid: int) -> bool:
    """Tell whether the process has ended; one that only waits to be reaped has."""
    return _state_and_parent(pid)[0] in "ZX"


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        after_the_name = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return after_the_name[0], int(after_the_name[1])


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        missing("no Chromium on PATH: apt-get install chromium")
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        await browser.close()


class Tab:
    """One tab of the demo, and what its person can do and see."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.messages = page.locator("#messages li")
        self.events = page.locator("#log li")
        self.notice = page.locator("#notice")
        self.people = page.locator(".people button")

    @classmethod
    async def open(
        cls, browser: Browser, url: str, name: str, *, width: int = 1280, height: int = 800
    ) -> "Tab":
        page = await browser.new_page(viewport={"width": width, "height": height})
        await page.goto(f"{url}/?name={name}")
        tab = cls(page)
        await tab.person(name).wait_for()
        return tab

    def person(self, name: str, replica: str | None = None) -> Locator:
        card = f'[data-replica="{replica}"]' if replica else ".replica"
        return self.page.locator(f"{card} .people").get_by_role("button", name=name, exact=True)

    def people_on(self, replica: str) -> Locator:
        return self.replica(replica).locator(".people button")

    def replica(self, name: str) -> Locator:
        return self.page.locator(f'[data-replica="{name}"]')

    async def client_id(self, name: str) -> str:
        return await self.person(name).get_attribute("data-key") or ""

    async def say(self, text: str, *, to: str = "Everyone") -> None:
        await self.page.get_by_label("To whom").select_option(label=to)
        await self.page.get_by_label("Message").fill(text)
        await self.page.get_by_role("button", name="Send").click()

    async def toggle_room(self, room: str) -> None:
        await self.page.get_by_role("button", name=f"#{room}").click()

    async def kill(self, replica: str) -> None:
        await self.replica(replica).get_by_role("button", name="kill -9").click()

    async def rename(self, name: str) -> None:
        await self.page.get_by_label("You are").fill(name)
        await self.page.get_by_label("You are").press("Enter")

    async def invite(self) -> None:
        """Add six guests, who belong to this tab."""
        await self.page.locator("#invite").click()
