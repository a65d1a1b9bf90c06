"""A page with the JavaScript client, in any browser, and the numbers that it has to get."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from tests.integration.client_stage import Numbers, Stage
from tests.support.other_browsers import Page
from tests.support.waiting import eventually

IS_LIVE = "window.client?.status === 'live'"
COMES_BACK = ["waiting", "connecting", "catching-up", "live"]
WORKER = """(({ name, room }) => {
  const script = `
    import { connect } from "${location.origin}/stabilizer/client.js";
    const client = connect("${location.origin.replace("http", "ws")}/ws?name=${name}&room=${room}");
    const tell = data => postMessage(data);
    client.on("message", ({ data }) => tell(data));
    client.on("lost", lost => tell({ lost: lost.log }));
    client.on("status", ({ to }) => tell({ status: to }));`;
  const file = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  window.told = [];
  window.worker = new Worker(file, { type: "module" });
  worker.onmessage = ({ data }) => told.push(data);
  worker.onerror = ({ message }) => told.push({ error: message });
})"""

HAS_BEEN_LIVE = "told.filter(({{ status }}) => status === 'live').length >= {times}"
AnyPage = TypeVar("AnyPage", bound=Page)


class Visit(Generic[AnyPage]):
    """A page with a client that is live, and the numbers that are sent to it."""

    def __init__(self, tab: AnyPage, name: str, numbers: Numbers) -> None:
        self.tab, self.name, self.numbers = tab, name, numbers

    async def seen(self) -> list[Any]:
        found: list[Any] = await self.tab.evaluate("window.seen")
        return found

    async def states(self) -> list[str]:
        """Return what the user saw since the page was live."""
        found: list[str] = await self.tab.evaluate("changes.map(({ to }) => to)")
        return found

    async def codes(self) -> list[int]:
        """Return the close codes that were shown, each once."""
        found: list[int] = await self.tab.evaluate("[...new Set(changes.map(change => change.closeCode))]")
        return found

    async def is_live(self, timeout_s: float = 30.0) -> None:
        await self.tab.shows(IS_LIVE, timeout_s)

    async def misses_nothing(self, before: Sequence[Any] = ()) -> None:
        """Send some numbers more, and check all of them.

        A page stores its positions a moment after its messages. So a copy of the page may get the last ones once more
        of those that its original got ``before``.
        """
        await self.numbers.more()
        await self.numbers.stop()

        async def all_seen() -> list[Any]:
            seen = await self.seen()
            return [event for event in before if event not in seen] + seen

        async def has_all() -> bool:
            return self.numbers.has_all(await all_seen())

        await eventually(has_all, timeout_s=30, what="all numbers")
        room, box = self.numbers.counts(await all_seen())
        assert room.is_whole, room
        assert box.is_whole, box
        assert box.sent > 0


@asynccontextmanager
async def visited(
    on: Stage, open_page: Callable[[str], Awaitable[AnyPage]], query: str = ""
) -> AsyncIterator[Visit[AnyPage]]:
    """Open a page whose client is live, and send numbers to it until the block ends."""
    name = f"ann-{secrets.token_hex(4)}"
    room = f"long:{name}"
    tab = await open_page(f"{on.address}/?name={name}&room={room}&{query}")
    try:
        await tab.shows(IS_LIVE, 60)
        await tab.evaluate("changes.length = 0")
        async with Numbers(on.publisher, room, name) as numbers:
            await numbers.more()
            yield Visit(tab, name, numbers)
    finally:
        await tab.close()


async def worker_misses_nothing(on: Stage, page: Page) -> None:
    """Run a client in a worker of a page, kill its replica, and check that it gets all numbers."""
    name = f"worker-{secrets.token_hex(4)}"
    room = f"long:{name}"
    await page.goto(f"{on.address}/elsewhere")
    await page.shows("document.title === 'elsewhere'")
    await page.evaluate(f"void {WORKER}({{ name: '{name}', room: '{room}' }})")
    await page.shows(HAS_BEEN_LIVE.format(times=1))
    async with Numbers(on.publisher, room, name) as numbers:
        await numbers.more()
        replica = await on.replica_of(name)
        replica.process.kill()
        await page.shows(HAS_BEEN_LIVE.format(times=2))
        await on.restart(replica)
        await numbers.more()
        await numbers.stop()

        async def has_all() -> bool:
            return numbers.has_all(await page.evaluate("told"))

        await eventually(has_all, timeout_s=30, what="all numbers")
        for count in numbers.counts(await page.evaluate("told")):
            assert count.is_whole, count
            assert count.sent
    assert not await page.evaluate("told.filter(({ error }) => error)")
    await page.evaluate("worker.terminate()")
