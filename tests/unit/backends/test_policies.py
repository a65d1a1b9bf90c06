"""Which logs a registry has: the longest prefix, and a text that all nodes agree on."""

from dataclasses import replace

import pytest

from fastapi_websocket_stabilizer import ConfigurationError, History, Mailbox, WebSocketConfig
from fastapi_websocket_stabilizer.backends.log_ports import LogBounds, LogKind, LogName
from fastapi_websocket_stabilizer.backends.policies import KnownPolicy, Policy, stored_by

POLICY = Policy.of(
    WebSocketConfig(
        history={"chat:": History(messages=1), "chat:vip:": History(messages=2), "x": History(messages=3)},
        history_for_all=History(messages=4),
        mailbox=Mailbox(messages=5),
    )
)


def room(name: str) -> LogName:
    return LogName(LogKind.ROOM, name)


@pytest.mark.parametrize(
    ("log", "messages"),
    [
        (room("chat:7"), 1),
        (room("chat:vip:7"), 2),
        (room("chat:"), 1),
        (room("x"), 3),
        (room("chat"), None),
        (room("y"), None),
        (LogName(LogKind.ALL), 4),
        (LogName(LogKind.BOX, "chat:"), 5),
    ],
)
def test_longest_prefix_counts(log: LogName, messages: int | None) -> None:
    bounds = POLICY.bounds(log)
    assert (bounds and bounds.messages) == messages


def test_empty_prefix_is_every_room() -> None:
    policy = Policy.of(WebSocketConfig(history={"": History(), "chat:": History(seconds=7)}))
    assert policy.bounds(room("any")) == LogBounds(500, 262_144, 120)
    assert policy.bounds(room("chat:1")) == LogBounds(500, 262_144, 7)
    assert policy.bounds(LogName(LogKind.ALL)) is None
    assert policy.bounds(LogName(LogKind.BOX, "any")) is None


def test_text_is_read_as_it_was_written() -> None:
    assert Policy.read(POLICY.text) == POLICY
    assert Policy.read("") == Policy.read(Policy().text) == Policy()
    assert not Policy()


def test_open_policy_stores_the_same_and_says_so() -> None:
    opened = replace(POLICY, is_open=True)
    assert Policy.read(opened.text) == opened != POLICY
    assert opened.stored == POLICY.stored
    assert opened.bounds(room("chat:7")) == POLICY.bounds(room("chat:7"))


@pytest.mark.parametrize(
    ("info", "found"),
    [
        (b'{"name":"a","settings":{"stored":"everybody"}}', ("a", "everybody")),
        (b'{"name":"a","settings":{}}', ("a", "nothing")),
        (b'{"name":"a"}', ("unknown", "nothing")),
        (b'{"name":"a","settings":7}', ("unknown", "nothing")),
        (b"[" * 100_000, ("unknown", "nothing")),
        (None, ("unknown", "nothing")),
    ],
)
def test_description_of_a_node_says_what_it_stores(info: bytes | None, found: tuple[str, str]) -> None:
    assert stored_by(info) == found


def test_bounds_may_differ_and_logs_may_not() -> None:
    other = Policy({**POLICY.rooms, "x": LogBounds(9, 9, 9)}, POLICY.everybody, LogBounds(8, 8, 8))
    POLICY.check_agrees(other)
    for wrong in (
        Policy({}, POLICY.everybody, POLICY.mailbox),
        Policy(POLICY.rooms, None, POLICY.mailbox),
        Policy(POLICY.rooms, POLICY.everybody),
    ):
        with pytest.raises(ConfigurationError, match="stabilizer policy --reset") as caught:
            POLICY.check_agrees(wrong)
        assert POLICY.stored in str(caught.value)
        assert wrong.stored in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "7", '{"v":2,"rooms":{},"all":null}', '{"v":1}', '{"v":1,"rooms":{"a":[1]}}'],
)
def test_foreign_text_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ConfigurationError, match="stabilizer policy --reset"):
        Policy.read(text)


def test_text_without_mailboxes_is_as_before() -> None:
    assert Policy({"a": LogBounds(1, 2, 3)}).text == '{"v":1,"rooms":{"a":[1,2,3]},"all":null}'


def test_mailbox_is_that_of_the_client_or_is_missed_by_name() -> None:
    assert POLICY.box("ann", store=True, key=None) == (LogName(LogKind.BOX, "ann"), POLICY.mailbox)
    with pytest.raises(ConfigurationError, match="needs a mailbox for client 'ann': set mailbox"):
        Policy().box("ann", store=True, key=None)
    for key in ("", "a\ud800"):
        with pytest.raises(ConfigurationError, match="key must be a string of 1 to 512"):
            POLICY.box("ann", store=True, key=key)
    with pytest.raises(ConfigurationError, match="a key needs a message that is stored"):
        POLICY.box("ann", store=False, key="order-42")


def test_names_in_the_text_cannot_be_taken_for_kinds() -> None:
    assert Policy({"everybody": LogBounds(1, 1, 1)}).stored != Policy({}, LogBounds(1, 1, 1)).stored


def test_policy_is_asked_for_until_the_answer_is_known() -> None:
    known = KnownPolicy()
    assert known.is_outdated
    with pytest.raises(ConfigurationError):
        known.learn(b"{")
    assert known.is_outdated
    known.learn(POLICY.text.encode())
    assert not known.is_outdated
    assert known.policy == POLICY


def test_policy_that_may_not_be_read_is_not_asked_for_with_each_message() -> None:
    known = KnownPolicy()
    known.keep()
    assert not known.is_outdated
    assert not known.policy
