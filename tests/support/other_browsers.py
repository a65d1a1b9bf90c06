"""Firefox and WebKit of the system, over the protocols that they have themselves: WebDriver BiDi, and WebDriver."""

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import aiohttp
from websockets.asyncio.client import ClientConnection, connect

from tests.support.devtools import ANSWER_S, START_S, PageError
from tests.support.process import ChildProcess, free_port
from tests.support.requirements import missing
from tests.support.waiting import eventually

MINI_BROWSER = "*/webkit2gtk-4.*/MiniBrowser"
WITHOUT_GPU = {
    "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",  # tests may run as root
    "WEBKIT_DISABLE_COMPOSITING_MODE": "1",
    "LIBGL_ALWAYS_SOFTWARE": "1",
}


class Page(Protocol):
    """The only page of a browser."""

    async def evaluate(self, expression: str) -> Any:
        """Return the JSON value of an expression, or that of the promise that it is.

        Raises:
            PageError: It has thrown.
        """
        ...

    async def goto(self, url: str) -> None:
        """Open another page in place of this one."""
        ...

    async def reload(self) -> None:
        """Reload the page."""
        ...

    async def shows(self, expression: str, timeout_s: float = 20.0) -> None:
        """Wait until an expression is true."""
        ...

    async def close(self) -> None:
        """Leave the page."""
        ...


class _Page:
    """What is the same in both."""

    async def evaluate(self, expression: str) -> Any:
        raise NotImplementedError

    async def goto(self, url: str) -> None:
        raise NotImplementedError

    async def shows(self, expression: str, timeout_s: float = 20.0) -> None:
        await eventually(lambda: self.evaluate(expression), timeout_s, expression)

    async def close(self) -> None:
        await self.goto("about:blank")


class BidiPage(_Page):
    """A page over WebDriver BiDi."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()
        self._context = ""

    async def open(self) -> None:
        """Begin a session."""
        await self._call("session.new", capabilities={})
        self._context = (await self._call("browsingContext.getTree"))["contexts"][0]["context"]

    async def evaluate(self, expression: str) -> Any:
        answer = await self._call(
            "script.evaluate",
            expression=f"Promise.resolve(eval({json.dumps(expression)})).then(JSON.stringify)",
            target={"context": self._context},
            awaitPromise=True,
        )
        if answer["type"] != "success":
            raise PageError(str(answer["exceptionDetails"]["text"]))
        return json.loads(answer["result"].get("value") or "null")

    async def goto(self, url: str) -> None:
        await self._call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def reload(self) -> None:
        await self._call("browsingContext.reload", context=self._context, wait="complete")

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        async with self._turn, asyncio.timeout(ANSWER_S):
            number = next(self._numbers)
            await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
            while (answer := json.loads(await self._socket.recv())).get("id") != number:
                pass  # an event
        if answer["type"] == "error":
            raise PageError(f"{method}: {answer['message']}")
        result: dict[str, Any] = answer["result"]
        return result


class DriverPage(_Page):
    """A page over WebDriver."""

    SCRIPT = (
        "const done = arguments[arguments.length - 1];"
        "new Promise(resolve => resolve(eval(arguments[0])))"
        ".then(value => done({ value: value ?? null }), error => done({ error: `${error}` }));"
    )

    def __init__(self, http: aiohttp.ClientSession, session: str) -> None:
        self._http, self._session = http, session

    async def evaluate(self, expression: str) -> Any:
        answer = await self._post("execute/async", script=self.SCRIPT, args=[expression])
        if "error" in answer:
            raise PageError(answer["error"])
        return answer["value"]

    async def goto(self, url: str) -> None:
        await self._post("url", url=url)

    async def reload(self) -> None:
        await self._post("refresh")

    async def _post(self, path: str, **body: Any) -> Any:
        async with self._http.post(f"/session/{self._session}/{path}", json=body) as response:
            value = (await response.json())["value"]
            if response.status != 200:
                raise PageError(f"{path}: {value}")
            return value


@asynccontextmanager
async def firefox() -> AsyncIterator[Page]:
    """Run Firefox with a profile of its own, which ends with the block."""
    binary = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
    binary = binary or missing("no Firefox on PATH: apt-get install firefox-esr")
    with TemporaryDirectory(prefix="fws-firefox-", ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"]
        with ChildProcess([binary, *options, "about:blank"]) as process:

            def listens() -> dict[str, Any]:
                assert process.is_running, process.output
                found: dict[str, Any] = json.loads(Path(profile, "WebDriverBiDiServer.json").read_text())
                return found

            at = await eventually(listens, START_S, "the port of Firefox")
            url = f"ws://{at['ws_host']}:{at['ws_port']}/session"
            async with connect(url, proxy=None, max_size=None) as socket:
                page = BidiPage(socket)
                await page.open()
                yield page


def find_webkit() -> tuple[str, str, str]:
    """Return the paths of WebKit's driver, of a display and of a browser; skip the test without one of them."""
    driver, display = shutil.which("WebKitWebDriver"), shutil.which("Xvfb")
    binary = next(Path("/usr/lib").glob(MINI_BROWSER), None)
    if driver is None or display is None or binary is None:
        missing("no WebKit: apt-get install webkit2gtk-driver xvfb")
    return driver, display, str(binary)


@asynccontextmanager
async def webkit() -> AsyncIterator[Page]:
    """Run the browser of WebKitGTK on a display of its own; both end with the block."""
    driver, display, binary = find_webkit()
    command = [display, "-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    with ChildProcess(command) as xvfb:

        def numbers() -> list[str]:
            assert xvfb.is_running, xvfb.output
            return [line for line in xvfb.output.split() if line.isdigit()]

        (number,) = await eventually(numbers, START_S, "the number of the display")
        port, environment = free_port(), {**WITHOUT_GPU, "DISPLAY": f":{number}"}
        with ChildProcess([driver, f"--port={port}"], environment=environment):
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                session = await eventually(lambda: _session(http, binary), START_S, "WebKit")
                yield DriverPage(http, session)
                await (await http.delete(f"/session/{session}")).read()


async def _session(http: aiohttp.ClientSession, binary: str) -> str:
    options = {"binary": binary, "args": ["--automation"]}
    wanted = {"browserName": "MiniBrowser", "webkitgtk:browserOptions": options}
    async with http.post("/session", json={"capabilities": {"alwaysMatch": wanted}}) as response:
        return str((await response.json())["value"]["sessionId"])


OTHERS: dict[str, Callable[[], AbstractAsyncContextManager[Page]]] = {"firefox": firefox, "webkit": webkit}
"""The browsers by name."""
