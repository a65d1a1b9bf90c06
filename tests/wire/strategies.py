"""Frames that clients might send: legal, nearly legal, and noise."""

from collections.abc import Sequence

from hypothesis import strategies as st

from tests.wire.raw import RSV1, Frame, Op, close, deflated

PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(str.encode),
    st.sampled_from([b"", b"x" * 125, b"x" * 126, b"y" * 2000, b"\xff", "€".encode()[:2], b"\xc0\x80"]),
)
LEGAL = st.one_of(
    st.builds(lambda text: Frame(Op.TEXT, text.encode()), st.text(max_size=30)),
    st.builds(lambda data: Frame(Op.BINARY, data), st.binary(max_size=200)),
    st.builds(lambda data: Frame(Op.PING, data), st.binary(max_size=125)),
    st.builds(lambda data: Frame(Op.PONG, data), st.binary(max_size=125)),
)
FRAGMENTS = st.builds(
    lambda opcode, data, fin: Frame(opcode, data, fin=fin),
    st.sampled_from([Op.TEXT, Op.BINARY, Op.CONT, Op.CONT, Op.CONT]),
    PAYLOADS,
    st.booleans(),
)
CLOSES = st.one_of(
    st.builds(close, st.integers(0, 65_535), st.binary(max_size=10)),
    st.builds(close, st.sampled_from([1000, 1001, 4000, 1005, 1006, 999])),
    st.builds(lambda data: Frame(Op.CLOSE, data), st.binary(max_size=130)),
)
MUTANTS = st.builds(
    lambda opcode, payload, fin, rsv, rest: Frame(opcode, payload, fin, rsv, *rest),
    st.integers(0, 15),
    PAYLOADS,
    st.booleans(),
    st.sampled_from([0, 0, 0, 1, 2, 4, 7]),
    st.tuples(
        st.one_of(st.none(), st.binary(min_size=4, max_size=4)),
        st.one_of(st.none(), st.none(), st.integers(0, 300), st.sampled_from([65_535, 2**20 + 1, 2**63 - 1])),
    ),
)
COMPRESSED = st.builds(
    lambda opcode, data, fin, mangle: Frame(opcode, data[:-mangle] if mangle else data, fin, RSV1),
    st.sampled_from([Op.TEXT, Op.BINARY, Op.CONT, Op.PING]),
    st.one_of(st.text(max_size=50).map(str.encode).map(deflated), st.binary(max_size=50)),
    st.booleans(),
    st.integers(0, 3),
)


def _encoded(frames: Sequence[Frame]) -> bytes:
    return b"".join(frame.encode() for frame in frames)


WITHOUT_COMPRESSION = st.one_of(LEGAL, LEGAL, FRAGMENTS, FRAGMENTS, CLOSES, MUTANTS)
STREAMS = st.one_of(
    st.lists(LEGAL, max_size=8).map(_encoded),
    st.lists(st.one_of(LEGAL, FRAGMENTS), max_size=8).map(_encoded),
    st.lists(WITHOUT_COMPRESSION, max_size=8).map(_encoded),
    st.binary(max_size=200),
)
COMPRESSED_STREAMS = st.lists(st.one_of(LEGAL, FRAGMENTS, COMPRESSED, COMPRESSED, MUTANTS), max_size=8).map(
    _encoded
)


@st.composite
def pieces(draw: st.DrawFn, streams: st.SearchStrategy[bytes] = STREAMS) -> list[bytes]:
    """Return a stream, cut anywhere."""
    stream = draw(streams)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=6)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
