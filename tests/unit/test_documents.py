"""The documents name what the code has: settings, counters, close codes, log events, hooks; and their links work."""

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import fastapi_websocket_stabilizer
from fastapi_websocket_stabilizer import Statistics, WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.close_codes import CloseCode, is_allowed
from fastapi_websocket_stabilizer.runtime.metrics import Counters

ROOT = Path(__file__).parents[2]
PACKAGE = Path(fastapi_websocket_stabilizer.__file__).parent
README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs/design.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
COMPATIBILITY = (ROOT / "docs/compatibility.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COUNTERS = {counter.name for counter in fields(Counters)}
SENT = [code for code in CloseCode if is_allowed(code)]
FILES_ON_GITHUB = "https://github.com/fastapi-websocket-stabilizer/fastapi-websocket-stabilizer/blob/main/"


def chapter(text: str, heading: str) -> str:
    """Return a part of a document, up to the next heading of the same rank or a higher one."""
    rank = heading.partition(" ")[0]
    after = text.partition(f"\n{heading}\n")[2]
    assert after, heading
    return re.split(rf"^#{{1,{len(rank)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def cells(text: str, column: int) -> list[str]:
    """Return a column of the tables in ``text``, without their heads."""
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("| ")]
    return [row[column + 1] for row in rows[1:]]


def names(texts: list[str]) -> list[str]:
    return [name for text in texts for name in re.findall(r"`(\w+)`", text)]


def test_settings_of_the_readme_are_those_of_the_code() -> None:
    documented = names(cells(chapter(README, "## Settings"), 0))
    assert sorted(documented) == sorted(setting.name for setting in fields(WebSocketConfig))


def test_every_hook_is_in_the_readme() -> None:
    hooks = [name for name in dir(WebSocketConnectionManager) if name.startswith("on_")]
    assert "on_connect" in hooks
    assert [name for name in hooks if name not in README] == []


def test_every_decision_is_in_the_list_of_the_design() -> None:
    listed = re.findall(r"\(decisions/(.+?\.md)\)", chapter(DESIGN, "## Decisions"))
    assert listed == sorted(file.name for file in ROOT.glob("docs/decisions/*.md"))


DANGERS = (ROOT / "docs/decisions/0026-what-could-break-a-resume.md").read_text()
TESTS_OF_DANGER = re.compile(r"`([\w/]+/test_\w+)`(?:: ([a-z0-9_]+(?:, [a-z0-9_]+)*))?")
BROKEN_RULES = (ROOT / "tests/model/mutations.py").read_text().lower()


def test_tests_that_show_the_answer_to_a_danger_exist() -> None:
    """A test that is renamed or removed must not stay the evidence of an answer."""
    evidence = "\n".join(line.split("|")[-2] for line in DANGERS.splitlines() if line.startswith("| "))
    missing = [rule for rule in re.findall(r"\*(.+?)\*", evidence) if rule.lower() not in BROKEN_RULES]
    found = TESTS_OF_DANGER.findall(evidence)
    for file, names in found:
        place = ROOT / ("" if file.startswith("clients/") else "tests") / f"{file}.py"
        text = place.read_text() if place.exists() else ""
        wanted = [f"def test_{name}(" for name in names.split(", ")] if names else ["def test_"]
        missing += [f"{file}: {test}" for test in wanted if test not in text]
    assert len(found) > 80
    assert missing == []


# Counters


def test_counters_of_the_bounds_exist() -> None:
    bounds = chapter(DESIGN, "## Bounds")
    named = {name for name in names(cells(bounds, 2)) if not name.endswith("Error")}
    assert named
    assert named - COUNTERS == set()


def test_every_counter_is_counted() -> None:
    """One that is not would stay at zero, and look like good news."""
    trees = [ast.parse(file.read_text()) for file in PACKAGE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    stored = {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    looked_up = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert COUNTERS - stored - looked_up == set()


PREFIXES = "history_", "mailbox", "resumes_", "session", "cursors_"
"""The beginnings of the names of counters, and of attributes of ``Statistics``, that are about histories."""


def test_everything_that_is_counted_of_histories_is_in_their_table() -> None:
    attributes = {each.name for each in fields(Statistics)}
    expected = {name for name in COUNTERS | attributes if name.startswith(PREFIXES)}
    assert sorted(names(cells(chapter(OPERATIONS, "### What is counted"), 0))) == sorted(expected)


# Close codes and log events


def test_close_codes_of_the_page_are_those_of_the_code() -> None:
    table = chapter(COMPATIBILITY, "### Close codes")
    documented = dict(zip(names(cells(table, 1)), map(int, cells(table, 0)), strict=True))
    assert documented == {code.name: code for code in SENT}


def test_page_asks_the_client_to_connect_again_after_the_same_codes() -> None:
    table = chapter(COMPATIBILITY, "### Close codes")
    asked = {
        int(code)
        for code, advice in zip(cells(table, 0), cells(table, 2), strict=True)
        if "connect again" in advice
    }
    assert asked == {code for code in SENT if code.reconnects}


def test_tags_of_the_log_are_on_the_page() -> None:
    source = inspect.getsource(fastapi_websocket_stabilizer.StructuredLogger)
    tags = set(re.findall(r'"(WS_[A-Z]+)"', source))
    assert set(re.findall(r"`(WS_[A-Z]+)`", chapter(COMPATIBILITY, "### Log events"))) == tags


# Links, files and tests

FILE = re.compile(
    r"`((?:(?:src|tests|docs|benchmarks|examples|compose|\.ci|\.github)/[\w./-]+|[\w/]+\.(?:py|lua)))(?:::(\w+))?`"
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_files_and_tests_that_are_named_exist(document: Path) -> None:
    """A file is named from the root of the repository, or from that of the package, or by its last part alone."""
    missing = []
    for name, test in FILE.findall(document.read_text()):
        places = [place for root in (ROOT, PACKAGE) if (place := root / name).exists()]
        if not places and "/" not in name:
            places = list(ROOT.glob(f"*/**/{name}"))
        if not places or (test and f"def {test}(" not in places[0].read_text()):
            missing.append(f"{name}::{test}" if test else name)
    assert missing == []


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    inside = [
        link.removeprefix(FILES_ON_GITHUB)
        for link in found
        if document.name != "README.md" or FILES_ON_GITHUB in link
    ]
    return [link for link in inside if "://" not in link]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    broken = []
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []
