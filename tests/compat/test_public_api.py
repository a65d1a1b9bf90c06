"""Names, signatures, exceptions and result types of release 1.1."""

import inspect
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import fastapi_websocket_stabilizer
from fastapi_websocket_stabilizer import (
    BroadcastResult,
    CompressionMode,
    MemoryEvictionPolicy,
    ShutdownReport,
    StructuredLogger,
    WebSocketConnectionManager,
    WebSocketStabilizerError,
    configure_logging,
    get_logger,
)

NAMES = [
    "BroadcastFailedError",
    "BroadcastResult",
    "CompressionMode",
    "ConnectionLimitExceededError",
    "ConnectionNotFoundError",
    "ConnectionTimeoutError",
    "InvalidTokenError",
    "MemoryEvictionPolicy",
    "MemoryLimitExceededError",
    "ShutdownError",
    "ShutdownReport",
    "StructuredLogger",
    "TokenExpiredError",
    "WebSocketConfig",
    "WebSocketConnectionManager",
    "WebSocketStabilizerError",
    "configure_logging",
    "get_logger",
]
ERRORS = [name for name in NAMES if name.endswith("Error")]

REQUIRED = inspect.Parameter.empty
METHODS: dict[str, dict[str, Any]] = {
    "__init__": {"config": None},
    "start": {},
    "connect": {"client_id": REQUIRED, "websocket": REQUIRED, "metadata": None},
    "disconnect": {"client_id": REQUIRED},
    "send_to_client": {"client_id": REQUIRED, "message": REQUIRED},
    "broadcast": {"message": REQUIRED, "exclude_client": None},
    "get_active_connections": {},
    "get_connection_count": {},
    "generate_reconnect_token": {"client_id": REQUIRED},
    "validate_reconnect_token": {"token": REQUIRED},
    "handle_pong": {"client_id": REQUIRED},
    "graceful_shutdown": {"timeout": 30.0},
    "get_memory_usage": {},
    "set_user_data": {"client_id": REQUIRED, "key": REQUIRED, "value": REQUIRED},
    "get_user_data": {"client_id": REQUIRED, "key": REQUIRED},
}
SYNCHRONOUS = {
    "__init__",
    "get_active_connections",
    "get_connection_count",
    "generate_reconnect_token",
    "get_memory_usage",
}


@pytest.fixture
def library_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("fastapi_websocket_stabilizer")
    handlers, level = logger.handlers[:], logger.level
    logger.handlers.clear()
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_exported(name: str) -> None:
    assert name in fastapi_websocket_stabilizer.__all__
    assert hasattr(fastapi_websocket_stabilizer, name)


def test_package_tells_its_version() -> None:
    assert isinstance(fastapi_websocket_stabilizer.__version__, str)


@pytest.mark.parametrize("name", METHODS)
def test_method_accepts_the_calls_of_1_1(name: str) -> None:
    _, *parameters = inspect.signature(getattr(WebSocketConnectionManager, name)).parameters.values()
    old, new = parameters[: len(METHODS[name])], parameters[len(METHODS[name]) :]
    assert {parameter.name: parameter.default for parameter in old} == METHODS[name]
    assert all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in old)
    assert all(
        parameter.default is not REQUIRED
        or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for parameter in new
    )


@pytest.mark.parametrize("name", METHODS)
def test_method_is_awaited_exactly_when_it_was_in_1_1(name: str) -> None:
    method = getattr(WebSocketConnectionManager, name)
    assert inspect.iscoroutinefunction(method) is (name not in SYNCHRONOUS)


async def test_calls_by_keyword_work() -> None:
    manager = WebSocketConnectionManager(config=None)
    assert await manager.send_to_client(client_id="nobody", message="hello") is False
    assert (await manager.broadcast(message="hello", exclude_client=None)).total == 0
    assert await manager.get_user_data(client_id="nobody", key="name") is None
    token = manager.generate_reconnect_token(client_id="alice")
    assert await manager.validate_reconnect_token(token=token) == "alice"
    assert (await manager.graceful_shutdown(timeout=1.0)).closed_count == 0


@pytest.mark.parametrize("name", ERRORS)
def test_error_takes_a_plain_message(name: str) -> None:
    error = getattr(fastapi_websocket_stabilizer, name)("what happened")
    assert (str(error), error.args) == ("what happened", ("what happened",))


