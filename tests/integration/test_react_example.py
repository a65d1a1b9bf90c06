"""examples/react/ in a real browser: built by npm from the sources of the client, served by FastAPI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.integration.example_support import running_example
from tests.support.requirements import missing

PROJECT = Path(__file__).parents[2]
CLIENT, EXAMPLE = Path("clients/javascript"), Path("examples/react")
NOT_COPIED = shutil.ignore_patterns("node_modules", "dist", "__pycache__", "package-lock.json")
OLDEST_NODE = 20, 19
NPM_S = 300.0
PATIENCE_MS = 20_000.0
pytestmark = [pytest.mark.later, pytest.mark.timeout(2 * NPM_S)]


def node_version() -> tuple[int, ...]:
    printed = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, printed.strip().removeprefix("v").split(".")))


def npm(directory: Path, *arguments: str, without: str = "") -> None:
    """Run npm. With ``without``, a failure means that the machine lacks that."""
    command = ["npm", *arguments, "--no-audit", "--no-fund", "--loglevel=error"]
    environment = {**os.environ, "NODE_ENV": "development"}
    run = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=NPM_S, check=False
    )
    if run.returncode and without:
        missing(f"{without}: {run.stderr[-2000:]}")
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-10_000:]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the client and the page as the example says; return the root of the copy."""
    if shutil.which("npm") is None or node_version() < OLDEST_NODE:
        missing(f"no npm, or a Node before {'.'.join(map(str, OLDEST_NODE))}, which Vite needs")
    root = tmp_path_factory.mktemp("react")
    for folder in (CLIENT, EXAMPLE):
        shutil.copytree(PROJECT / folder, root / folder, ignore=NOT_COPIED)
    (root / EXAMPLE.parent / "__init__.py").touch()
    for folder in (CLIENT, EXAMPLE):
        npm(root / folder, "install", without="npm cannot install packages here")
        npm(root / folder, "run", "build")
    return root


async def visit(browser: Browser, url: str, name: str) -> Page:
    page = await (await browser.new_context()).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: pytest.fail(f"{name}: {error}"))
    await page.goto(f"{url}/?name={name}")
    await expect(page.get_by_label("Status")).to_have_text("live", timeout=PATIENCE_MS)
    return page


async def add(page: Page, text: str) -> None:
    await page.get_by_label("Note", exact=True).fill(text)
    await page.get_by_role("button", name="Add").click()


async def shows(page: Page, label: str, *texts: str) -> None:
    """Wait until a list of the page has these items, in any order."""
    items = page.get_by_label(label, exact=True).locator("li")
    await expect(items).to_have_count(len(texts), timeout=PATIENCE_MS)
    for text in texts:
        await expect(items.filter(has_text=text)).to_have_count(1, timeout=PATIENCE_MS)


async def test_people_share_a_board_and_see_each_other(built: Path, browser: Browser) -> None:
    environment = {"PYTHONPATH": os.pathsep.join([str(built), *sys.path])}
    with running_example("react.app", environment=environment, directory=built) as (_, url):
        ann = await visit(browser, url, "ann")
        await add(ann, "milk")
        bob = await visit(browser, url, "bob")
        await shows(bob, "Notes", "milk")
        await shows(ann, "People", "ann", "bob")
        await add(bob, "bread")
        await shows(ann, "Notes", "milk", "bread")
        await ann.get_by_role("button", name="Remove milk").click()
        await shows(bob, "Notes", "bread")
        await bob.context.close()
        await shows(ann, "People", "ann")
        await ann.reload()
        await shows(ann, "Notes", "bread")
