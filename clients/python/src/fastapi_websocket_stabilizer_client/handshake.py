"""The items that a client offers in ``Sec-WebSocket-Protocol``."""

from base64 import urlsafe_b64encode

from .errors import InvalidDataError

SUBPROTOCOL = "stabilizer.v1"
VERSION = 1
MAX_HEADER_BYTES = 4096

_RESUME, _LATER, _AUTH = f"{SUBPROTOCOL}.resume.", f"{SUBPROTOCOL}.resume.later", f"{SUBPROTOCOL}.auth."


def offer(cursor: str | None, token: str | None, *, later: bool) -> tuple[tuple[str, ...], bool]:
    """Return the items, and whether the cursor must be the first frame.

    Args:
        cursor: The text of the cursor, or None.
        token: The credentials, or None.
        later: Send the cursor in the first frame even if the header is short enough.

    Raises:
        InvalidDataError: The token alone makes the header longer than 4,096 bytes.
    """
    items = [SUBPROTOCOL] if token is None else [SUBPROTOCOL, _AUTH + _coded(token)]
    if cursor is not None:
        whole = [*items, _RESUME + _coded(cursor)]
        if not later and _size(whole) <= MAX_HEADER_BYTES:
            return tuple(whole), False
        items.append(_LATER)
    if (size := _size(items)) > MAX_HEADER_BYTES:
        raise InvalidDataError(
            f"the token makes a header of {size} bytes, the limit is {MAX_HEADER_BYTES}: send it in another way, "
            "such as a cookie (headers=…) or a single-use ticket in the URL"
        )
    return tuple(items), cursor is not None


def _size(items: list[str]) -> int:
    return len(", ".join(items))


def _coded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")
