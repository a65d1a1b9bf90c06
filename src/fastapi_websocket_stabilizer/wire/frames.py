"""Frames of a WebSocket server (RFC 6455 §5.2, RFC 7692 §7), built once and written to many sockets."""

import struct
import zlib

TEXT, BINARY, PING = 0x1, 0x2, 0x9
_FIN, _RSV1 = 0x80, 0x40
WINDOW_BITS = 12
"""Largest deflate window that is negotiated (4 KiB). Most sockets then share one compressed frame."""
MEMORY_LEVEL = 5
COMPRESS_FROM_BYTES = 1024
"""Smallest message that is compressed, in bytes. For a shorter one, compression costs more than it saves."""
_EMPTY_BLOCK = b"\x00\x00\xff\xff"


def frame(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    """Return one unmasked, final frame with ``payload``."""
    first, size = _FIN | opcode | (_RSV1 if compressed else 0), len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def deflate(payload: bytes, window_bits: int) -> bytes:
    """Return ``payload`` compressed without context takeover, so every socket with this window can read it."""
    compressor = zlib.compressobj(wbits=-window_bits, memLevel=MEMORY_LEVEL)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(_EMPTY_BLOCK)


PING_FRAME: bytes = frame(PING, b"")
