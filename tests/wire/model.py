"""What RFC 6455 says that a server makes of a stream of bytes, without compression: a model to compare with.

It is written from the RFC and parses from the beginning each time: slow, small, and nobody's implementation.
"""

from dataclasses import dataclass, field

from tests.wire.raw import Op, apply_mask

LEGAL_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
PROTOCOL_ERROR, INVALID_DATA, TOO_LARGE = 1002, 1007, 1009


@dataclass
class Expected:
    """What the server has to do.

    Attributes:
        codes: Any of these it may close with; empty while the connection stays open.
        missing: Bytes that make the frame that has begun complete, and legal as far as they can.
    """

    messages: list[str | bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)
    missing: bytes = b""
    _has_broken_text: bool = False
    _opcode: int | None = None
    _fragments: bytes = b""

    @property
    def is_within_a_message(self) -> bool:
        return self._opcode is not None

    def is_text_broken(self) -> bool:
        """Tell whether an endpoint that decodes as it reads would have failed already."""
        try:
            self._fragments.decode()
        except UnicodeDecodeError:
            return self._opcode == Op.TEXT
        return False


def expected(stream: bytes, limit: int) -> Expected:
    """Return what a server that refuses messages over ``limit`` bytes makes of ``stream``."""
    result, other_reasons = Expected(), set[int]()
    while stream and not result.codes and not result.missing:
        if result._has_broken_text:
            # Who reads a whole segment before he looks at its text may find another reason in it first.
            other_reasons = {PROTOCOL_ERROR, TOO_LARGE}
        stream = _frame(result, stream, limit)
    if result._has_broken_text:
        result.codes, result.missing = result.codes | other_reasons | {INVALID_DATA}, b""
    return result


def _frame(result: Expected, stream: bytes, limit: int) -> bytes:
    """Take one frame off the stream and return the rest."""
    if len(stream) < 2:
        result.missing = b"\x80"
        return b""
    first, second = stream[0], stream[1]
    wide = {126: 2, 127: 8}.get(second & 127, 0)
    body = 2 + wide + 4 * (second >> 7)
    header = stream[:body]
    if len(header) < body:
        result.missing = bytes(body - len(header))
        return b""
    length = int.from_bytes(header[2 : 2 + wide]) if wide else second & 127
    fin, opcode = bool(first & 0x80), first & 15
    codes = _broken(result, first, second, length)
    if length + (len(result._fragments) if opcode < Op.CLOSE else 0) > limit:
        result.codes = codes | {TOO_LARGE}
    elif len(stream) < body + length:
        result.missing = bytes(body + length - len(stream))
    elif codes:
        result.codes = codes
    else:
        _take(result, opcode, apply_mask(stream[body : body + length], header[-4:]), fin=fin)
    return stream[body + length :]


def _broken(result: Expected, first: int, second: int, length: int) -> set[int]:
    fin, opcode = first & 0x80, first & 15
    starts = opcode in (Op.TEXT, Op.BINARY)
    rules = (
        bool(first & 0x70),
        opcode not in set(Op),
        not second & 0x80,
        opcode >= Op.CLOSE and (not fin or length > 125),
        length >= 2**63,
        starts and result.is_within_a_message,
        opcode == Op.CONT and not result.is_within_a_message,
    )
    if not any(rules):
        return set()
    return {PROTOCOL_ERROR} | ({INVALID_DATA} if result.is_text_broken() else set())


def _take(result: Expected, opcode: int, payload: bytes, *, fin: bool) -> None:
    if opcode == Op.PING:
        result.pongs.append(payload)
    elif opcode == Op.CLOSE:
        result.codes = _close(payload)
        if result.is_within_a_message:  # legal (§5.4), but the websockets library fails the connection
            result.codes.add(PROTOCOL_ERROR)
    elif opcode != Op.PONG:
        result._opcode = opcode if opcode != Op.CONT else result._opcode
        result._fragments += payload
        if fin:
            _complete(result)


def _complete(result: Expected) -> None:
    if result.is_text_broken():
        result._has_broken_text = True
    elif result._opcode == Op.TEXT:
        result.messages.append(result._fragments.decode())
    else:
        result.messages.append(result._fragments)
    result._opcode, result._fragments = None, b""


def _close(payload: bytes) -> set[int]:
    if not payload:
        return {1000, 1005}
    code = int.from_bytes(payload[:2])
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return {PROTOCOL_ERROR, INVALID_DATA}
    return {code} if len(payload) > 1 and code in LEGAL_CODES else {PROTOCOL_ERROR}
