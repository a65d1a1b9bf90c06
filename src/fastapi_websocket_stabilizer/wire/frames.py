"""WebSocket frames as a server writes them (RFC 6455 §5.2, RFC 7692 §7): built once, written to many sockets."""

import struct
import zlib

TEXT, BINARY, PING = 0x1, 0x2, 0x9
_FIN, _RSV1 = 0x80, 0x40
WINDOW_BITS = 12
"""Largest deflate window we agree to, 4 KiB, so that most sockets share one compressed frame."""
MEMORY_LEVEL = 5
COMPRESS_FROM_BYTES = 1024
"""Shorter messages are sent as they are: compressing them costs more than it saves."""
_EMPTY_BLOCK = b"\x00\x00\xff\xff"


def frame(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    """Return one unmasked, final frame."""
    first, size = _FIN | opcode | (_RSV1 if compressed else 0), len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def deflate(payload: bytes, window_bits: int) -> bytes:
    """Compress one message by itself (no context takeover), so that any socket can read it."""
    compressor = zlib.compressobj(wbits=-window_bits, memLevel=MEMORY_LEVEL)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(_EMPTY_BLOCK)


PING_FRAME: bytes = frame(PING, b"")
