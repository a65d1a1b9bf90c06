"""Each client against replicas that die at random: Python, JavaScript in Node, and JavaScript in a browser."""

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
import pytest_asyncio

from tests.integration.client_kills import EACH, FAULTS, KINDS, Outcome, find_node, run
from tests.support.devtools import find_browser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

LASTS_S = 20.0
NEEDED: dict[str, Callable[[], object]] = {
    "python": lambda: None,
    "node": find_node,
    "chromium": find_browser,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(redis_url: str) -> list[Outcome]:
    """Run the scenario once, for all clients that there are here."""
    kinds = []
    for kind in KINDS:
        with suppress(pytest.skip.Exception):
            NEEDED[kind]()
            kinds.append(kind)
    seed = random.randrange(10**6)
    found, faults = await run(redis_url, kinds, LASTS_S, seed, FAULTS)
    print(f"seed {seed}, {dict(faults)}", *found, sep="\n")  # shown if a test fails
    assert faults.total() > 2
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_clients_miss_nothing_while_replicas_die(kind: str, outcomes: list[Outcome]) -> None:
    NEEDED[kind]()
    found = [outcome for outcome in outcomes if outcome.kind == kind]
    assert len(found) == EACH
    for outcome in found:
        outcome.check()
    assert sum(outcome.breaks + outcome.moves for outcome in found) > 0
