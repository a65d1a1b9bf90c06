"""What users import: this list only grows."""

import fastapi_websocket_stabilizer
from fastapi_websocket_stabilizer import testing

PUBLIC = [
    "WebSocketConnectionManager", "WebSocketConfig", "CompressionMode", "MemoryEvictionPolicy",
    "History", "Mailbox",
    "Publisher", "SyncPublisher", "offered_token",
    "Connection", "Stream", "Identity", "BroadcastResult", "Published", "Sent", "ShutdownReport", "PresenceEntry",
    "PresenceEvent",
    "BusGap", "ResumeOutcome", "RoomMember", "RoomPage", "HistoryEntry", "HistoryPage", "NodeInfo", "Statistics",
    "CloseCause", "ClosedConnection",
    "WebSocketStabilizerError", "ConnectionNotFoundError", "InvalidNameError", "InvalidCursorError",
    "ConnectionLimitExceededError", "ConnectionTimeoutError", "SlowConsumerError",
    "MemoryLimitExceededError", "MessageError", "BroadcastFailedError",
    "RequestTimeoutError", "RequestFailedError", "RequestUnsupportedError",
    "TokenExpiredError", "InvalidTokenError", "ShutdownError", "DrainingError", "NotStartedError",
    "WrongEventLoopError",
    "ConfigurationError", "BackendUnavailableError", "WireError", "ClientInputError",
    "StructuredLogger", "get_logger", "configure_logging",
    "__version__",
]  # fmt: skip

PUBLIC_FOR_TESTS = [
    "MemoryCluster", "MemoryManager", "FakeWebSocket",
    "RedisServer", "shared_redis", "find_server", "NoServerError", "TcpProxy", "ChildProcess", "SlowReader",
    "free_port", "eventually", "eventually_sync",
]  # fmt: skip


def test_public_names_are_exactly_these() -> None:
    assert sorted(fastapi_websocket_stabilizer.__all__) == sorted(PUBLIC)


def test_every_public_name_is_there_and_documented() -> None:
    things = [getattr(fastapi_websocket_stabilizer, name) for name in PUBLIC]
    assert [thing for thing in things if not thing.__doc__] == []


def test_public_names_for_tests_are_exactly_these_and_documented() -> None:
    assert sorted(testing.__all__) == sorted(PUBLIC_FOR_TESTS)
    assert [name for name in PUBLIC_FOR_TESTS if not getattr(testing, name).__doc__] == []


def test_no_public_module_attribute_is_left_out() -> None:
    loose = {
        name
        for name, thing in vars(fastapi_websocket_stabilizer).items()
        if not name.startswith("_")
        and getattr(thing, "__module__", "").startswith("fastapi_websocket_stabilizer")
    }
    assert loose <= set(PUBLIC)


def test_every_error_is_public() -> None:
    from fastapi_websocket_stabilizer import exceptions

    errors = {name for name, thing in vars(exceptions).items() if isinstance(thing, type)}
    assert errors <= set(PUBLIC)
