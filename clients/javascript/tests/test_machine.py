"""The JavaScript machine keeps the promise in the schedules of the Python one, and its own tests pass."""

import random
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from clients.javascript.tests.bridge import JavaScriptMachine, Node
from clients.python.tests.world import Picks, World

HERE = Path(__file__).parent
STEPS = 120
PICKS_PER_STEP = 6
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(HERE) as node:
        yield node


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_promise_is_kept_in_long_schedules(node: Node, first: int) -> None:
    for seed in range(first, first + 100):
        numbers = random.Random(seed)
        picks = Picks([numbers.randrange(5040) for _ in range(STEPS * PICKS_PER_STEP)])
        World(picks, partial(JavaScriptMachine, node)).run(STEPS)  # type: ignore[arg-type]  # the same interface


def test_tests_of_node_pass() -> None:
    run = subprocess.run(
        ["node", "--test", *map(str, sorted(HERE.glob("*.test.js")))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:]
