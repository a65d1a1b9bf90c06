"""What WebSocketConfig adds to release 1.1: its own fields, the environment, secrets kept out of sight."""

import dataclasses
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer import (
    CompressionMode,
    ConfigurationError,
    History,
    Mailbox,
    MemoryEvictionPolicy,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.config import mask_password

NEW: dict[str, tuple[Any, Any]] = {  # default, and another value
    "heartbeat_message": (None, {"type": "beat"}),
    "redis_url": (None, "rediss://redis:6379/1"),
    "namespace": ("fws", "chat:eu"),
    "node_name": (None, "pod-7"),
    "token_secret": (None, "0123456789abcdef"),
    "envelope_keys": ((), ("n" * 32, "ö" * 16)),
    "max_connections_per_client": (1, 3),
    "on_client_overflow": ("replace", "reject"),
    "displaced_code": (1000, 4500),
    "max_metadata_size": (16384, 1),
    "max_rooms_per_connection": (1000, 1),
    "outbox_size": (1048576, 1),
    "outbox_policy": ("close", "drop_oldest"),
    "write_timeout_s": (2.0, 0.1),
    "close_timeout_s": (2.0, 0.1),
    "inbound_frames_per_turn": (8, 1),
    "lease_ttl_s": (10.0, 60.0),
    "renew_interval_s": (3.0, 0.5),
    "redis_timeout_s": (3.0, 0.5),
    "on_backend_loss": ("degrade", "refuse"),
    "drain_over_s": (20.0, 5.0),
    "drain_on_sigterm": (True, False),
    "drain_secret": (None, "0123456789abcdef"),
    "keep_handshake": (False, True),
    "client_protocol": (True, False),
    "client_presence": ((), ("chat:", "lobby")),
    "uvicorn_protocol": (True, False),
    "history": ({}, {"chat:": History(messages=7)}),
    "history_for_all": (None, History(seconds=7)),
    "mailbox": (None, Mailbox(seconds=7)),
    "session_ttl_s": (120.0, 5.0),
    "scrape_group": (None, "web"),
    "enable_otel_metrics": (False, True),
    "metrics_secret": (None, "sixteen characters"),
    "admin_secret": (None, "sixteen characters"),
    "closed_log_size": (1000, 5),
}

INVALID: list[tuple[str, Any]] = [
    ("heartbeat_message", 7),
    ("redis_url", "localhost:6379"),
    ("redis_url", "http://localhost"),
    ("redis_url", 6379),
    ("redis_url", ""),
    ("namespace", ""),
    ("namespace", "a{b"),
    ("namespace", "a}"),
    ("namespace", "a\nb"),
    ("namespace", "x" * 65),
    ("namespace", None),
    ("node_name", ""),
    ("token_secret", "short"),
    ("envelope_keys", ["x" * 31]),
    ("envelope_keys", ["x" * 32, ""]),
    ("envelope_keys", [b"x" * 32]),
    ("envelope_keys", "short"),
    ("envelope_keys", None),
    ("max_connections_per_client", 0),
    ("max_connections_per_client", None),
    ("on_client_overflow", "refuse"),
    ("displaced_code", 1005),
    ("displaced_code", 999),
    ("displaced_code", 5000),
    ("displaced_code", "gone"),
    ("max_metadata_size", -1),
    ("max_rooms_per_connection", 0),
    ("outbox_size", 0),
    ("outbox_policy", "drop"),
    ("write_timeout_s", 0),
    ("close_timeout_s", -1),
    ("inbound_frames_per_turn", 0),
    ("redis_timeout_s", "soon"),
    ("on_backend_loss", "ignore"),
    ("drain_over_s", 0),
    ("drain_over_s", float("inf")),
    ("drain_secret", "short"),
    ("keep_handshake", "perhaps"),
    ("uvicorn_protocol", "perhaps"),
    ("client_protocol", "perhaps"),
    ("client_presence", 5),
    ("lease_ttl_s", 0),
    ("renew_interval_s", float("nan")),
    ("history", None),
    ("history", 7),
    ("history_for_all", "{}}"),
    ("mailbox", True),
    ("mailbox", "{}}"),
    ("session_ttl_s", 0),
    ("closed_log_size", 0),
    ("metrics_secret", "short"),
    ("admin_secret", "short"),
    ("scrape_group", ""),
    ("enable_otel_metrics", "perhaps"),
]


@pytest.mark.parametrize("name", NEW)
def test_new_setting_has_its_default_and_takes_another_value(name: str) -> None:
    default, other = NEW[name]
    assert getattr(WebSocketConfig(), name) == default
    assert getattr(WebSocketConfig(**{name: other}), name) == other


def test_new_settings_are_those_listed_here() -> None:
    names = [setting.name for setting in dataclasses.fields(WebSocketConfig)]
    assert names[names.index("heartbeat_message") :] == list(NEW)


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_invalid_value_is_refused_by_the_name_of_the_setting(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be"):
        WebSocketConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_invalid_assignment_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    config = WebSocketConfig()
    with pytest.raises(ConfigurationError, match=f"^{name} must be"):
        setattr(config, name, value)
    assert config == WebSocketConfig()


def test_two_invalid_values_are_both_named() -> None:
    with pytest.raises(ConfigurationError, match=r"num_shards must be .*; outbox_size must be ") as caught:
        WebSocketConfig(num_shards=0, outbox_size=0)
    assert caught.value.settings == ("num_shards", "outbox_size")


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("heartbeat_intervall", ": did you mean heartbeat_interval?"),
        ("redisurl", ": did you mean redis_url?"),
        ("lease_ttls", ": did you mean lease_ttl_s?"),
        ("colour", ""),
    ],
)
def test_unknown_setting_is_refused_by_name_with_the_one_it_is_like(name: str, question: str) -> None:
    unknown: dict[str, Any] = {name: 5}
    with pytest.raises(ConfigurationError) as constructed:
        WebSocketConfig(**unknown)
    with pytest.raises(ConfigurationError) as assigned:
        setattr(WebSocketConfig(), name, 5)
    assert {str(constructed.value), str(assigned.value)} == {f"{name} is not a setting{question}"}


