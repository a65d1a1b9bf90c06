"""Recorded conversations: what a client sends, byte by byte, and what must come back (tests/vectors/rfc6455.json).

Bytes are written in hexadecimal, in words; ``2a*125`` is a word repeated. A masked frame has the key 0, which leaves
its payload readable.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Vector:
    """One conversation.

    Attributes:
        send: Pieces that are written one after the other.
        messages: Data frames that must come back. If the server ends the connection, the last ones may be missing.
        pongs: Payloads of the pongs that must come back.
        close: Codes of which the server's close frame must have one, if the conversation ends the connection. If it
            is empty, the client closes in the end.
        deflate: The client offers permessage-deflate.
        managed: It tests a limit of the manager, so only registered sockets are tried.
    """

    name: str
    send: tuple[bytes, ...]
    messages: tuple[str | bytes, ...]
    pongs: tuple[bytes, ...]
    close: frozenset[int]
    deflate: bool
    managed: bool


def load_vectors() -> list[Vector]:
    """Read all vectors."""
    rules = json.loads((Path(__file__).parents[1] / "vectors" / "rfc6455.json").read_text())
    return [_vector(row) for rows in rules.values() for row in rows]


def _vector(row: dict[str, Any]) -> Vector:
    pieces = [_bytes(piece) for piece in row["send"]]
    codes = row.get("close", [])
    return Vector(
        row["name"],
        tuple(bytes([byte]) for piece in pieces for byte in piece) if row.get("chop") else tuple(pieces),
        tuple(_message(message) for message in row.get("messages", ())),
        tuple(_bytes(pong) for pong in row.get("pongs", ())),
        frozenset(codes if isinstance(codes, list) else [codes]),
        row.get("deflate", False),
        row.get("managed", False),
    )


def _bytes(words: str) -> bytes:
    parts = (word.partition("*") for word in words.split())
    return b"".join(bytes.fromhex(digits) * int(count or 1) for digits, _, count in parts)


def _message(line: str) -> str | bytes:
    kind, _, words = line.partition(" ")
    return _bytes(words).decode() if kind == "text" else _bytes(words)
