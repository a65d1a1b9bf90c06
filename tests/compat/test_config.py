"""WebSocketConfig as release 1.1 documents it: fields, defaults, order, validation."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    CompressionMode,
    MemoryEvictionPolicy,
    WebSocketConfig,
    WebSocketConnectionManager,
)

DEFAULTS: dict[str, Any] = {  # in the order of release 1.1
    "heartbeat_interval": 30.0,
    "heartbeat_timeout": 60.0,
    "heartbeat_type": "ping",
    "max_connections": None,
    "max_message_size": 1048576,
    "reconnect_token_ttl": timedelta(hours=1),
    "enable_reconnect": True,
    "compression": CompressionMode.DEFLATE,
    "log_level": "INFO",
    "enable_metrics": False,
    "num_shards": 16,
    "max_concurrent_cleanup": 100,
    "max_concurrent_broadcast": 1000,
    "memory_check_interval": 60.0,
    "memory_eviction_policy": MemoryEvictionPolicy.LRU,
    "max_memory_per_connection": None,
    "max_total_memory": None,
}

OTHERS: dict[str, Any] = {  # none is the default
    "heartbeat_interval": 5.0,
    "heartbeat_timeout": 10.0,
    "heartbeat_type": "ping",
    "max_connections": 10_000,
    "max_message_size": 1,
    "reconnect_token_ttl": timedelta(milliseconds=5),
    "enable_reconnect": False,
    "compression": CompressionMode.NONE,
    "log_level": "CRITICAL",
    "enable_metrics": True,
    "num_shards": 1,
    "max_concurrent_cleanup": 1,
    "max_concurrent_broadcast": 2,
    "memory_check_interval": 0.5,
    "memory_eviction_policy": MemoryEvictionPolicy.OLDEST,
    "max_memory_per_connection": 1024 * 1024,
    "max_total_memory": 1024**3,
}

INVALID: list[tuple[str, Any]] = [
    ("heartbeat_interval", 0),
    ("heartbeat_interval", -1.0),
    ("heartbeat_timeout", 0),
    ("heartbeat_timeout", -0.5),
    ("max_connections", 0),
    ("max_connections", -3),
    ("max_message_size", 0),
    ("reconnect_token_ttl", timedelta(0)),
    ("reconnect_token_ttl", timedelta(seconds=-1)),
    ("log_level", "LOUD"),
    ("num_shards", 0),
    ("max_concurrent_cleanup", 0),
    ("max_concurrent_broadcast", -1),
    ("memory_check_interval", 0),
    ("memory_eviction_policy", "random"),
    ("memory_eviction_policy", 3),
    ("max_memory_per_connection", 0),
    ("max_total_memory", -1),
]

INVALID_SINCE_2_0: list[tuple[str, Any]] = [
    ("heartbeat_interval", "often"),
    ("heartbeat_interval", None),
    ("heartbeat_type", "pong"),
    ("max_connections", "many"),
    ("max_connections", 1.5),
    ("max_message_size", None),
    ("reconnect_token_ttl", "soon"),
    ("enable_reconnect", "perhaps"),
    ("compression", "gzip"),
    ("log_level", None),
    ("enable_metrics", 7),
    ("num_shards", 0.5),
    ("memory_check_interval", float("nan")),
]

DOCUMENTED_EXAMPLES: list[dict[str, Any]] = [
    {"heartbeat_interval": 30.0, "heartbeat_timeout": 60.0, "max_connections": 100},
    {"heartbeat_interval": 5.0, "heartbeat_timeout": 10.0, "max_connections": 10000},
    {"heartbeat_interval": 45.0, "heartbeat_timeout": 90.0, "compression": "none"},
    {"heartbeat_interval": 20.0, "max_connections": 500},
    {
        "heartbeat_interval": 30.0,
        "max_connections": 50000,
        "num_shards": 32,
        "max_concurrent_cleanup": 50,
        "max_concurrent_broadcast": 500,
        "max_memory_per_connection": 1024 * 1024,
        "max_total_memory": 1024 * 1024 * 1024,
        "memory_eviction_policy": MemoryEvictionPolicy.LRU,
    },
]


def names(config: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def values(config: WebSocketConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in DEFAULTS}


def test_first_fields_are_those_of_1_1_in_order() -> None:
    assert names(WebSocketConfig)[: len(DEFAULTS)] == list(DEFAULTS)


def test_defaults_are_those_of_1_1() -> None:
    assert values(WebSocketConfig()) == DEFAULTS


def test_keywords_set_their_fields() -> None:
    assert values(WebSocketConfig(**OTHERS)) == OTHERS


def test_positions_set_the_fields_of_1_1() -> None:
    assert values(WebSocketConfig(*OTHERS.values())) == OTHERS


def test_unknown_keyword_is_a_type_error_or_value_error() -> None:
    with pytest.raises((TypeError, ValueError)):
        WebSocketConfig(heartbeat=1.0)  # type: ignore[call-arg]


def test_defaults_are_not_shared() -> None:
    first, second = WebSocketConfig(), WebSocketConfig()
    first.reconnect_token_ttl = timedelta(days=1)
    assert (second.reconnect_token_ttl, first == second) == (timedelta(hours=1), False)


def test_configs_with_equal_values_are_equal() -> None:
    assert WebSocketConfig(**OTHERS) == WebSocketConfig(**OTHERS)


def test_config_is_a_dataclass() -> None:
    assert dataclasses.is_dataclass(WebSocketConfig)
    assert set(DEFAULTS) <= set(names(WebSocketConfig()))


def test_asdict_has_every_field() -> None:
    as_dict = dataclasses.asdict(WebSocketConfig(**OTHERS))
    assert {name: as_dict[name] for name in OTHERS} == OTHERS


def test_replace_changes_one_field_of_a_copy() -> None:
    config = WebSocketConfig(**OTHERS)
    copy = dataclasses.replace(config, num_shards=7)
    assert (values(copy), config.num_shards) == (OTHERS | {"num_shards": 7}, 1)


def test_replace_validates() -> None:
    with pytest.raises(ValueError, match=r"^num_shards must be"):
        dataclasses.replace(WebSocketConfig(), num_shards=0)


@pytest.mark.parametrize(("name", "value"), INVALID + INVALID_SINCE_2_0)
def test_invalid_value_is_refused_at_construction(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        WebSocketConfig(**{name: value})
    assert str(caught.value).startswith(f"{name} must be")


@pytest.mark.parametrize(("name", "value"), INVALID + INVALID_SINCE_2_0)
def test_invalid_value_is_refused_at_assignment_and_changes_nothing(name: str, value: Any) -> None:
    config = WebSocketConfig()
    with pytest.raises(ValueError) as caught:
        setattr(config, name, value)
    assert str(caught.value).startswith(f"{name} must be")
    assert values(config) == DEFAULTS


@pytest.mark.parametrize("name", OTHERS)
def test_valid_value_may_be_assigned(name: str) -> None:
    config = WebSocketConfig()
    setattr(config, name, OTHERS[name])
    assert values(config) == DEFAULTS | {name: OTHERS[name]}


@pytest.mark.parametrize("name", ["max_connections", "max_memory_per_connection", "max_total_memory"])
def test_limit_may_be_taken_away_again(name: str) -> None:
    limit: dict[str, Any] = {name: 10}
    config = WebSocketConfig(**limit)
    setattr(config, name, None)
    assert values(config) == DEFAULTS


@pytest.mark.parametrize("text", ["lru", "fifo", "oldest", "LRU", "Fifo", "OLDEST"])
def test_eviction_policy_may_be_a_string_in_any_case(text: str) -> None:
    config = WebSocketConfig(memory_eviction_policy=text)  # type: ignore[arg-type]
    assert config.memory_eviction_policy is MemoryEvictionPolicy(text.lower())


@pytest.mark.parametrize("text", ["oldest", "OLDEST"])
def test_eviction_policy_may_be_assigned_as_a_string(text: str) -> None:
    config = WebSocketConfig()
    config.memory_eviction_policy = text  # type: ignore[assignment]
    assert config.memory_eviction_policy is MemoryEvictionPolicy.OLDEST


@pytest.mark.parametrize("text", ["deflate", "none"])
def test_compression_may_be_a_string(text: str) -> None:
    config = WebSocketConfig(compression=text)  # type: ignore[arg-type]
    assert config.compression == CompressionMode(text)


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_log_level_is_one_of_the_documented_five(level: str) -> None:
    assert WebSocketConfig(log_level=level).log_level == level  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ping", "custom"])
def test_heartbeat_type_is_one_of_the_documented_two(kind: str) -> None:
    """Release 1.1 had no field for the custom message, so "custom" alone is what its users wrote."""
    assert WebSocketConfig(heartbeat_type=kind).heartbeat_type == kind  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", DOCUMENTED_EXAMPLES)
def test_documented_example_constructs(settings: dict[str, Any]) -> None:
    config = WebSocketConfig(**settings)
    assert values(config) == DEFAULTS | settings


def test_whole_numbers_are_taken_for_seconds() -> None:
    config = WebSocketConfig(heartbeat_interval=5, heartbeat_timeout=10, memory_check_interval=1)
    assert (config.heartbeat_interval, config.heartbeat_timeout, config.memory_check_interval) == (5, 10, 1)


def test_repr_names_what_was_set() -> None:
    assert "max_connections=7" in repr(WebSocketConfig(max_connections=7))


async def test_manager_holds_the_config_it_was_given() -> None:
    config = WebSocketConfig(max_connections=7)
    assert WebSocketConnectionManager(config).config is config


async def test_manager_without_a_config_has_the_defaults() -> None:
    assert WebSocketConnectionManager().config == WebSocketConfig()