@pytest.mark.parametrize("level", ["debug", "Info", "CRITICAL"])
def test_log_level_is_taken_in_any_case(level: str) -> None:
    given: Any = level
    assert WebSocketConfig(log_level=given).log_level == level.upper()


def test_refused_assignment_of_an_unknown_setting_leaves_nothing_behind() -> None:
    config = WebSocketConfig()
    with pytest.raises(ConfigurationError, match="heartbeat_intervall"):
        config.heartbeat_intervall = 5  # type: ignore[attr-defined]
    assert not hasattr(config, "heartbeat_intervall")


def test_error_does_not_drag_the_validation_library_along() -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebSocketConfig(num_shards=0)
    assert caught.value.__suppress_context__
    assert "pydantic" not in str(caught.value)


# Settings that contradict each other


@pytest.mark.parametrize(("lease", "renew"), [(1.0, 1.0), (8.9, 3.0), (29.0, 10.0)])
def test_lease_shorter_than_three_renewals_is_refused(lease: float, renew: float) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^lease_ttl_s must be at least 3 x renew_interval_s"
    ) as caught:
        WebSocketConfig(lease_ttl_s=lease, renew_interval_s=renew)
    assert caught.value.settings == ("lease_ttl_s", "renew_interval_s")


def test_lease_of_exactly_three_renewals_is_taken() -> None:
    config = WebSocketConfig(lease_ttl_s=9.0, renew_interval_s=3.0)
    assert config.lease_ttl_s == 3 * config.renew_interval_s


@pytest.mark.parametrize(("name", "value"), [("lease_ttl_s", 1.0), ("renew_interval_s", 5.0)])
def test_assignment_that_contradicts_another_setting_is_taken_back(name: str, value: float) -> None:
    config = WebSocketConfig()
    with pytest.raises(ConfigurationError, match=r"^lease_ttl_s must be at least"):
        setattr(config, name, value)
    assert config == WebSocketConfig()


def test_endless_lease_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^lease_ttl_s must be"):
        WebSocketConfig(lease_ttl_s=float("inf"))


async def test_token_lifetime_that_ends_after_the_last_date_is_as_long_as_can_be() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(reconnect_token_ttl=timedelta.max))
    token = manager.generate_reconnect_token("alice")
    assert await manager.validate_reconnect_token(token) == "alice"


@pytest.mark.parametrize(
    ("settings", "doubted"),
    [
        ({}, []),
        ({"heartbeat_type": "custom"}, ["heartbeat_type"]),
        ({"heartbeat_type": "custom", "heartbeat_message": "there?"}, []),
        ({"redis_timeout_s": 20}, []),
        ({"redis_timeout_s": 20, "redis_url": "redis://r"}, ["redis_timeout_s"]),
        ({"redis_timeout_s": 7, "redis_url": "redis://r"}, []),
        ({"max_message_size": 65_535, "mailbox": Mailbox()}, ["max_message_size"]),
        ({"max_message_size": 65_536, "mailbox": Mailbox()}, []),
        ({"max_message_size": 65_535}, []),
        ({"max_message_size": 65_535, "mailbox": Mailbox(), "client_protocol": False}, []),
    ],
)
def test_settings_that_work_and_were_hardly_meant_are_doubted(
    settings: dict[str, Any], doubted: list[str]
) -> None:
    assert [doubt.split()[0] for doubt in WebSocketConfig(**settings).doubts()] == doubted


