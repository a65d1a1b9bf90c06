"""The Lua files: short, documented, used, and blind to what a script may not see."""

import ast
import hashlib
import re
from pathlib import Path

import pytest

import fastapi_websocket_stabilizer
from fastapi_websocket_stabilizer.backends.redis import scripts
from fastapi_websocket_stabilizer.backends.redis.scripts import Script, stripped

PACKAGE = Path(fastapi_websocket_stabilizer.__file__).parent
FILES = sorted((PACKAGE / "backends/redis/lua").glob("*.lua"))
SHARED = sorted((PACKAGE / "backends/redis/lua/shared").glob("*.lua"))
SCRIPTS = {name: value for name, value in vars(scripts).items() if isinstance(value, Script)}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def header(file: Path) -> list[str]:
    lines = file.read_text().splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("--"))]


def code(file: Path) -> str:
    return re.sub("--.*", "", file.read_text())


@each_file
def test_script_has_at_most_40_lines_behind_its_header(file: Path) -> None:
    assert len(file.read_text().splitlines()) - len(header(file)) <= 40


LIMITS = {"log": 235, "mailbox": 40, "session": 305, "presence": 125, "worker": 25, "": 350}
"""Lines of the scripts for logs, for mailboxes, for sessions, for presence, for workers, and of all others."""


@pytest.mark.parametrize(("subject", "limit"), LIMITS.items())
def test_all_scripts_together_have_at_most_1080_lines(subject: str, limit: int) -> None:
    others = tuple(other for other in LIMITS if other != subject) if not subject else ()
    files = [file for file in [*FILES, *SHARED] if file.stem.startswith(subject)]
    files = [file for file in files if not others or not file.stem.startswith(others)]
    assert 0 < sum(len(file.read_text().splitlines()) for file in files) <= limit


@pytest.mark.parametrize("file", SHARED, ids=lambda file: file.stem)
def test_shared_functions_touch_only_the_key_they_are_given(file: Path) -> None:
    assert "KEYS" not in code(file)
    assert "ARGV" not in code(file)
    assert set(re.findall(r"redis\.p?call\('\w+', ([\w.]+)", code(file))) <= {"key"}


@each_file
def test_header_names_the_script_and_says_what_it_does(file: Path) -> None:
    assert re.fullmatch(rf"-- {file.stem}: [a-z].{{9,}}", header(file)[0])


@each_file
def test_header_explains_every_key_and_argument_that_is_used(file: Path) -> None:
    used = set(re.findall(r"(?:KEYS|ARGV)\[\w+\]", code(file)))
    if re.search(r"pairs\(KEYS\)", code(file)):
        used.add("KEYS[i]")
    if re.search(r"#ARGV", code(file)):
        used.add("ARGV[i]")
    explained = {
        match[1] for line in header(file) if (match := re.match(r"-- ((?:KEYS|ARGV)\[\w+\])  \S", line))
    }
    assert explained == used


@each_file
def test_header_says_what_comes_back(file: Path) -> None:
    returns = [line for line in header(file) if line.startswith("-- Returns  ")]
    assert (len(returns), "return " in code(file)) == (1, True)


@each_file
def test_script_is_named_noun_verb(file: Path) -> None:
    assert re.fullmatch(r"(clients?|node|room|log|mailbox|session|presence|worker)_[a-z_]+|agree", file.stem)


@each_file
def test_script_asks_redis_for_nothing_unbounded_or_undeclared(file: Path) -> None:
    commands = set(re.findall(r"redis\.p?call\('(\w+)'", code(file)))
    assert commands
    assert commands.isdisjoint({"KEYS", "SCAN", "EVAL", "FLUSHALL", "FLUSHDB"})
    first_arguments = re.findall(r"redis\.p?call\('\w+', ([\w.]+)", code(file))
    assert set(first_arguments) <= {"KEYS", "key", "ARGV"}  # ARGV only for a channel, below


@each_file
def test_only_a_channel_comes_as_an_argument(file: Path) -> None:
    calls = re.findall(r"redis\.p?call\('(\w+)', ARGV", code(file))
    assert set(calls) <= {"PUBLISH", "SPUBLISH"}


@each_file
def test_command_that_comes_as_an_argument_publishes(file: Path) -> None:
    calls = re.findall(r"redis\.p?call\(([A-Z]\w*\[[^]]+\])", code(file))
    assert set(calls) <= {"ARGV[1]"}
    if calls:
        assert "-- ARGV[1]  PUBLISH, or SPUBLISH for sharded channels" in header(file)


@each_file
def test_arguments_are_numbers_before_they_are_compared(file: Path) -> None:
    assert not re.search(r"ARGV\[\d\] *(?:<|>|[=~]= *-?\d)|\d *[=~<>]=? *ARGV", code(file))


def test_every_file_is_loaded_under_its_name() -> None:
    assert {script.name for script in SCRIPTS.values()} == {file.stem for file in FILES}
    for file in FILES:
        before, is_there, after = SCRIPTS[file.stem.upper()].source.rpartition(stripped(file.read_text()))
        shared = [text for text in (stripped(part.read_text()) for part in SHARED) if text in before]
        assert (before, bool(is_there), after) == ("".join(shared), True, "")
    assert all(name == script.name.upper() for name, script in SCRIPTS.items())


@pytest.mark.parametrize("name", SCRIPTS)
def test_source_that_is_sent_has_neither_comments_nor_indentation(name: str) -> None:
    lines = SCRIPTS[name].source.splitlines()
    assert not [line for line in lines if not line or line.startswith("--") or line != line.strip()]
    assert not [line for line in lines if " -- " in line and not re.search("-- .*['\"]", line)]


@pytest.mark.parametrize("file", [*FILES, *SHARED], ids=lambda file: file.stem)
def test_code_is_sent_unchanged(file: Path) -> None:
    lines = [re.sub(" +-- .*", "", line).strip() for line in file.read_text().splitlines()]
    sent = [re.sub(" +-- .*", "", line) for line in stripped(file.read_text()).splitlines()]
    assert sent == [line for line in lines if line and not line.startswith("--")]


def test_dashes_in_strings_and_comments_with_quotation_marks_stay() -> None:
    source = """-- A header.
local a = '[%w_-]+' -- a comment
  local b = ' -- no comment'
local c = 1 -- "" for none
"""
    assert stripped(source) == (
        "local a = '[%w_-]+'\nlocal b = ' -- no comment'\nlocal c = 1 -- \"\" for none\n"
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_digest_is_what_redis_will_call_it(name: str) -> None:
    script = SCRIPTS[name]
    assert script.sha == hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()


def test_every_script_is_used() -> None:
    used = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for file in PACKAGE.rglob("*.py")
        if file.name != "scripts.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert set(SCRIPTS) - used == set()
