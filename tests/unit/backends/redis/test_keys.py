"""Keys: each in its slot, none that another could be taken for."""

from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.backends.log_ports import LogKind, LogName
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.config import WebSocketConfig
from fastapi_websocket_stabilizer.names import NodeId, partition
from fastapi_websocket_stabilizer.wire.channels import ALL, INBOX, Channel
from tests.unit.strategies import legal_names

BY_NAME = ["client", "room", "room_counts"]
OF_LOGS = ["log", "log_top"]
BY_NODE = ["info", "connections", "memberships", "inbox"]
SINGLE = ["leases", "dead", "epoch", "secret", "policy", "all"]


class Address(NamedTuple):
    """What is stored, of whom, in which namespace."""

    namespace: str
    kind: str
    name: str

    def key(self) -> str:
        keys = Keys(self.namespace)
        if self.kind in SINGLE:
            return str(getattr(keys, self.kind))
        method, _, kind = self.kind.partition(" of ")
        if kind:
            return str(getattr(keys, method)(LogName(LogKind(kind), self.name)))
        if self.kind == "once":
            return keys.once(LogName(LogKind.ALL), self.name)
        if self.kind == "token":
            return keys.token(self.name, "alice")
        return str(getattr(keys, self.kind)(self.name))


namespaces = st.sampled_from(["fws", "fws:", "fws:all", ":", "a", "a:b"]) | st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="{}"), min_size=1, max_size=64
)
node_ids = st.from_regex("[0-9a-f]{16}", fullmatch=True)
partitions = st.from_regex("[0-9a-f]{2}", fullmatch=True)
digests = st.from_regex("[0-9a-f]{32}", fullmatch=True)
tricky = st.sampled_from(
    [
        "client:a",
        "a}:client:b",
        "{0a}:client:a",
        "leases",
        "inbox",
        ":all",
        "}:connections",
        "x:{nodes}:leases",
    ]
)
addresses = st.one_of(
    st.builds(Address, namespaces, st.sampled_from(BY_NAME), tricky | legal_names),
    st.builds(Address, namespaces, st.sampled_from(BY_NODE), node_ids),
    st.builds(Address, namespaces, st.just("token"), digests),
    st.builds(Address, namespaces, st.just("once"), digests),
    st.builds(Address, namespaces, st.sampled_from(["epoch_of", "since_of"]), partitions),
    st.builds(
        Address,
        namespaces,
        st.sampled_from([f"{key} of {kind}" for key in OF_LOGS for kind in ("room", "box")]),
        tricky | legal_names,
    ),
    st.builds(Address, namespaces, st.sampled_from([f"{key} of all" for key in OF_LOGS]), st.just("")),
    st.builds(Address, namespaces, st.sampled_from(SINGLE), st.just("")),
)


def slot_tag(key: str) -> str:
    """Return what Redis Cluster hashes: what is between the first brace and the next closing one, if anything."""
    _, opening, rest = key.partition("{")
    tag, closing, _ = rest.partition("}")
    return tag if opening and closing and tag else key


@given(addresses, addresses)
@example(Address("a", "room", "b"), Address("a", "client", "b"))
@example(Address("a:b", "all", ""), Address("a", "all", ""))
def test_two_things_never_share_a_key(one: Address, other: Address) -> None:
    assert (one.key() == other.key()) is (one == other)


@settings(max_examples=25)  # each is hundreds of pairs
@given(st.lists(addresses, min_size=20, max_size=40, unique=True))
def test_many_things_have_as_many_keys(many: list[Address]) -> None:
    assert len({address.key() for address in many}) == len(many)


@given(namespaces, tricky | legal_names)
def test_name_does_not_choose_its_slot(namespace: str, name: str) -> None:
    keys = [Address(namespace, kind, name).key() for kind in BY_NAME]
    assert {slot_tag(key) for key in keys} == {partition(name)}