# The environment


def test_environment_sets_any_setting() -> None:
    environ = {
        "WS_HEARTBEAT_INTERVAL": "12.5",
        "WS_MAX_CONNECTIONS": "100",
        "WS_ENABLE_METRICS": "true",
        "WS_COMPRESSION": "NONE",
        "WS_MEMORY_EVICTION_POLICY": "fifo",
        "WS_LOG_LEVEL": "debug",
        "WS_RECONNECT_TOKEN_TTL": "90",
        "WS_REDIS_URL": "redis://r",
        "WS_OUTBOX_POLICY": "drop_newest",
        "WS_HEARTBEAT_MESSAGE": "are you there",
    }
    assert WebSocketConfig.from_env(environ) == WebSocketConfig(
        heartbeat_interval=12.5,
        max_connections=100,
        enable_metrics=True,
        compression=CompressionMode.NONE,
        memory_eviction_policy=MemoryEvictionPolicy.FIFO,
        log_level="DEBUG",
        reconnect_token_ttl=timedelta(seconds=90),
        redis_url="redis://r",
        outbox_policy="drop_newest",
        heartbeat_message="are you there",
    )


def test_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WS_NUM_SHARDS", "5")
    assert WebSocketConfig.from_env().num_shards == 5


@pytest.mark.parametrize("name", ["ws_num_shards", "Ws_Num_Shards", "WS_NUM_SHARDS"])
def test_case_of_a_variable_does_not_matter(name: str) -> None:
    assert WebSocketConfig.from_env({name: "5"}).num_shards == 5


def test_prefix_may_be_another() -> None:
    environ = {"CHAT_NUM_SHARDS": "5", "WS_NUM_SHARDS": "6"}
    assert WebSocketConfig.from_env(environ, prefix="chat_").num_shards == 5


@pytest.mark.parametrize("environ", [{}, {"WS_NUM_SHARDS": ""}, {"WS_NO_SUCH": "1"}, {"NUM_SHARDS": "5"}])
def test_empty_and_unknown_variables_are_ignored(environ: dict[str, str]) -> None:
    assert WebSocketConfig.from_env(environ) == WebSocketConfig()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("num_shards", "many"),
        ("num_shards", "0"),
        ("enable_metrics", "perhaps"),
        ("heartbeat_interval", "1 minute"),
        ("reconnect_token_ttl", "an hour"),
        ("reconnect_token_ttl", "-1"),
        ("reconnect_token_ttl", "nan"),
        ("reconnect_token_ttl", "inf"),
        ("reconnect_token_ttl", "1e300"),
        ("log_level", "loud"),
        ("redis_url", "redis:6379"),
    ],
)
def test_invalid_variable_is_refused_by_its_name_and_that_of_the_setting(name: str, text: str) -> None:
    variable = f"WS_{name.upper()}"
    with pytest.raises(ConfigurationError, match=rf"^{name} must be .* \(set by {variable}\)$"):
        WebSocketConfig.from_env({variable: text, "WS_MAX_ROOMS_PER_CONNECTION": "7"})


def test_variables_that_contradict_each_other_are_both_named() -> None:
    environ = {"ws_lease_ttl_s": "2", "WS_RENEW_INTERVAL_S": "1", "WS_NUM_SHARDS": "4"}
    with pytest.raises(ConfigurationError, match=r"\(set by ws_lease_ttl_s, WS_RENEW_INTERVAL_S\)$"):
        WebSocketConfig.from_env(environ)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"WS_REDISURL": "redis://r"},
            ["WS_REDISURL names no setting and is ignored: did you mean WS_REDIS_URL?"],
        ),
        (
            {"WS_REDIS_URI": "redis://r"},
            ["WS_REDIS_URI names no setting and is ignored: did you mean WS_REDIS_URL?"],
        ),
        ({"WS_COLOUR": "red"}, ["WS_COLOUR names no setting and is ignored"]),
        ({"REDIS_URL": "redis://r"}, ["REDIS_URL is set and is not read: did you mean WS_REDIS_URL?"]),
        ({"REDIS_URL": "redis://r", "WS_REDIS_URL": "redis://r"}, []),
        (
            {
                "WS_SERVICE_HOST": "10.0.0.1",
                "WS_PORT": "tcp://10.0.0.1:80",
                "WS_PORT_80_TCP_ADDR": "10.0.0.1",
            },
            [],
        ),
        ({"WS_REDIS_SERVICE_PORT_REDIS": "6379", "PATH": "/bin", "ws_num_shards": "4"}, []),
    ],
)
def test_variable_that_was_meant_for_a_setting_is_named_in_the_log(
    environ: dict[str, str], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    WebSocketConfig.from_env(environ)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", f"the variable {sentence}") for sentence in said
    ]


