"""Logging beyond release 1.1: one level per manager, and cheap lines. tests/compat has the rest."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_websocket_stabilizer.runtime import logs
from fastapi_websocket_stabilizer.runtime.logs import (
    ROOT,
    StructuredLogger,
    configure_logging,
    manager_logger,
)


@pytest.fixture
def library_logger() -> Iterator[logging.Logger]:
    """Give this library's logger back as it was."""
    logger = logging.getLogger(ROOT)
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


class Unprintable:
    def __str__(self) -> str:
        raise AssertionError("nobody asked for this")


def test_level_of_one_manager_does_not_mute_another(caplog: pytest.LogCaptureFixture) -> None:
    loud, quiet = manager_logger("INFO"), manager_logger("ERROR")
    loud.info("heard")
    quiet.info("not heard")
    assert caplog.messages == ["heard"]


def test_manager_logger_hands_its_records_to_the_library_logger(caplog: pytest.LogCaptureFixture) -> None:
    manager_logger("INFO").info("hello")
    [record] = caplog.records
    assert record.name == f"{ROOT}.manager"


def test_manager_loggers_leave_nothing_in_the_table_of_loggers() -> None:
    before = set(logging.root.manager.loggerDict)
    manager_logger("INFO").info("hello")
    assert set(logging.root.manager.loggerDict) - before <= {ROOT}


def test_line_below_the_level_is_not_even_put_together() -> None:
    events = StructuredLogger(manager_logger("ERROR"))
    events.log_connection("connected", "alice", metadata=Unprintable())


@pytest.mark.parametrize("key", ["level", "tag", "text", "logger", "name"])
def test_any_key_may_be_logged(caplog: pytest.LogCaptureFixture, key: str) -> None:
    extra: dict[str, Any] = {key: 7}
    StructuredLogger(manager_logger("INFO")).log_connection("connected", "alice", **extra)
    assert f"{key}=7" in caplog.text


def test_configuring_twice_prints_each_line_once(
    library_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    configure_logging("warning")
    library_logger.warning("once")
    assert capsys.readouterr().err.count("once") == 1


def test_file_handler_of_the_application_does_not_replace_stderr(
    library_logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = logging.FileHandler(tmp_path / "log")
    library_logger.addHandler(file)
    configure_logging()
    library_logger.warning("hello")
    file.close()
    assert "hello" in capsys.readouterr().err


PROGRAM = """
import logging
import re
import subprocess
import sys
from fastapi_websocket_stabilizer import configure_logging
from fastapi_websocket_stabilizer.runtime.logs import EVENTS, manager_logger
%s
manager_logger("INFO").warning("hook failed", extra={"hook": "chat", "client_id": "ann"})
manager_logger("INFO", EVENTS).info("[WS_CONNECTION] event=connected")
"""
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
LINE = rf"{TIME} - {ROOT}\.manager - WARNING - hook failed hook=chat client_id=ann"
EVENT = rf"{TIME} - {ROOT}\.connections - INFO - \[WS_CONNECTION\] event=connected"


@pytest.mark.parametrize(
    ("configuration", "printed"),
    [
        ("", LINE),
        ("logging.getLogger('uvicorn').addHandler(logging.StreamHandler())", LINE),
        ("configure_logging()", f"{LINE}\n{EVENT}"),
        (
            "logging.basicConfig(format='OWN %(message)s')",
            r"OWN hook failed\nOWN \[WS_CONNECTION\] event=connected",
        ),
        ("logging.getLogger('fastapi_websocket_stabilizer').propagate = False", ""),
    ],
)
def test_line_is_printed_once_by_the_application_or_else_by_the_library(
    configuration: str, printed: str
) -> None:
    command = [sys.executable, "-c", PROGRAM % configuration]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert re.fullmatch(printed, run.stderr.strip()), run.stderr


def test_traceback_stands_below_what_the_record_carries() -> None:
    record = logging.makeLogRecord({"msg": "hook failed", "hook": "chat", "exc_text": "Traceback"})
    assert logs.Line().format(record).partition("hook failed")[2] == " hook=chat\nTraceback"


def test_value_that_a_stranger_wrote_makes_no_line_of_its_own() -> None:
    record = logging.makeLogRecord(
        {"msg": "envelope dropped", "sender": "x\n2026-11-29 - CRITICAL - \x1b[31m"}
    )
    assert (
        logs.Line().format(record).endswith(r"envelope dropped sender='x\n2026-11-29 - CRITICAL - \x1b[31m'")
    )