@given(namespaces, digests, legal_names)
def test_token_is_in_the_slot_of_its_client(namespace: str, digest: str, client_id: str) -> None:
    assert slot_tag(Keys(namespace).token(digest, client_id)) == partition(client_id)


@given(namespaces, digests, legal_names, st.sampled_from(LogKind))
def test_keys_and_channel_of_a_log_share_a_slot(
    namespace: str, digest: str, name: str, kind: LogKind
) -> None:
    keys, log = Keys(namespace), LogName(kind, "" if kind is LogKind.ALL else name)
    found = [keys.log(log), keys.log_top(log), keys.since(log), keys.once(log, digest)]
    found += [channel for channel in [keys.log_channel(log)] if channel]
    assert {slot_tag(key) for key in found} == {
        f"{namespace}:all" if kind is LogKind.ALL else partition(name)
    }


@given(namespaces, node_ids)
def test_keys_of_one_script_share_a_slot(namespace: str, node: str) -> None:
    keys = Keys(namespace)
    assert {slot_tag(key) for key in (keys.leases, keys.dead, keys.info(NodeId(node)))} == {"nodes"}
    assert {slot_tag(key) for key in (keys.connections(NodeId(node)), keys.memberships(NodeId(node)))} == {
        node
    }


@given(addresses)
def test_every_key_begins_with_its_namespace(address: Address) -> None:
    assert address.key().startswith(f"{address.namespace}:")


@given(namespaces, node_ids)
def test_inbox_is_made_of_the_two_parts_that_the_script_gets(namespace: str, node: str) -> None:
    keys = Keys(namespace)
    assert keys.inbox(NodeId(node)) == keys.inbox_prefix + node + keys.inbox_suffix


def test_keys_are_those_of_the_first_day() -> None:
    keys, node = Keys("fws"), NodeId("n")
    assert [
        keys.leases, keys.dead, keys.secret, keys.all, keys.info(node), keys.connections(node),
        keys.memberships(node), keys.inbox(node), keys.client("123456789"), keys.room("123456789"),
        keys.room_counts("123456789"), keys.token("d", "123456789"), keys.epoch, keys.epoch_of("c3"),
    ] == [
        "fws:{nodes}:leases", "fws:{nodes}:dead", "fws:{nodes}:secret", "fws:all", "fws:{nodes}:info:n",
        "fws:{n}:connections", "fws:{n}:memberships", "fws:{n}:inbox", "fws:{c3}:client:123456789",
        "fws:{c3}:room:123456789", "fws:{c3}:count:123456789", "fws:{c3}:token:d",
        "fws:{nodes}:epoch", "fws:{c3}:epoch",
    ]  # fmt: skip


@given(namespaces)
def test_these_namespaces_are_legal(namespace: str) -> None:
    assert WebSocketConfig(namespace=namespace).namespace == namespace


@pytest.mark.parametrize("namespace", ["a{b", "{nodes}", "}"])
def test_namespace_with_a_brace_would_choose_the_slot_and_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="without braces"):
        WebSocketConfig(namespace=namespace)


@given(namespaces, node_ids, st.one_of(tricky, legal_names))
def test_inbox_is_told_from_every_other_channel(namespace: str, node: str, room: str) -> None:
    keys = Keys(namespace)
    assert keys.is_inbox(keys.inbox(NodeId(node)))
    others = [keys.all, keys.canary(node), keys.room(room), keys.room(f"{room}}}:inbox")]
    assert not any(map(keys.is_inbox, others))


@given(namespaces, tricky | legal_names)
def test_channel_has_one_name_and_the_name_one_channel(namespace: str, room: str) -> None:
    keys = Keys(namespace)
    for channel in (ALL, Channel("room", room)):
        assert keys.channel_of(keys.channel(channel).encode()) == channel
    assert keys.channel_of(keys.inbox(NodeId("00ff00ff00ff00ff")).encode()) == INBOX
