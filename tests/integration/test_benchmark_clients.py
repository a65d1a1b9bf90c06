"""benchmarks/: clients count what they receive, and answer as the protocol of each server wants it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.dialects import DIALECTS, TEXT, Reader, frame
from benchmarks.messages import text_message
from benchmarks.receiver import Receiver, build, compiler

from tests.support.requirements import missing


def unmasked(payload: str) -> bytes:
    """Return a text frame of a server."""
    size = len(payload)
    return bytes([0x81, size] if size < 126 else [0x81, 126, *size.to_bytes(2)]) + payload.encode()


def push(number: int) -> str:
    return json.dumps(
        {"push": {"channel": "re:lo", "pub": {"data": text_message(number, 128), "offset": number}}}
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None:
        missing("the benchmarks need a C compiler")
    return build(tmp_path_factory.mktemp("receiver"))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    server, client = socket.socketpair()
    with server, client:
        server.settimeout(5)
        yield server, client


@pytest.fixture
def receiver(library: Path, pair: tuple[socket.socket, socket.socket]) -> Iterator[Receiver]:
    control, other = socket.socketpair()
    with control, other:
        receiver = Receiver(library, control.fileno())
        receiver.reset()
        yield receiver
        receiver.clear()


def test_each_message_of_joined_replies_is_counted(
    receiver: Receiver, pair: tuple[socket.socket, socket.socket]
) -> None:
    server, client = pair
    receiver.add(client.fileno(), unmasked(f"{push(1)}\n{push(2)}"), is_lined=True)
    publications = [{"data": text_message(number, 128), "offset": number} for number in (3, 4, 5)]
    server.sendall(unmasked(json.dumps({"id": 2, "subscribe": {"publications": publications}})))
    assert receiver.run(messages=5, timeout_s=5)
    assert receiver.incomplete(5, sum(range(1, 6))) == 0
    assert receiver.incomplete(4, 0) == 1


def test_ping_of_centrifugo_is_answered_and_sign_of_life_of_v1_is_not(
    receiver: Receiver, pair: tuple[socket.socket, socket.socket]
) -> None:
    server, client = pair
    receiver.add(client.fileno(), unmasked(f"{push(1)}\n{{}}"), is_lined=True)
    assert server.recv(100) == frame(TEXT, b"{}")
    receiver.clear()
    receiver.add(client.fileno(), unmasked("{}") + unmasked('{"ping":1}'), is_lined=False)
    server.sendall(unmasked(f'[1764396000000123,"re:lo","{text_message(1, 128)}"]'))
    assert receiver.run(messages=1, timeout_s=5)
    assert server.recv(100) == frame(TEXT, b"{}")


def test_client_that_comes_back_sends_its_commands_behind_the_handshake(
    receiver: Receiver, pair: tuple[socket.socket, socket.socket]
) -> None:
    server, client = pair
    receiver.dial(client.fileno(), frame(TEXT, b"commands"), is_lined=True)
    assert receiver.poll() == 1
    server.sendall(b"HTTP/1.1 101 Switching")
    assert receiver.poll(1) == 1
    server.sendall(b" Protocols\r\n\r\n" + unmasked(push(1)))
    assert receiver.poll(1) == 0
    assert server.recv(100) == frame(TEXT, b"commands")
    assert receiver.counters.messages == 1


def test_client_that_is_refused_is_an_error(
    receiver: Receiver, pair: tuple[socket.socket, socket.socket]
) -> None:
    server, client = pair
    receiver.dial(client.fileno(), b"", is_lined=False)
    server.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    with pytest.raises(ConnectionError):
        receiver.poll(1)


def test_centrifugo_is_asked_for_what_was_missed() -> None:
    subscribed = {"recoverable": True, "epoch": "abcd", "offset": 7}
    replies = [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {}}, {"id": 3, "subscribe": subscribed}]
    sent: list[bytes] = []
    early = iter([unmasked("\n".join(map(json.dumps, replies[:2]))), unmasked(json.dumps(replies[2]))])
    back = DIALECTS["centrifugo"].join(sent.append, Reader(lambda size: next(early)), "plain,re:lo")
    assert [line.split(b'"channel":')[1:] for line in sent[0].splitlines()][1:] == [
        [b'"plain"}}'],
        [b'"re:lo"}}'],
    ]
    assert b'"recover":true,"epoch":"abcd","offset":7' in back.then
    assert back.then.count(b'"recover"') == 1


def test_centrifugo_that_refuses_a_command_is_an_error() -> None:
    early = iter([unmasked(json.dumps({"id": 1, "error": {"code": 109}}))])
    with pytest.raises(ConnectionError, match="109"):
        DIALECTS["centrifugo"].join(lambda data: None, Reader(lambda size: next(early)), "plain")


def test_cursor_of_v1_has_the_positions_of_hi() -> None:
    hi = {"hi": {"v": 1, "sid": "s1", "t": 1764396060000, "at": {"re:lo": 17, "plain": None}}}
    early = iter([unmasked(json.dumps(hi)) + unmasked('[0,0,"welcome"]') + unmasked('{"live":0}')])
    reader = Reader(lambda size: next(early))
    (line,) = DIALECTS["stabilizer.v1"].join(lambda data: None, reader, "").lines
    assert line.startswith("Sec-WebSocket-Protocol: stabilizer.v1, stabilizer.v1.resume.")
    assert "=" not in line
    assert reader.early == b""
