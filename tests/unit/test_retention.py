"""Histories: bounds that make sense, from code, mappings and JSON."""

import dataclasses
from typing import Any

import pytest

from fastapi_websocket_stabilizer import ConfigurationError, History, Mailbox, WebSocketConfig
from fastapi_websocket_stabilizer.retention import LARGEST


def test_defaults_are_those_of_the_documents() -> None:
    assert dataclasses.astuple(History()) == (500, 262_144, 120, "room", 0)
    assert dataclasses.astuple(Mailbox()) == (100, 262_144, 86_400)


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("value", [0, -1, 1.5, "7", None, True, 10**12])
@pytest.mark.parametrize("kind", [History, Mailbox])
def test_wrong_bound_is_refused_by_its_name(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be a whole number from 1 to") as caught:
        kind(**{name: value})
    assert caught.value.settings == (name,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"visible": "all"}, 'visible must be "room" or "since_join", got \'all\''),
        ({"on_join": -1}, "on_join must be 0 to 500"),
        ({"on_join": 11, "messages": 10}, "on_join must be 0 to 10"),
    ],
)
def test_wrong_visibility_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        History(**wrong)


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        History().messages = 7  # type: ignore[misc]  # that is the test


def test_settings_take_values_mappings_and_json() -> None:
    wanted = {"chat:": History(messages=7), "": History()}
    for given in (wanted, {"chat:": {"messages": 7}, "": {}}, '{"chat:": {"messages": 7}, "": {}}'):
        assert WebSocketConfig(history=given).history == wanted  # type: ignore[arg-type]  # as text, too
    variables = {"WS_HISTORY": '{"chat:":{}}', "WS_HISTORY_FOR_ALL": "{}", "WS_MAILBOX": '{"seconds":60}'}
    config = WebSocketConfig.from_env(variables)
    assert config.history == {"chat:": History()}
    assert config.history_for_all == History()
    assert config.mailbox == Mailbox(seconds=60)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("history", "{", "history must be JSON: "),
        ("history", "[]", "history must be histories by prefix of a room"),
        ("history", {"chat:": None}, "history must have a History for 'chat:'"),
        ("history", {"a\nb": {}}, "history must have prefixes of room names as keys"),
        ("history", {7: {}}, "history must have prefixes of room names as keys"),
        (
            "history",
            {"chat:": {"age": 7}},
            "valid History for 'chat:': must have no 'age', only messages, bytes",
        ),
        ("history", {"chat:": {"seconds": 0}}, "valid History for 'chat:': seconds must be a whole number"),
        ("history", {"chat:": 7}, "valid History for 'chat:': must be an object with messages"),
        ("history_for_all", {"bytes": -1}, "history_for_all must be valid: bytes must be a whole number"),
        ("history_for_all", True, "history_for_all must be an object with messages"),
        ("mailbox", {"messages": 0}, "mailbox must be valid: messages must be a whole number"),
        ("mailbox", {"visible": "room"}, "must have no 'visible', only messages, bytes, seconds"),
    ],
)
def test_wrong_setting_names_what_is_wrong(setting: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebSocketConfig(**{setting: value})
    assert message in str(caught.value)
    assert caught.value.settings == (setting,)
    with pytest.raises(ConfigurationError, match=f"WS_{setting.upper()}"):
        WebSocketConfig.from_env({f"WS_{setting.upper()}": '{"x": [7]}'})


def test_settings_that_store_nothing_say_so() -> None:
    assert not WebSocketConfig().stores
    assert WebSocketConfig(history={"": History()}).stores
    assert WebSocketConfig(history_for_all=History()).stores
    assert WebSocketConfig(mailbox=Mailbox()).stores
