"""The handshake of ``stabilizer.v1``: what a client offers in ``Sec-WebSocket-Protocol``.

An item is ``stabilizer.v1``, ``stabilizer.v1.resume.<cursor>``, ``stabilizer.v1.resume.later`` or
``stabilizer.v1.auth.<token>``. Cursor and token are UTF-8 in base64url without padding, because ``=`` may not be part
of an item. The server selects only ``stabilizer.v1``.
"""

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from ..exceptions import ClientInputError
from .cursors import Cursor

SUBPROTOCOL = "stabilizer.v1"
VERSION = 1
"""Value of ``v`` in ``hi``."""
MAX_HEADER_BYTES = 4096
"""Longest value of the header. Proxies and servers limit all headers to about 8 KiB."""

_RESUME, _AUTH, _LATER = f"{SUBPROTOCOL}.resume.", f"{SUBPROTOCOL}.auth.", f"{SUBPROTOCOL}.resume.later"
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Offer:
    """The subprotocols that a client offers, as values.

    Attributes:
        cursor: The text of its cursor, for ``parse_cursor``. None without one.
        is_cursor_later: Whether its first frame will be ``{"resume":…}``.
        token: Its credentials, None without.
    """

    cursor: str | None = None
    is_cursor_later: bool = False
    token: str | None = None


def parse_offer(items: Iterable[str]) -> Offer | None:
    """Return what the items of the header offer, or None if ``stabilizer.v1`` is not among them.

    Items of other protocols and unknown items are ignored.

    Raises:
        ClientInputError: The header is too long (``size``), offers something twice (``header``), or an item is not
            UTF-8 in base64url without padding (``encoding``).
    """
    offered = list(items)
    if SUBPROTOCOL not in offered:
        return None
    if (size := sum(map(len, offered)) + len(", ") * (len(offered) - 1)) > MAX_HEADER_BYTES:
        raise ClientInputError(
            f"Sec-WebSocket-Protocol has {size} bytes, the limit is {MAX_HEADER_BYTES}: offer {_LATER}",
            code="size",
        )
    resumes = [item for item in offered if item.startswith(_RESUME)]
    auths = [item for item in offered if item.startswith(_AUTH)]
    if len(resumes) > 1 or len(auths) > 1:
        raise ClientInputError(
            "Sec-WebSocket-Protocol has more than one cursor or more than one token", code="header"
        )
    is_later = resumes == [_LATER]
    cursor = _decode(resumes[0], _RESUME) if resumes and not is_later else None
    return Offer(cursor, is_later, _decode(auths[0], _AUTH) if auths else None)


def format_offer(cursor: Cursor | None = None, token: str | None = None, *, later: bool = False) -> list[str]:
    """Return the items of the header.

    The cursor is announced for the first frame if ``later`` is true or if the header would be too long.

    Raises:
        ClientInputError: The token alone makes the header too long (``size``).
    """
    items = [SUBPROTOCOL] if token is None else [SUBPROTOCOL, _AUTH + _encode(token)]
    if cursor is not None:
        whole = [*items, _RESUME + _encode(cursor.text())]
        is_short = len(", ".join(whole)) <= MAX_HEADER_BYTES
        items = whole if is_short and not later else [*items, _LATER]
    if (size := len(", ".join(items))) > MAX_HEADER_BYTES:
        raise ClientInputError(f"the token makes a header of {size} bytes", code="size")
    return items


def _encode(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(item: str, prefix: str) -> str:
    coded = item.removeprefix(prefix)
    try:
        if not _BASE64URL.fullmatch(coded):
            raise ValueError("empty, padded, or has a character that base64url has not")
        text = urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
    except (ValueError, binascii.Error) as error:
        raise ClientInputError(
            f"{prefix}… is not UTF-8 in base64url without padding: {error}", code="encoding"
        ) from None
    if _encode(text) != coded:
        raise ClientInputError(f"{prefix}… has bits behind its last byte", code="encoding")
    return text
