"""The JavaScript client in a browser as users have it: three replicas behind nginx, and each fault in turn.

In each test, numbers are stored for a room and for the mailbox of the client all the time. The page has to get each
of them once and in order, without a loss. What its user saw is the list of its states.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.client_stage import Stage, stage
from tests.integration.visits import COMES_BACK, IS_LIVE, visited, worker_misses_nothing
from tests.support.devtools import DevTools, chromium

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

TOKEN_AFTER_REFUSAL = "void client.on('status', ({ closeCode }) => closeCode === 4401 && delete token)"
SILENCE_S = 16.0
"""Until a client takes a silent socket for dead: the heartbeat, 10 s, and 5 s for an answer."""
LONG = [pytest.mark.later, pytest.mark.timeout(600)]


Visiting = Callable[..., Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on(redis_url: str) -> AsyncIterator[Stage]:
    async with stage(redis_url) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[DevTools]:
    async with chromium() as tools:
        yield tools


@pytest.fixture
def visiting(on: Stage, browser: DevTools) -> Visiting:
    return partial(visited, on, browser.open)


@pytest.mark.parametrize("lasts_s", [1.5, pytest.param(30, marks=LONG)])
async def test_page_whose_system_is_offline(visiting: Visiting, lasts_s: float) -> None:
    async with visiting() as visit:
        await visit.tab.set_offline(True)
        await visit.tab.shows("client.status === 'offline'")
        await asyncio.sleep(lasts_s)
        assert await visit.states() == ["offline"]
        await visit.tab.set_offline(False)
        await visit.is_live()
        await visit.misses_nothing()
        assert await visit.states() == ["offline", "connecting", "catching-up", "live"]


async def test_page_whose_replica_is_killed(visiting: Visiting, on: Stage) -> None:
    async with visiting() as visit:
        replica = await on.replica_of(visit.name)
        replica.process.kill()
        await visit.tab.shows("changes.length >= 4")
        await on.restart(replica)
        await visit.misses_nothing()
        assert await visit.states() == COMES_BACK
        assert await visit.codes() == [1006, 0]


async def test_page_while_each_replica_is_drained_and_replaced(visiting: Visiting, on: Stage) -> None:
    async with visiting() as visit:
        for replica in on.replicas:
            await on.replace(replica)
        await visit.misses_nothing()
        states = await visit.states()
        assert states == ["catching-up", "live"] * (len(states) // 2)
        assert states


async def test_page_whose_network_swallows_bytes(visiting: Visiting, on: Stage) -> None:
    async with visiting() as visit:
        on.network.swallow()
        await visit.tab.shows("changes.length", SILENCE_S * 3)
        await visit.is_live()
        on.network.mend()
        await visit.misses_nothing()
        assert await visit.states() == COMES_BACK


@pytest.mark.parametrize("lasts_s", [8, pytest.param(300, marks=LONG)])
async def test_page_that_is_hidden(visiting: Visiting, browser: DevTools, on: Stage, lasts_s: float) -> None:
    """Its timers run once a minute. In the last third of the time its replica is killed."""
    async with visiting() as visit:
        other = await browser.open("about:blank")
        await other.bring_to_front()
        await visit.tab.shows("document.hidden")
        await visit.tab.evaluate("void setInterval(() => window.ticks = (window.ticks ?? 0) + 1, 100)")
        await asyncio.sleep(2 / 3 * lasts_s)
        assert await visit.states() == []
        replica = await on.replica_of(visit.name)
        replica.process.kill()
        ticks = await visit.tab.evaluate("ticks")
        await asyncio.sleep(1 / 3 * lasts_s)
        assert await visit.tab.evaluate("ticks") - ticks < 5 * lasts_s / 3
        await visit.tab.bring_to_front()
        await visit.is_live(5)
        await other.close()
        await on.restart(replica)
        await visit.misses_nothing()
        assert await visit.states() == COMES_BACK


async def test_page_that_is_frozen(visiting: Visiting, browser: DevTools) -> None:
    async with visiting() as visit:
        other = await browser.open("about:blank")
        await other.bring_to_front()
        await visit.tab.shows("document.hidden")
        await visit.tab.evaluate("void document.addEventListener('freeze', () => window.wasFrozen = true)")
        await visit.tab.freeze()
        await visit.numbers.more(50)
        await visit.tab.thaw()
        await visit.tab.bring_to_front()
        await other.close()
        await visit.tab.shows("changes.length")
        await visit.is_live()
        await visit.misses_nothing()
        assert await visit.tab.evaluate("wasFrozen")
        assert await visit.states() == COMES_BACK


async def test_page_that_comes_back_from_the_cache_of_the_browser(visiting: Visiting, on: Stage) -> None:
    async with visiting() as visit:
        await visit.tab.evaluate(
            "void addEventListener('pageshow', event => window.persisted = event.persisted)"
        )
        await visit.tab.goto(f"{on.address}/elsewhere")
        await visit.tab.shows("document.title === 'elsewhere'")
        await visit.numbers.more(50)
        await visit.tab.evaluate("history.back()")
        await visit.is_live()
        await visit.misses_nothing()
        assert await visit.tab.evaluate("persisted")
        assert await visit.states() == COMES_BACK
        assert await visit.codes() == [0]  # the browser closes what the page leaves open, with 1006


async def test_client_in_a_worker(browser: DevTools, on: Stage) -> None:
    tab = await browser.open("about:blank")
    await worker_misses_nothing(on, tab)
    await tab.close()


async def test_page_whose_handshakes_are_refused(visiting: Visiting, on: Stage) -> None:
    async with visiting() as visit:
        on.network.cut()
        on.network.refuses = True
        await visit.tab.shows("changes.filter(({ to }) => to === 'waiting').length >= 3")
        on.network.mend()
        await visit.is_live()
        await visit.misses_nothing()
        states = await visit.states()
        assert states[-2:] == ["catching-up", "live"]
        assert states[:-2] == ["waiting", "connecting"] * (len(states) // 2 - 1)


async def test_page_whose_token_expires(visiting: Visiting) -> None:
    async with visiting("lasts_s=4") as visit:
        await visit.tab.shows("fetched.length >= 2")
        assert await visit.states() == []
        await visit.tab.evaluate("window.token = '2020-01-01T00:00:00+00:00'")
        await visit.tab.evaluate(TOKEN_AFTER_REFUSAL)
        await visit.tab.shows("changes.length >= 4")
        await visit.misses_nothing()
        assert await visit.states() == COMES_BACK
        assert await visit.codes() == [4401, 0]


async def test_tab_that_was_duplicated_takes_the_only_connection(
    visiting: Visiting, browser: DevTools
) -> None:
    """One connection for each client, and two tabs with the same positions: they must not replace each other."""
    async with visiting("stored=positions") as visit:
        copy = await browser.duplicate(visit.tab)
        await copy.shows(IS_LIVE)
        await visit.tab.shows("client.status === 'closed'")
        assert await visit.states() == ["closed"]
        assert await visit.tab.evaluate("client.error.code") == "replaced"
        by_original = await visit.seen()
        await copy.evaluate("changes.length = 0")
        await visit.numbers.more(50)
        visit.tab = copy
        await visit.misses_nothing(before=by_original)
        assert await visit.states() == []
        await copy.close()


async def test_page_that_is_reloaded_in_the_middle_of_a_stream(visiting: Visiting, on: Stage) -> None:
    async with visiting("stored=all") as visit:
        is_over = asyncio.Event()

        async def stream() -> int:
            words = 0
            async with on.publisher.stream(visit.numbers.room) as found:
                while not is_over.is_set():
                    await found.write(f"{words} ")
                    words += 1
                    await asyncio.sleep(0.01)
            return words

        async with asyncio.TaskGroup() as tasks:
            streaming = tasks.create_task(stream())
            for _ in range(3):
                await visit.numbers.more(5)
                await visit.tab.reload()
                await visit.is_live()
            is_over.set()
        await visit.misses_nothing()
        parts = [event for event in await visit.seen() if isinstance(event, dict) and "stream" in event]
        assert [part["seq"] for part in parts] == list(range(len(parts)))
        assert "".join(part["text"] for part in parts).split() == [
            str(word) for word in range(streaming.result())
        ]
        assert parts[-1]["end"]
