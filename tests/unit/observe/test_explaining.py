"""``stabilizer explain``: the sentences for each state of a client, and the text, word by word."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastapi_websocket_stabilizer import CloseCause
from fastapi_websocket_stabilizer.models import ClosedConnection, ConnectionView
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.observe.explaining import MEANINGS, Explained

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NODE = NodeId("a1b2")
CALM = ConnectionView(
    client_id="ada", connection_id=ConnectionId("a1b2.7"), node=NODE, open_s=7_860, silent_s=3.2, ping_s=0.041,
    queued_bytes=0, queued_limit=1_000_000, is_behind=False, is_asked=False, is_parked=True,
    protocol="stabilizer.v1", expires_s=None, rooms=("a", "b"), room_count=2,
)  # fmt: skip
END = ClosedConnection(
    client_id="ada", connection_id=ConnectionId("a1b2.5"), node=NODE, at=NOW - timedelta(minutes=4),
    cause=CloseCause.TIMED_OUT, code=4007, reason="heartbeat timeout", error="", lasted_s=7_620, silent_s=61,
    queued_bytes=0,
)  # fmt: skip


def explained(
    *connections: ConnectionView,
    closed: tuple[ClosedConnection, ...] = (),
    ghosts: tuple[str, ...] = (),
    silent: dict[str, str] | None = None,
) -> Explained:
    unheard = {NodeId(node): why for node, why in (silent or {}).items()}
    names, listed = {NODE: "web-1", NodeId("c3d4"): "web-2"}, [ConnectionId(ghost) for ghost in ghosts]
    return Explained("ada", list(connections), list(closed), listed, unheard, names, NOW)


def test_client_that_is_well() -> None:
    assert explained(CALM).as_text().splitlines() == [
        "ada: 1 connection",
        "  a1b2.7 on web-1 (a1b2): open for 2h11m, heard 3s ago, ping 41ms, outbox 0 B of 1.0 MB",
        "    stabilizer.v1, parked, 2 rooms: a, b",
        "Nothing is wrong with its connections.",
    ]


def test_client_that_has_left() -> None:
    assert explained(closed=(END,)).as_text().splitlines() == [
        "ada: 0 connections",
        (
            "  a1b2.5 on web-1 (a1b2): ended 4m00s ago, timed_out (4007, 'heartbeat timeout'), open for 2h07m, "
            "heard 1m01s before its end"
        ),
        "It is not connected.",
        (
            "Its last connection ended 4m00s ago. It did not answer a ping within heartbeat_timeout: a dead network, "
            "or a frozen page."
        ),
    ]


def test_client_that_was_never_here() -> None:
    assert explained().verdict == [
        "It is not connected.",
        "No node remembers a connection of it: it was never here, or its ends were forgotten.",
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"queued_bytes": 912_000}, ("a1b2.7 reads too slowly: 912.0 kB of 1.0 MB wait. "
                                    "It will be closed with 4008, or lose messages.")),
        ({"is_behind": True}, "a1b2.7 reads slowly. Its stored messages wait in their log."),
        ({"is_asked": True, "silent_s": 25}, "a1b2.7 has not answered the last ping. Nothing came from it for 25s."),
        ({"expires_s": 12.0}, "The credentials of a1b2.7 expire in 12s."),
    ],
)  # fmt: skip
def test_trouble_of_a_connection_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    assert explained(replace(CALM, **change)).verdict == [sentence]


@pytest.mark.parametrize(
    "change",
    [{"queued_bytes": 400_000}, {"is_asked": True, "silent_s": 0.5}, {"expires_s": 3600.0}],
)
def test_what_is_usual_is_no_trouble(change: dict[str, Any]) -> None:
    assert explained(replace(CALM, **change)).verdict == ["Nothing is wrong with its connections."]


def test_entry_without_a_connection_and_a_silent_node_are_told() -> None:
    found = explained(CALM, ghosts=("c3d4.1",), silent={"c3d4": "no answer within 3 s"}).verdict
    assert found == [
        (
            "Redis lists c3d4.1, and its node does not have it. If it has not just ended, the node is dead or cut "
            "off, and a sweep removes the entry within a lease."
        ),
        "web-2 (c3d4) has not answered (no answer within 3 s), so what it holds is not known.",
    ]


def test_client_that_comes_back_again_and_again() -> None:
    ends = tuple(replace(END, at=NOW - timedelta(seconds=n), cause=CloseCause.PEER_CLOSED) for n in range(6))
    text = explained(CALM, closed=ends).as_text()
    assert (
        "It reconnects again and again: 6 connections ended within a minute (peer_closed).\n" in f"{text}\n"
    )
    assert "  and 3 earlier ones: stabilizer closed --client" in text


def test_text_of_the_client_cannot_act_on_the_terminal() -> None:
    ends = (replace(END, reason="\x1b[2J\n", error="\x07"),)
    view = replace(CALM, rooms=("a\u202eb",), client_id="ada")
    text = explained(view, closed=ends).as_text()
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_every_cause_has_a_meaning() -> None:
    assert set(MEANINGS) == set(CloseCause)