def test_question_about_a_variable_has_the_prefix(caplog: pytest.LogCaptureFixture) -> None:
    WebSocketConfig.from_env({"REDIS_URL": "redis://r", "CHAT_NUMSHARDS": "4"}, prefix="chat_")
    questions = [message.partition("did you mean ")[2] for message in caplog.messages]
    assert questions == ["CHAT_NUM_SHARDS?", "CHAT_REDIS_URL?"]


def test_keys_of_a_variable_are_counted_when_one_is_too_short() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"^envelope_keys must be .* each, got 2 of them \(set by WS_ENVELOPE_KEYS\)$",
    ):
        WebSocketConfig.from_env({"WS_ENVELOPE_KEYS": f"{'k' * 32},short"})


@given(st.dictionaries(st.sampled_from([f"WS_{name.upper()}" for name in NEW]), st.text(max_size=9)))
def test_any_environment_is_a_config_or_a_configuration_error(environ: dict[str, str]) -> None:
    try:
        config = WebSocketConfig.from_env(environ)
    except ConfigurationError:
        return
    assert isinstance(config, WebSocketConfig)


# Secrets


PASSWORDS = ["hunter2", "p@ssw0rd", "a:b@c", "100%", quote("p@ss/w#rd", safe="")]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@host:6379/0",
        "redis+sentinel://:{}@one:26379,two:26379/service/0",
        "redis+cluster://:{}@one:7000,two:7001",
        "redis+sentinel://one,two/service?sentinel_password={}",
        "redis://host/0?password={}",
        "redis://host?db=1&password={}&ssl=no",
        "unix://:{}@/run/redis.sock",
        "redis://[::1]:6379?password={}",
    ],
)
def test_no_piece_of_the_password_is_shown(url: str, password: str) -> None:
    masked = mask_password(url.format(password))
    assert masked == url.format("***")


@pytest.mark.parametrize("password", ["p/w", "p#w", "p?w", "p w", "p/?#@w"])
@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel", "redis+cluster", "unix"])
def test_no_piece_of_a_password_is_shown_that_should_have_been_encoded(scheme: str, password: str) -> None:
    assert mask_password(f"{scheme}://user:{password}@one/0") == f"{scheme}://***:***@one/0"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user@host", "redis://***@host"),
        ("rediss://user:hunter2@host", "rediss://***:***@host"),
        ("redis+cluster://user:a@b:c@one:1,two:2", "redis+cluster://***:***@one:1,two:2"),
        ("redis+sentinel://one/s?sentinel_username=user", "redis+sentinel://one/s?sentinel_username=***"),
        ("redis://host?username=user&db=1", "redis://host?username=***&db=1"),
    ],
)
def test_no_user_is_shown(url: str, shown: str) -> None:
    assert mask_password(url) == shown


@pytest.mark.parametrize(
    "url",
    ["redis://host:6379/0", "redis+cluster://one:1,two:2", "redis://host?db=1", "unix:///run/redis.sock"],
)
def test_address_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert mask_password(url) == url


@pytest.mark.parametrize("text", ["{config!r}", "{config!s}", "{config}"])
def test_config_shows_neither_password_nor_secret(text: str) -> None:
    secrets: Any = {
        "token_secret": "correct horse battery",
        "envelope_keys": ["correct horse battery staple 123"],
    }
    config = WebSocketConfig(redis_url="redis://:hunter2@host", **secrets)
    shown = text.format(config=config)
    assert shown == "WebSocketConfig(redis_url='redis://:***@host')"


@pytest.mark.parametrize(
    "settings",
    [
        {"redis_url": "http://user:hunter2@host"},
        {"redis_url": "user:hunter2@host:6379"},
        {"redis_url": ":hunter2@host"},
        {"token_secret": "hunter2"},
        {"envelope_keys": "hunter2"},
        {"envelope_keys": ["hunter2"]},
        {"envelope_keys": [b"hunter2"]},
        {"drain_secret": "hunter2"},
        {"metrics_secret": "hunter2"},
        {"admin_secret": "hunter2"},
    ],
)
def test_error_repeats_no_secret(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebSocketConfig(**settings)
    assert "hunter2" not in str(caught.value)


def test_envelope_keys_in_the_environment_are_separated_by_commas() -> None:
    new, old = "n" * 32, "o" * 32
    assert WebSocketConfig.from_env({"WS_ENVELOPE_KEYS": f"{new}, {old}"}).envelope_keys == (new, old)


def test_repr_shows_only_what_differs_from_the_defaults() -> None:
    assert repr(WebSocketConfig()) == "WebSocketConfig()"
    assert (
        repr(WebSocketConfig(num_shards=2, namespace="a")) == "WebSocketConfig(num_shards=2, namespace='a')"
    )
