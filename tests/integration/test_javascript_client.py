"""The JavaScript client in a real browser: a page without a build step, and replicas in processes."""

import asyncio
from typing import Any

from playwright.async_api import Browser, Page

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from tests.integration.client_replicas import Door, Replica, door
from tests.support import http
from tests.support.waiting import eventually


async def show(browser: Browser, opened: Door, query: str) -> Page:
    """Open the page, and wait until its client is live."""
    page = await browser.new_page()
    await page.goto(opened.url.replace("ws://", "http://").replace("/ws", f"/?{query}"))
    await page.wait_for_function("window.client?.status === 'live'")
    return page


async def seen(page: Page) -> list[Any]:
    found: list[Any] = await page.evaluate("seen")
    return found


async def hears(page: Page, *expected: Any) -> None:
    async def has_all() -> bool:
        return len(await seen(page)) >= len(expected)

    await eventually(has_all, what=f"{len(expected)} messages")
    assert await seen(page) == list(expected)


async def test_script_is_one_file_that_caches_ask_for(endpoints: list[Replica]) -> None:
    await endpoints[0].ready()
    async with http.AsyncClient(base_url=f"http://127.0.0.1:{endpoints[0].port}") as asking:
        script = await asking.get("/stabilizer/client.js")
        again = await asking.get("/stabilizer/client.js", headers={"If-None-Match": script.headers["etag"]})
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["cache-control"] == "no-cache"
    assert "import " not in script.text.replace("import(", "")
    assert (again.status_code, again.content) == (304, b"")


async def test_messages_and_calls_of_a_page(
    endpoints: list[Replica], publisher: WebSocketConnectionManager, browser: Browser
) -> None:
    await endpoints[0].ready()
    async with door(endpoints[0]) as opened:
        page = await show(browser, opened, "name=ann&room=lobby")
        assert await page.evaluate("[client.id, client.rooms]") == ["ann", ["lobby"]]
        await page.evaluate("client.send({text: 'hi'})")
        await page.evaluate("client.send(new Uint8Array([0, 255]))")
        await page.evaluate("client.send('confirmed', {confirm: true})")
        await hears(page, '{"text":"hi"}', [0, 255], "confirmed")
        assert await page.evaluate("client.request('double', 21)") == 42
        assert await page.evaluate("client.request('double', 0).catch(error => error.message)") == "not zero"
        assert await page.evaluate("client.request('no').catch(error => error.code)") == "not_found"
        assert await page.evaluate("client.room('shut').join().catch(error => error.code)") == "forbidden"
        await page.evaluate("client.room('open').join()")
        assert await page.evaluate("client.rooms") == ["lobby", "open"]
        assert await publisher.request("ann", "confirm", {"text": "four"}) == 4
        await page.evaluate(
            "void client.room('lobby').presence(members => window.members = [...members.keys()])"
        )
        await page.wait_for_function("window.members?.[0] === 'ann'")
        await page.evaluate("client.close()")
        assert await page.evaluate("client.status") == "closed"


async def test_page_gets_what_waited_for_it_and_the_next_page_does_not(
    endpoints: list[Replica], publisher: WebSocketConnectionManager, browser: Browser
) -> None:
    await endpoints[0].ready()
    await publisher.send_to_client("ann", {"number": 1}, store=True)
    async with door(endpoints[0]) as opened:
        page = await show(browser, opened, "name=ann")
        await hears(page, {"number": 1})
        await publisher.delete_mailbox("ann")
        await publisher.send_to_client("ann", "2", store=True)
        await hears(page, {"number": 1}, "2")
        await page.evaluate("client.close()")
        await publisher.send_to_client("ann", "3", store=True)
        await hears(await show(browser, opened, "name=ann"), "3")


async def test_page_misses_nothing_of_a_room_while_its_replica_is_killed(
    endpoints: list[Replica], publisher: WebSocketConnectionManager, browser: Browser
) -> None:
    await asyncio.gather(*(replica.ready() for replica in endpoints))
    async with door(*endpoints) as opened:
        page = await show(browser, opened, "name=ann&room=chat")
        for number in range(10):
            await publisher.broadcast([number], room="chat")
        endpoints[0].process.kill()
        for number in range(10, 30):
            await publisher.broadcast([number], room="chat")
        await hears(page, *([number] for number in range(30)))
        await publisher.broadcast(["live"], room="chat")
        await hears(page, *([number] for number in range(30)), ["live"])


async def test_page_stays_live_while_its_replica_drains(
    endpoints: list[Replica], publisher: WebSocketConnectionManager, browser: Browser
) -> None:
    await asyncio.gather(*(replica.ready() for replica in endpoints))
    async with door(*endpoints) as opened:
        page = await show(browser, opened, "name=ann&room=chat")
        opened.replicas.reverse()
        await page.evaluate("statuses.length = 0")
        stopping, sent = asyncio.create_task(asyncio.to_thread(endpoints[0].process.stop)), 0
        while not stopping.done():
            await publisher.broadcast([sent], room="chat")
            sent += 1
            await asyncio.sleep(0.01)
        await hears(page, *([number] for number in range(sent)))
        assert set(await page.evaluate("statuses")) <= {"catching-up", "live"}


async def test_page_that_is_reloaded_goes_on_where_it_was(
    endpoints: list[Replica], publisher: WebSocketConnectionManager, browser: Browser
) -> None:
    await endpoints[0].ready()
    async with door(endpoints[0]) as opened:
        page = await show(browser, opened, "name=ann&room=chat&stored=all")
        sent, is_over = 0, asyncio.Event()

        async def publish() -> None:
            nonlocal sent
            while not is_over.is_set():
                await publisher.broadcast([sent], room="chat")
                sent += 1
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish())
            for _ in range(3):
                await page.reload()
                await page.wait_for_function("window.client?.status === 'live'")
            is_over.set()
        await hears(page, *([number] for number in range(sent)))


async def test_page_without_network_comes_back_and_misses_nothing(
    endpoints: list[Replica], publisher: WebSocketConnectionManager, browser: Browser
) -> None:
    await endpoints[0].ready()
    async with door(endpoints[0]) as opened:
        page = await show(browser, opened, "name=ann&room=chat")
        await page.context.set_offline(True)
        await page.wait_for_function("client.status === 'offline'")
        for number in range(10):
            await publisher.broadcast([number], room="chat")
        await page.context.set_offline(False)
        await hears(page, *([number] for number in range(10)))
        await page.wait_for_function("client.status === 'live'")
        assert (await page.evaluate("statuses"))[-3:] == ["connecting", "catching-up", "live"]
