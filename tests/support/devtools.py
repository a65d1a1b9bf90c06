"""The system's Chromium over its DevTools protocol, for what playwright prevents: hidden pages, and the page cache.

Playwright makes each page believe that it is visible, and switches timers of hidden pages and the back/forward cache
to what its own tests need. Here the browser is as its users have it, but without a window.
"""

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.process import ChildProcess
from tests.support.requirements import missing
from tests.support.waiting import eventually

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SOON_THROTTLED = "IntensiveWakeUpThrottling:grace_period_seconds/5"
"""Timers of a hidden page run once a minute after 5 s, as they usually do after 5 minutes."""
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--enable-features={SOON_THROTTLED}",
    "--remote-debugging-port=0",
)
START_S = 60.0
ANSWER_S = 30.0


def find_browser() -> str:
    """Return the path of a Chromium; skip the test without one."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or missing("no Chromium on PATH: apt-get install chromium")


class PageError(Exception):
    """What a script of a page has thrown, or what the browser refused."""


class DevTools:
    """The connection to a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read(), name="devtools")

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol.

        Raises:
            PageError: The browser answered with an error.
            TimeoutError: It did not answer.
        """
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        request: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        await self._socket.send(json.dumps(request | ({"sessionId": session} if session else {})))
        async with asyncio.timeout(ANSWER_S):
            answer = await self._answers[number]
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str, *, in_window: bool = False) -> "Tab":
        """Open a tab in front of the others of its window, which are hidden then."""
        target = (await self.call("Target.createTarget", url=url, newWindow=in_window))["targetId"]
        return await self._attach(target)

    async def duplicate(self, tab: "Tab") -> "Tab":
        """Open the page of a tab once more, with a copy of its session storage, as users duplicate a tab."""
        await tab.call("Runtime.evaluate", expression="void window.open(location.href)", userGesture=True)

        async def find() -> list[str]:
            targets = (await self.call("Target.getTargets"))["targetInfos"]
            return [target["targetId"] for target in targets if target.get("openerId") == tab.target]

        (target,) = await eventually(find, what="the other tab")
        return await self._attach(target)

    async def _attach(self, target: str) -> "Tab":
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        return Tab(self, target, session)

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])

    async def _read(self) -> None:
        async for message in self._socket:
            answer = json.loads(message)
            if (waiting := self._answers.pop(answer.get("id"), None)) is not None and not waiting.done():
                waiting.set_result(answer)


class Tab:
    """One tab of the browser."""

    def __init__(self, tools: DevTools, target: str, session: str) -> None:
        self._tools, self.target, self._session = tools, target, session

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._tools.call(method, self._session, **parameters)

    async def evaluate(self, expression: str) -> Any:
        """Return the JSON value of an expression, or that of the promise that it is.

        Raises:
            PageError: It has thrown.
        """
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise PageError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def shows(self, expression: str, timeout_s: float = 20.0) -> None:
        """Wait until an expression is true."""
        await eventually(lambda: self.evaluate(expression), timeout_s, expression)

    async def goto(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def reload(self) -> None:
        """Reload the page, and return when the former one is gone."""
        await self.evaluate("window.isFormer = true")
        await self.call("Page.reload")
        await self.shows("!window.isFormer")

    async def bring_to_front(self) -> None:
        """Show the tab, and hide the others."""
        await self._tools.call("Target.activateTarget", targetId=self.target)

    async def freeze(self) -> None:
        """Freeze the page as a browser does that saves memory. It has to be hidden."""
        await self.call("Page.setWebLifecycleState", state="frozen")

    async def thaw(self) -> None:
        await self.call("Page.setWebLifecycleState", state="active")

    async def set_offline(self, is_offline: bool) -> None:
        await self.call("Network.enable")
        await self.call(
            "Network.emulateNetworkConditions",
            offline=is_offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    async def close(self) -> None:
        await self._tools.call("Target.closeTarget", targetId=self.target)


@asynccontextmanager
async def chromium(*options: str) -> AsyncIterator[DevTools]:
    """Run a browser with a profile of its own, which ends with the block."""
    browser = find_browser()
    with TemporaryDirectory(prefix="fws-chromium-", ignore_cleanup_errors=True) as profile:
        command = [browser, *OPTIONS, *options, f"--user-data-dir={profile}", "about:blank"]
        with ChildProcess(command) as process:
            port_file = Path(profile, "DevToolsActivePort")

            def listens() -> list[str]:
                assert process.is_running, process.output
                return port_file.read_text().split()

            port, path = await eventually(listens, START_S, "the port of the browser")
            async with connect(f"ws://127.0.0.1:{port}{path}", proxy=None, max_size=None) as socket:
                tools = DevTools(socket)
                try:
                    yield tools
                finally:
                    await tools.close()
