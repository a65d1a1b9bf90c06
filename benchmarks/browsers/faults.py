"""Five faults, and what a page has received when each is over."""

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise

from playwright.async_api import Browser, BrowserContext, Page
from playwright.async_api import TimeoutError as NotInTimeError

from .replicas import Replicas

MESSAGES_PER_S = 20
AWAY_S = 5.0
GIVE_UP_S = 120.0
"""Time after which a client counts as not coming back."""
SETTLE_S = 3.0
"""Time for what is still on its way, and for copies."""
HTML = b"""<!doctype html><title>client</title><link rel="icon" href="data:,">
<script type="module" src="/page.js"></script>"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one page received.

    Attributes:
        lost: Messages that it never received; None if it did not come back.
        doubled: Messages that it received more than once.
        silence_s: Longest time without a message.
        was_told: Whether the client has reported a loss.
    """

    lost: int | None
    doubled: int
    silence_s: float
    was_told: bool


class Trial:
    """A page of one client, and the messages that are sent while something fails."""

    def __init__(self, replicas: Replicas, context: BrowserContext, page: Page) -> None:
        self.replicas, self.context, self.page = replicas, context, page
        self.sent = 0

    async def publish(self) -> None:
        """Send numbered messages, for ever."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await asyncio.to_thread(self.replicas.publish, self.sent)
            self.sent += 1
            due += 1 / MESSAGES_PER_S
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def seen(self) -> list[tuple[int, int]]:
        """Return what the page has received: the number, and the milliseconds at its arrival."""
        found: list[tuple[int, int]] = await self.page.evaluate("window.seen ?? []")
        return found

    async def receives(self, number: int) -> bool:
        """Wait until the page has a message of this number or a later one; return whether it came in time."""
        has_it = f"window.seen?.some(([found]) => found >= {number})"
        try:
            await self.page.wait_for_function(has_it, polling=200, timeout=GIVE_UP_S * 1000)
        except NotInTimeError:
            return False
        return True


Fault = Callable[[Trial], Awaitable[None]]


async def killed(trial: Trial) -> None:
    """The only server is killed, and accepts again after five seconds."""
    trial.replicas.door.ports = trial.replicas.ports[:1]
    trial.replicas.door.is_open = False
    trial.replicas.kill(0)
    await asyncio.gather(asyncio.sleep(AWAY_S), trial.replicas.ready(0))
    trial.replicas.door.open()


async def half_open(trial: Trial) -> None:
    """A proxy keeps the connection open, and forwards no byte of it."""
    trial.replicas.door.swallow()


async def offline(trial: Trial) -> None:
    """The browser has no network for five seconds, and its connection breaks."""
    await trial.context.set_offline(True)
    trial.replicas.door.close()
    await asyncio.sleep(AWAY_S)
    trial.replicas.door.open()
    await trial.context.set_offline(False)


async def deployed(trial: Trial) -> None:
    """Each of two servers is replaced, by SIGTERM, one after the other."""
    for index in (0, 1):
        trial.replicas.door.ports = [trial.replicas.ports[1 - index]]  # new connections go to the other one
        await trial.replicas.replace(index)


async def reloaded(trial: Trial) -> None:
    """The page is reloaded."""
    await trial.page.reload()


FAULTS: dict[str, Fault] = {
    "killed": killed,
    "half-open": half_open,
    "offline": offline,
    "deploy": deployed,
    "reload": reloaded,
}


async def measure(replicas: Replicas, browser: Browser, script: bytes, fault: Fault) -> Outcome:
    """Open a page, let something fail, and count."""
    context = await browser.new_context()
    page = await context.new_page()
    trial = Trial(replicas, context, page)
    replicas.door.files = {"/page": ("text/html", HTML), "/page.js": ("text/javascript", script)}
    replicas.door.ports = replicas.ports[:2]
    await page.goto(f"http://127.0.0.1:{replicas.door.port}/page")
    sending = asyncio.create_task(trial.publish())
    try:
        if not await trial.receives(2 * MESSAGES_PER_S):
            raise RuntimeError(f"{type(replicas).__name__}: the page received nothing before the fault")
        await fault(trial)
        is_back = await trial.receives(trial.sent + 1)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    await asyncio.sleep(SETTLE_S)
    outcome = count(await trial.seen(), trial.sent, is_back, bool(await page.evaluate("window.told")))
    await context.close()
    return outcome


def count(seen: list[tuple[int, int]], sent: int, is_back: bool, was_told: bool) -> Outcome:
    """Compare what a page has received with what was sent since its first message."""
    numbers = [number for number, _ in seen]
    times = [time for _, time in seen]
    missing = set(range(numbers[0], sent)) - set(numbers)
    silence_s = max(after - before for before, after in pairwise(times)) / 1000
    return Outcome(
        len(missing) if is_back else None,
        len(numbers) - len(set(numbers)),
        silence_s if is_back else GIVE_UP_S,
        was_told,
    )


def median(outcomes: list[Outcome]) -> Outcome:
    """Return the median of each figure. A client that stayed away once counts as staying away."""
    lost = [outcome.lost for outcome in outcomes if outcome.lost is not None]
    return Outcome(
        round(statistics.median(lost)) if len(lost) == len(outcomes) else None,
        max(outcome.doubled for outcome in outcomes),
        statistics.median(outcome.silence_s for outcome in outcomes),
        all(outcome.was_told for outcome in outcomes),
    )
