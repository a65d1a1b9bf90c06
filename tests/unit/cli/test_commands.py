"""The commands for operators, in this process: their exit codes and their words."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastapi_websocket_stabilizer.cli import app
from fastapi_websocket_stabilizer.observe.report import Report, ShownNode, ShownProblem
from fastapi_websocket_stabilizer.observe.rules import as_yaml
from fastapi_websocket_stabilizer.testing import free_port

NODE = ShownNode("a1b2", "web-1", 0, "2.0.0", True, False, 12, 3, 0.5, 0.25, 90.0, 512, 1.6, 0.005)
PROBLEM = ShownProblem(
    "BusLost", "warn", "a1b2", "web-1", "3 envelopes missing", "Messages are lost.", "Look."
)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


@pytest.mark.parametrize(("command", "code"), [("check", 3), ("nodes", 1)])
def test_redis_that_cannot_be_asked_is_told(command: str, code: int) -> None:
    found, output = run(command, "--over", "0.1", "--redis-url", f"redis://127.0.0.1:{free_port()}")
    assert (found, output.startswith("stabilizer: ")) == (code, True)


def test_missing_url_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WS_REDIS_URL", raising=False)
    assert run("check") == (3, "stabilizer: no Redis URL: give --redis-url, or set WS_REDIS_URL\n")


def test_files_are_written(tmp_path: Path) -> None:
    code, output = run("dashboards", "export", str(tmp_path / "new"))
    assert (code, len(output.split())) == (0, 2)
    assert (tmp_path / "new" / "prometheus-rules.yaml").read_text() == as_yaml()


def test_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = run("dashboards", "export", str(tmp_path / "file"))
    assert (code, str(tmp_path / "file") in output) == (1, True)


@pytest.mark.parametrize(
    ("nodes", "problems", "code", "word"),
    [
        ([NODE], [], 0, "OK"),
        ([NODE], [PROBLEM], 1, "WARNING"),
        ([NODE], [ShownProblem("NodeDeaf", "page", None, None, "deaf", "", "")], 2, "CRITICAL"),
        ([], [], 2, "CRITICAL"),
    ],
)
def test_first_line_and_exit_code_are_those_of_monitoring_plugins(
    nodes: list[ShownNode], problems: list[ShownProblem], code: int, word: str
) -> None:
    report = Report("fws", nodes, problems)
    assert report.exit_code == report.as_dict()["exit_code"] == code
    assert report.as_text().startswith(f"{word} - fws: ")


def test_problem_has_its_node_its_meaning_and_the_advice() -> None:
    assert Report("fws", [NODE], [PROBLEM]).as_text().splitlines() == [
        "WARNING - fws: 1 node, 12 connections, 1 problem",
        "warn BusLost on web-1 (a1b2): 3 envelopes missing",
        "  Messages are lost.",
        "  Look.",
    ]


def test_nodes_are_a_table() -> None:
    draining = ShownNode("c3d4", "web-2", 1, "2.0.0", False, True, 0, 0, 0.0, 0.0, 0.0, 0)
    waiting = ShownNode("e5f6", "web-3", 0, "2.0.0", False, False, 0, 0, 0.0, 0.0, 0.0, 0)
    head, *rows = Report("fws", [NODE, draining, waiting], []).nodes_as_text().splitlines()
    assert head.split()[:4] == ["NODE", "NAME", "W", "VERSION"]
    assert [row.split("  ")[-1] for row in rows] == ["ready", "draining", "not ready"]
    assert rows[0].split() == [
        "a1b2", "web-1", "0", "2.0.0", "12", "1.60", "3", "0.5", "0.2", "90.0", "512", "B", "<5ms", "-", "ready"
    ]  # fmt: skip
