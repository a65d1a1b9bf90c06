"""The machine is pure, files and functions are short, and the shell is the only part that knows sockets."""

import ast
from pathlib import Path

import pytest
from tests.unit.test_architecture import functions, lines_of_code

import fastapi_websocket_stabilizer_client

PACKAGE = Path(fastapi_websocket_stabilizer_client.__file__).parent
FILES = sorted(PACKAGE.glob("*.py"))
SHELL = {"__init__.py", "client.py", "dispatch.py", "rooms.py", "runner.py", "sockets.py"}
IMPURE = {"asyncio", "time", "datetime", "random", "logging", "socket", "ssl", "websockets"}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def imports(file: Path) -> set[str]:
    """Return the modules that a file imports, those of the package with a dot."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.name not in SHELL], ids=lambda file: file.name
)
def test_machine_is_pure(file: Path) -> None:
    assert imports(file) & IMPURE == set()
    assert imports(file).isdisjoint({f".{name.removesuffix('.py')}" for name in SHELL})


@each_file
def test_file_and_functions_are_short(file: Path) -> None:
    assert lines_of_code(file.read_text()) <= 320
    assert [function for function in functions(file) if function.lines > 40] == []


@each_file
def test_module_says_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))
