"""Sizes of files and functions, and pure modules. ruff checks complexity, import-linter the direction of imports."""

import ast
import io
import statistics
import tokenize
from dataclasses import dataclass
from pathlib import Path

import pytest

import fastapi_websocket_stabilizer

PACKAGE = Path(fastapi_websocket_stabilizer.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Their parameters are the public API's, wider than five by design (release 1.1's, and frameworks' signatures).
PUBLIC_FILES = {"manager.py", "config.py"}

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))


@dataclass(frozen=True)
class Function:
    name: str
    lines: int
    statements: int
    positional: int


def functions(file: Path) -> list[Function]:
    tree = ast.parse(file.read_text())
    return [
        measured(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def measured(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    """Count what a reader reads: the body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
    statements = sum(isinstance(inner, ast.stmt) for outer in body for inner in ast.walk(outer))
    arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
    return Function(node.name, lines, statements, len(arguments))


def test_package_is_there_to_be_measured() -> None:
    assert len(FILES) > 30


@each_file
def test_file_has_at_most_320_lines_of_code(file: Path) -> None:
    assert lines_of_code(file.read_text()) <= 320


def lines_of_code(source: str) -> int:
    """Count the lines that are neither empty nor only a comment or part of a docstring."""
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - docstring_lines(ast.parse(source)))


def docstring_lines(tree: ast.Module) -> set[int]:
    strings = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    return {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def test_lines_of_code_are_counted_without_prose() -> None:
    assert (
        lines_of_code(
            '"""Say."""\n\nx = 1  # why\n# more\ndef f():\n    """Two\n    lines."""\n    return (\n1)\n'
        )
        == 4
    )


@each_file
def test_body_of_a_function_has_at_most_40_lines(file: Path) -> None:
    assert [f for f in functions(file) if f.lines > 40] == []


def test_functions_are_usually_short() -> None:
    lines = sorted(function.lines for file in FILES for function in functions(file))
    assert statistics.median(lines) <= 6
    assert lines[len(lines) * 9 // 10] <= 18


def test_functions_of_the_facade_are_thin() -> None:
    found = functions(PACKAGE / "manager.py")
    assert [f for f in found if f.lines > 18 or f.statements > 16] == []
    assert statistics.median(f.statements for f in found) <= 3


@each_file
def test_module_says_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))


@each_file
def test_ignored_finding_has_a_reason(file: Path) -> None:
    ignores = [line for line in file.read_text().splitlines() if "# noqa" in line or "# type: ignore" in line]
    assert [line for line in ignores if not _has_reason(line)] == []


def _has_reason(line: str) -> bool:
    _, _, comment = line.partition("# noqa") if "# noqa" in line else line.partition("# type: ignore")
    return ("- " in comment or "  # " in comment) and len(comment) > 20


PURE = (
    "local/outbox", "local/heartbeat", "local/requests", "registry/eviction", "registry/pace", "registry/continuity",
    "registry/feed", "registry/redis_time", "registry/ring", "registry/opening", "registry/roster",
    "registry/schemas",
    "streams/coalescer",
    "wire/frames", "wire/messages", "wire/envelopes", "wire/unpacking", "wire/signatures", "wire/sequences",
    "wire/channels", "wire/outgoing",
    "wire/foreign_json", "wire/own_json", "wire/cursors", "wire/client_protocol", "wire/client_input",
    "wire/client_frames",
)  # fmt: skip


@pytest.mark.parametrize("module", PURE)
def test_pure_machines_neither_wait_nor_log(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert names.isdisjoint({"asyncio", "logging", "time", "datetime"})
