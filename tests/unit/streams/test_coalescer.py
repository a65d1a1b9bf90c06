"""The messages of a stream: readers get exactly what was written, in few messages of bounded size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastapi_websocket_stabilizer.streams.coalescer import INTERVAL_S, LEAST_PART_BYTES, Coalescer, Part

TEXTS = st.text(max_size=40)
LIMIT = 8


def size(text: str) -> int:
    return len(text.encode())


def begun(limit: int = LIMIT) -> Coalescer:
    """Return a stream that was announced at the time 0."""
    coalescer = Coalescer(limit)
    assert coalescer.take(0.0) == Part(0, "")
    coalescer.left()
    return coalescer


def written(coalescer: Coalescer, *texts: str) -> None:
    for text in texts:
        coalescer.write(text, size(text))


def sent(coalescer: Coalescer, now_s: float) -> Part | None:
    part = coalescer.take(now_s)
    if part is not None:
        coalescer.left()
    return part


class StreamMachine(RuleBasedStateMachine):
    """A writer, a network that takes its time, and a reader that keeps every message."""

    @initialize(limit=st.integers(LEAST_PART_BYTES, 30))
    def open(self, limit: int) -> None:
        self.limit, self.coalescer = limit, Coalescer(limit)
        self.now_s = 1_000.0
        self.written, self.has_ended, self.code = "", False, ""
        self.parts: list[tuple[float, Part]] = []
        self.pieces: list[str] = []
        self.early: list[tuple[Part, str]] = []
        self.is_sending = False

    @precondition(lambda self: not self.has_ended)
    @rule(text=TEXTS)
    def write(self, text: str) -> None:
        before = self.coalescer.due_at_s
        may_have_changed = self.coalescer.write(text, size(text))
        assert may_have_changed or self.coalescer.due_at_s == before
        self.written += text
        self.pieces += [text] if text else []

    @rule(seconds=st.floats(0, 0.2))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def take(self) -> None:
        part = self.coalescer.take(self.now_s)
        assert part is None or not self.is_sending
        if part is not None:
            if self.parts and self.now_s - self.parts[-1][0] < INTERVAL_S - 1e-9 and not self.has_ended:
                self.early.append((part, self.next_piece(len(self.read() + part.text))))
            self.parts.append((self.now_s, part))
            self.is_sending = True

    def read(self) -> str:
        return "".join(part.text for _, part in self.parts)

    def next_piece(self, read: int) -> str:
        """Return the piece that was written behind the first ``read`` characters, or what is left of it."""
        for piece in self.pieces:
            if read < len(piece):
                return piece[read:]
            read -= len(piece)
        return ""

    @precondition(lambda self: self.is_sending)
    @rule()
    def leave(self) -> None:
        self.coalescer.left()
        self.is_sending = False

    @precondition(lambda self: not self.has_ended)
    @rule(code=st.sampled_from(["", "failed", "cancelled"]))
    def end(self, code: str) -> None:
        self.coalescer.end(code)
        self.has_ended, self.code = True, code

    @invariant()
    def numbers_rise_by_one(self) -> None:
        assert [part.number for _, part in self.parts] == list(range(len(self.parts)))

    @invariant()
    def reader_has_a_beginning_of_what_was_written(self) -> None:
        assert self.written.startswith(self.read())

    @invariant()
    def no_message_is_larger_than_the_limit(self) -> None:
        assert all(size(part.text) <= self.limit for _, part in self.parts)

    @invariant()
    def unsent_bytes_are_those_that_have_not_left(self) -> None:
        left = self.parts[:-1] if self.is_sending else self.parts
        assert self.coalescer.unsent_bytes == size(self.written) - sum(size(part.text) for _, part in left)

    @invariant()
    def only_full_messages_leave_before_an_interval_has_passed(self) -> None:
        """A message is full if the next piece, or the next character of a long one, would exceed the limit."""
        for part, following in self.early:
            has_no_room = size(part.text + following) > self.limit or size(part.text) == self.limit
            assert has_no_room, (part, following)

    @invariant()
    def last_message_alone_has_the_end(self) -> None:
        ends = [part for _, part in self.parts if part.is_last]
        assert ends == ([self.parts[-1][1]] if ends else [])
        assert not ends or (self.read(), ends[0].error) == (self.written, self.code)
        assert self.coalescer.is_over == (bool(ends) and not self.is_sending)

    def teardown(self) -> None:
        """Whatever has happened, the rest and the end leave without waiting for a clock."""
        if not self.has_ended:
            self.end("")
        if self.is_sending:
            self.leave()
        while not self.coalescer.is_over:
            before = len(self.parts)
            self.take()
            assert len(self.parts) == before + 1
            self.leave()
        self.last_message_alone_has_the_end()
        assert self.parts[-1][1].is_last
        assert self.coalescer.take(self.now_s + 1) is None


TestStreams = StreamMachine.TestCase


def test_first_piece_after_a_pause_leaves_at_once() -> None:
    coalescer = begun()
    written(coalescer, "a")
    assert sent(coalescer, 1.0) == Part(1, "a")


def test_pieces_within_an_interval_are_one_message() -> None:
    coalescer = begun()
    written(coalescer, "a", "b", "c")
    assert coalescer.due_at_s == INTERVAL_S
    assert sent(coalescer, INTERVAL_S - 0.001) is None
    assert sent(coalescer, INTERVAL_S) == Part(1, "abc")


def test_writer_of_a_thousand_small_pieces_a_second_sends_twenty_messages() -> None:
    coalescer = begun(limit=1 << 14)
    parts = []
    for millisecond in range(1, 1001):
        written(coalescer, "token")
        parts.append(sent(coalescer, millisecond / 1000))
    assert len([part for part in parts if part]) in (19, 20)


def test_piece_that_does_not_fit_sends_those_before_it_at_once() -> None:
    coalescer = begun()
    written(coalescer, "12345", "67890")
    assert sent(coalescer, 0.0) == Part(1, "12345")
    assert sent(coalescer, 0.0) is None
    assert sent(coalescer, INTERVAL_S) == Part(2, "67890")


def test_full_message_leaves_at_once() -> None:
    coalescer = begun()
    written(coalescer, "1234", "5678")
    assert sent(coalescer, 0.0) == Part(1, "12345678")


@given(text=st.text(min_size=5, max_size=200), limit=st.integers(LEAST_PART_BYTES, 30))
def test_long_piece_is_split_between_characters(text: str, limit: int) -> None:
    coalescer = begun(limit)
    written(coalescer, text)
    parts, now_s = [], 1.0
    while part := sent(coalescer, now_s):
        parts.append(part.text)
        now_s += 1.0
    assert "".join(parts) == text
    assert all(limit - 3 <= size(part) <= limit for part in parts[:-1])


def test_nothing_leaves_beside_a_message_in_progress() -> None:
    coalescer = begun()
    written(coalescer, "a")
    assert coalescer.take(1.0) == Part(1, "a")
    written(coalescer, "0123456789")
    coalescer.end()
    assert (coalescer.due_at_s, coalescer.take(2.0)) == (None, None)
    coalescer.left()
    assert sent(coalescer, 2.0) == Part(2, "01234567")


def test_end_of_an_empty_stream_has_no_text() -> None:
    coalescer = begun()
    coalescer.end()
    assert sent(coalescer, 0.0) == Part(1, "", is_last=True)


def test_dropped_text_is_not_sent_and_not_counted() -> None:
    coalescer = begun()
    written(coalescer, "a")
    coalescer.take(1.0)
    written(coalescer, "0123456789", "b")
    coalescer.drop()
    assert coalescer.unsent_bytes == 1
    coalescer.left()
    assert (coalescer.unsent_bytes, coalescer.due_at_s) == (0, None)
    coalescer.end("failed")
    assert sent(coalescer, 1.0) == Part(2, "", is_last=True, error="failed")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(0, ""), {"stream": "s", "seq": 0, "text": ""}),
        (Part(1, "a"), {"stream": "s", "seq": 1, "text": "a"}),
        (Part(2, "", is_last=True), {"stream": "s", "seq": 2, "text": "", "end": True}),
        (
            Part(3, "b", is_last=True, error="failed"),
            {"stream": "s", "seq": 3, "text": "b", "end": True, "error": "failed"},
        ),
    ],
)
def test_message_has_what_a_reader_needs(part: Part, message: dict[str, object]) -> None:
    assert part.message("s") == message
