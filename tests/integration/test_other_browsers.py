"""The JavaScript client in Firefox and in WebKit: the faults that need no tools of a browser, and a worker.

``test_browser_faults.py`` has all faults, in Chromium. As there, missed, repeated and lost numbers are counted.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.client_stage import Stage, stage
from tests.integration.visits import COMES_BACK, Visit, visited, worker_misses_nothing
from tests.support.other_browsers import OTHERS, Page

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150), pytest.mark.later]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on(redis_url: str) -> AsyncIterator[Stage]:
    async with stage(redis_url) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=OTHERS)
async def page(request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    async with OTHERS[request.param]() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def visit(on: Stage, page: Page) -> AsyncIterator[Visit[Page]]:
    async def open_page(url: str) -> Page:
        await page.goto(f"{on.address}/elsewhere")
        await page.evaluate("sessionStorage.clear()")  # the tab is that of the test before
        await page.goto(url)
        return page

    async with visited(on, open_page, "stored=all") as found:
        yield found


async def test_page_whose_network_is_cut(visit: Visit[Page], on: Stage) -> None:
    on.network.cut()
    await visit.tab.shows("client.status === 'waiting'")
    on.network.mend()
    await visit.is_live()
    await visit.misses_nothing()
    assert (await visit.states())[-2:] == ["catching-up", "live"]


async def test_page_whose_replica_is_killed(visit: Visit[Page], on: Stage) -> None:
    replica = await on.replica_of(visit.name)
    replica.process.kill()
    await visit.tab.shows("changes.length >= 4")
    await on.restart(replica)
    await visit.misses_nothing()
    assert await visit.states() == COMES_BACK


async def test_page_while_each_replica_is_drained_and_replaced(visit: Visit[Page], on: Stage) -> None:
    for replica in on.replicas:
        await on.replace(replica)
    await visit.misses_nothing()
    states = await visit.states()
    assert states == ["catching-up", "live"] * (len(states) // 2)


async def test_page_that_is_reloaded(visit: Visit[Page]) -> None:
    for _ in range(3):
        await visit.numbers.more(5)
        await visit.tab.reload()
        await visit.is_live()
    await visit.misses_nothing()


async def test_client_in_a_worker(page: Page, on: Stage) -> None:
    await worker_misses_nothing(on, page)
