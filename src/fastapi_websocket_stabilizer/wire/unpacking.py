"""Unpacking of untrusted msgpack: size, depth and types are checked before objects are allocated.

msgpack allocates memory for the number of items that an array claims (at most the number of bytes), in up to 1,024
nested arrays. So 70 KB could allocate half a gigabyte, and 16 MiB could exhaust the memory.
"""

from contextlib import suppress
from typing import Any

import msgpack

from ..exceptions import WireError

SMALL_BYTES = 4096
"""Bytes, or items of one array, that need no check. The worst case allocates 32 MiB for milliseconds."""
LARGE_BYTES = 1024 * 1024
"""Size in bytes above which all items are checked first. Genuine large envelopes have few items, so it is cheap."""
MAX_ITEMS = 1 << 18
"""Largest number of items in a checked envelope."""
MAX_DEPTH = 8
"""Largest depth of nested arrays. An envelope has three."""

_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bin and str 8, 16, 32
_NUMBER_BYTES = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_ARRAY_BYTES = {0xDC: 2, 0xDD: 4}
_CONSTANTS = {0xC0, 0xC2, 0xC3}  # nil, false, true


def load(data: bytes) -> Any:
    """Return the value in ``data``, with tuples for arrays.

    Raises:
        WireError: The data is not msgpack, or exceeds the limits.
    """
    try:
        if len(data) > SMALL_BYTES:
            return _load_large(data)
        return msgpack.unpackb(data, use_list=False)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"envelope is not msgpack: {error}") from None


def _load_large(data: bytes) -> Any:
    if len(data) <= LARGE_BYTES:
        with suppress(ValueError):  # malformed, or an array longer than usual: check() decides
            return msgpack.unpackb(data, use_list=False, max_array_len=SMALL_BYTES)
    check(data)
    return msgpack.unpackb(data, use_list=False)


def check(data: bytes) -> None:
    """Check the structure of ``data`` item by item, without building objects.

    Raises:
        WireError: The data has too many items, is nested too deeply, or has types that no envelope has.
    """
    position, items, expected = 0, 0, [1]  # expected: number of missing items at each depth
    while expected and position < len(data):
        if not expected[-1]:
            expected.pop()
            continue
        expected[-1] -= 1
        items += 1
        position, members = _step(data, position)
        if members:
            expected.append(members)
        if items > MAX_ITEMS or len(expected) > MAX_DEPTH:
            raise WireError(f"envelope has more than {MAX_ITEMS} items or {MAX_DEPTH} nested arrays")


def _step(data: bytes, position: int) -> tuple[int, int]:
    """Return the position of the next item, and the number of members of this one."""
    kind, position = data[position], position + 1
    if kind <= 0x7F or kind >= 0xE0 or kind in _CONSTANTS:
        return position, 0
    if 0x90 <= kind <= 0x9F:
        return position, kind & 0x0F
    if 0xA0 <= kind <= 0xBF:
        return position + (kind & 0x1F), 0
    if (width := _NUMBER_BYTES.get(kind)) is not None:
        return position + width, 0
    if (width := _ARRAY_BYTES.get(kind)) is not None:
        return position + width, int.from_bytes(data[position : position + width])
    if (width := _LENGTH_BYTES.get(kind)) is not None:
        return position + width + int.from_bytes(data[position : position + width]), 0
    raise WireError("envelope has a map or an extension type")