@pytest.mark.parametrize("name", ERRORS)
def test_error_shares_the_root(name: str) -> None:
    error_type = getattr(fastapi_websocket_stabilizer, name)
    assert issubclass(error_type, WebSocketStabilizerError)
    assert issubclass(WebSocketStabilizerError, Exception)


def test_error_classes_of_1_1_do_not_catch_each_other() -> None:
    classes = {getattr(fastapi_websocket_stabilizer, name) for name in ERRORS} - {WebSocketStabilizerError}
    assert all(not issubclass(one, other) for one in classes for other in classes - {one})


def test_broadcast_result_is_constructed_as_in_1_1() -> None:
    by_position = BroadcastResult(3, 2, 1, [("bob", "gone")])
    by_keyword = BroadcastResult(total=3, succeeded=2, failed=1, errors=[("bob", "gone")])
    assert by_position == by_keyword
    assert by_position.errors == [("bob", "gone")]


def test_broadcast_results_do_not_share_their_errors() -> None:
    first, second = BroadcastResult(0, 0, 0), BroadcastResult(0, 0, 0)
    first.errors.append(("bob", "gone"))
    assert second.errors == []


def test_shutdown_report_is_constructed_as_in_1_1() -> None:
    report = ShutdownReport(2, 1, 0.5)
    assert report == ShutdownReport(closed_count=2, failed_count=1, duration_seconds=0.5)
    assert (report.closed_count, report.failed_count, report.duration_seconds) == (2, 1, 0.5)


def test_compression_modes_are_their_strings() -> None:
    assert {mode.name: mode.value for mode in CompressionMode} == {"DEFLATE": "deflate", "NONE": "none"}
    assert all(isinstance(mode, str) for mode in CompressionMode)


def test_eviction_policies_are_their_strings() -> None:
    policies = {policy.name: policy.value for policy in MemoryEvictionPolicy}
    assert policies == {"LRU": "lru", "FIFO": "fifo", "OLDEST": "oldest"}
    assert all(isinstance(policy, str) for policy in MemoryEvictionPolicy)


def test_logger_is_a_child_of_the_library_logger() -> None:
    logger = get_logger("app")
    assert (logger.name, type(logger)) == ("fastapi_websocket_stabilizer.app", logging.Logger)


def test_configure_logging_prints_from_its_level_on(
    library_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("warning")
    get_logger("app").info("too quiet")
    get_logger("app").warning("loud enough")
    printed = capsys.readouterr().err
    assert ("loud enough" in printed, "too quiet" in printed) == (True, False)
    assert library_logger.level == logging.WARNING


def test_configure_logging_prints_info_unless_told(
    library_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    get_logger("app").info("hello")
    assert "hello" in capsys.readouterr().err
    assert library_logger.level == logging.INFO


@pytest.mark.parametrize(
    ("method", "arguments", "level", "shown"),
    [
        ("log_connection", ("connected", "alice"), "INFO", "event=connected client_id=alice node=7"),
        ("log_broadcast", (3, 2, 1), "INFO", "total=3 succeeded=2 failed=1 node=7"),
        ("log_heartbeat", ("timeout", "alice"), "DEBUG", "event=timeout client_id=alice node=7"),
        ("log_token", ("generated", "alice"), "INFO", "event=generated client_id=alice node=7"),
        (
            "log_error",
            ("send", "alice", "gone"),
            "ERROR",
            "error_type=send client_id=alice error=gone node=7",
        ),
    ],
)
def test_structured_logger_writes_keys_and_values(
    caplog: pytest.LogCaptureFixture, method: str, arguments: tuple[Any, ...], level: str, shown: str
) -> None:
    caplog.set_level(logging.DEBUG, logger="fastapi_websocket_stabilizer")
    getattr(StructuredLogger(get_logger("app")), method)(*arguments, node=7)
    [record] = caplog.records
    assert (record.levelname, record.name) == (level, "fastapi_websocket_stabilizer.app")
    assert shown in record.getMessage()


def test_structured_logger_writes_to_the_logger_it_was_given(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="my.application")
    StructuredLogger(logging.getLogger("my.application")).log_connection("connected", "alice")
    assert [record.name for record in caplog.records] == ["my.application"]
