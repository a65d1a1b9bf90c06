"""Open requests: numbered, bounded, and ended exactly once, whatever happens in whatever order."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastapi_websocket_stabilizer.local.requests import (
    MAX_OPEN_REQUESTS,
    Answering,
    Asked,
    FirstAnswer,
    Outcome,
    Unanswered,
)
from fastapi_websocket_stabilizer.wire.client_input import Answer, ErrorAnswer

TIMES = st.floats(0, 10)
NUMBERS = st.integers(0, 80)
MAX_BYTES = 1000
STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "answer", "cancel", "expire", "end"]), NUMBERS), max_size=3
)
"""What a function that learns of an outcome does at once, with the machine that has called it."""


@dataclass(eq=False)
class Question:
    """A request as its caller knows it.

    Attributes:
        had_number: The number was returned, so that an outcome that comes earlier is told from a later one.
    """

    deadline_s: float
    number: int | None = None
    outcomes: list[Outcome] = field(default_factory=list)


class AskedMachine(RuleBasedStateMachine):
    """Each request has one outcome, and the one that its first event gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = Asked()
        self.questions: list[Question] = []
        self.now_s = 0.0
        self.has_ended = False
        self.told: list[int] = []

    def ask(self, deadline_s: float, steps: list[tuple[str, int]]) -> None:
        question = Question(deadline_s)
        is_full = len(self.open()) >= MAX_OPEN_REQUESTS
        self.questions.append(question)

        def resolve(outcome: Outcome) -> None:
            question.outcomes.append(outcome)
            for step, number in steps:
                self.act(step, number)

        had_ended = self.has_ended
        number = self.asked.ask(resolve, deadline_s)
        if had_ended or is_full:
            assert number is None
            assert question.outcomes == [Unanswered.ENDED if had_ended else Unanswered.LIMIT]
        else:
            assert number == 1 + max((q.number or 0 for q in self.questions), default=0)
            question.number = number

    def act(self, step: str, number: int) -> None:
        match step:
            case "ask":
                self.ask(self.now_s + number, [])
            case "answer":
                answer = Answer(number, "yes") if number % 2 else ErrorAnswer(number, "no", "no")
                self.end_one(number, answer, lambda: self.asked.answered(answer))
            case "cancel":
                self.end_one(number, Unanswered.CANCELLED, lambda: self.asked.cancel(number), tell=True)
            case "expire":
                self.expire()
            case "end":
                self.has_ended = True
                self.asked.end()

    def end_one(self, number: int, outcome: Outcome, call: Callable[[], bool], *, tell: bool = False) -> None:
        waiting = [q for q in self.open() if q.number == number]
        assert call() == bool(waiting)
        for question in waiting:
            assert question.outcomes == [outcome]
            if tell:
                self.told.append(number)

    def expire(self) -> None:
        late = {q.number for q in self.open() if q.deadline_s <= self.now_s}
        expired = self.asked.expire(self.now_s)
        assert set(expired) <= late
        self.told += expired
        for question in self.questions:
            if question.number in late:
                assert len(question.outcomes) == 1

    def open(self) -> list[Question]:
        return [q for q in self.questions if q.number is not None and not q.outcomes]

    @rule(wait_s=TIMES, steps=STEPS)
    def ask_one(self, wait_s: float, steps: list[tuple[str, int]]) -> None:
        self.ask(self.now_s + wait_s, steps)

    @rule(wait_s=TIMES)
    def ask_as_many_as_there_may_be(self, wait_s: float) -> None:
        for _ in range(MAX_OPEN_REQUESTS + 1):
            self.ask(self.now_s + wait_s, [])

    @rule(step=st.sampled_from(["answer", "cancel"]), number=NUMBERS)
    def act_on_one(self, step: str, number: int) -> None:
        self.act(step, number)

    @rule(seconds=TIMES)
    def let_time_pass(self, seconds: float) -> None:
        self.now_s += seconds
        self.expire()

    @precondition(lambda self: len(self.questions) > 5)
    @rule()
    def end(self) -> None:
        self.act("end", 0)
        assert self.open() == []

    @invariant()
    def every_request_has_at_most_one_outcome(self) -> None:
        assert all(len(q.outcomes) <= 1 for q in self.questions)

    @invariant()
    def open_requests_are_bounded_and_have_the_next_deadline(self) -> None:
        assert len(self.open()) <= MAX_OPEN_REQUESTS
        assert self.asked.deadline_s == min((q.deadline_s for q in self.open()), default=None)

    @invariant()
    def client_is_told_once_of_those_that_it_need_not_answer(self) -> None:
        silent = (Unanswered.CANCELLED, Unanswered.TIMEOUT)
        unwanted = [q.number for q in self.questions if q.outcomes and q.outcomes[0] in silent]
        assert sorted(self.told) == sorted(number for number in unwanted if number is not None)

    def teardown(self) -> None:
        self.act("end", 0)
        assert all(len(q.outcomes) == 1 for q in self.questions)


@dataclass(eq=False)
class Task:
    """The work of a request of the client. ``react`` is called in its cancellation."""

    number: int
    size: int = 0
    react: Callable[["Task"], None] = lambda _: None
    cancels: int = 0
    has_ended: bool = False
    is_answered: bool = False

    def cancel(self) -> None:
        self.cancels += 1
        self.react(self)


class AnsweringMachine(RuleBasedStateMachine):
    """Each request of the client is answered, refused, or cancelled once. Unfinished work is bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.answering = Answering()
        self.works: list[Task] = []
        self.has_ended = False

    @rule(
        number=st.integers(1, 90),
        size=st.sampled_from([0, 1, MAX_BYTES // 3, MAX_BYTES]),
        steps=st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=2),
    )
    def request(self, number: int, size: int, steps: list[tuple[bool, int]]) -> None:
        fault = self.answering.refusal(number, MAX_BYTES)
        is_repeated = any(work.number == number for work in self.awaited())
        unfinished = [work.size for work in self.works if not work.has_ended]
        is_full = len(unfinished) >= MAX_OPEN_REQUESTS or sum(unfinished) >= MAX_BYTES
        assert (fault.code if fault else None) == ("invalid" if is_repeated else "limit" if is_full else None)
        if fault is not None:
            return

        def react(work: Task) -> None:
            for is_cancel, other in steps:
                if is_cancel:
                    self.cancel(other)
                else:
                    self.finish_one(work)

        work = Task(number, size, react)
        self.works.append(work)
        self.answering.begin(number, work, size)
        assert work.cancels == self.has_ended

    @rule(numbers=st.sets(st.integers(1, 90)))
    def request_many(self, numbers: set[int]) -> None:
        for number in numbers:
            self.request(number, 0, [])

    @rule(number=st.integers(1, 90))
    def cancel(self, number: int) -> None:
        waiting = [work for work in self.awaited() if work.number == number]
        assert self.answering.cancel(number) == bool(waiting)
        assert all(work.cancels == 1 for work in waiting)

    @rule(index=st.integers(0, 500))
    def finish(self, index: int) -> None:
        unfinished = [work for work in self.works if not work.has_ended]
        if unfinished:
            self.finish_one(unfinished[index % len(unfinished)])

    def finish_one(self, work: Task) -> None:
        if not work.has_ended:
            work.has_ended = True
            work.is_answered = self.answering.finish(work.number, work)
            assert work.is_answered == (work.cancels == 0)

    @precondition(lambda self: len(self.works) > 20)
    @rule()
    def end(self) -> None:
        self.has_ended = True
        self.answering.end()
        assert self.awaited() == []

    def awaited(self) -> list[Task]:
        return [work for work in self.works if not work.cancels and not work.has_ended]

    @invariant()
    def every_request_is_answered_or_cancelled_at_most_once(self) -> None:
        assert all(work.cancels + work.is_answered <= 1 for work in self.works)

    @invariant()
    def unfinished_work_is_bounded(self) -> None:
        assert len(self.answering) == sum(not work.has_ended for work in self.works) <= MAX_OPEN_REQUESTS

    def teardown(self) -> None:
        self.end()
        for work in self.works:
            self.finish_one(work)
        assert all(work.cancels + work.is_answered == 1 for work in self.works)
        assert len(self.answering) == 0


TestAsked = AskedMachine.TestCase
TestAsked.settings = settings(stateful_step_count=40)
TestAnswering = AnsweringMachine.TestCase
TestAnswering.settings = settings(stateful_step_count=40)


def test_number_can_be_used_again_while_cancelled_work_is_slow_to_stop() -> None:
    answering, first, second = Answering(), Task(1), Task(1)
    answering.begin(1, first, 1)
    assert answering.cancel(1)
    assert answering.refusal(1, MAX_BYTES) is None
    answering.begin(1, second, 1)
    assert (answering.finish(1, first), answering.finish(1, second)) == (False, True)
    assert (first.cancels, second.cancels) == (1, 0)


@pytest.mark.parametrize(
    ("sizes", "number", "code"),
    [([0], 0, "invalid"), ([0] * MAX_OPEN_REQUESTS, 100, "limit"), ([1, MAX_BYTES - 1], 100, "limit")],
)
def test_refusals_name_the_reason(sizes: list[int], number: int, code: str) -> None:
    answering = Answering()
    for open_number, size in enumerate(sizes):
        answering.begin(open_number, Task(open_number), size)
    fault = answering.refusal(number, MAX_BYTES)
    assert fault is not None
    assert (fault.code, fault.is_temporary) == (code, code == "limit")


# The first answer

OUTCOMES = st.one_of(
    st.builds(Answer, st.integers(1, 9), st.text(max_size=1)),
    st.builds(ErrorAnswer, st.integers(1, 9), st.just("no"), st.just("no")),
    st.sampled_from(Unanswered),
)


@given(outcomes=st.lists(st.tuples(OUTCOMES, st.booleans()), max_size=6))
def test_first_answer_counts_and_without_one_it_is_over_when_all_have_failed(
    outcomes: list[tuple[Outcome, bool]],
) -> None:
    """Some outcomes come before the next socket is asked."""
    ends: list[int] = []
    race = FirstAnswer(lambda: ends.append(1))
    early = [outcome for outcome, is_early in outcomes if is_early]
    late = [(race.expect(), outcome) for outcome, is_early in outcomes if not is_early]
    for outcome in early:
        race.expect()(outcome)
        assert race.is_over == bool(ends) == (race.answer is not None)
    race.all_asked()
    for resolve, outcome in late:
        resolve(outcome)
    in_order = [*early, *(outcome for _, outcome in late)]
    answers = [outcome for outcome in in_order if not isinstance(outcome, Unanswered)]
    assert ends == [1]
    assert race.is_over
    assert race.answer == (answers[0] if answers else None)
    if not answers:
        assert race.reasons == {Unanswered.ABSENT, *in_order}


@given(outcomes=st.lists(OUTCOMES, min_size=1, max_size=3))
def test_without_the_last_outcome_it_is_over_only_with_an_answer(outcomes: list[Outcome]) -> None:
    race = FirstAnswer(lambda: None)
    resolves = [race.expect() for _ in range(len(outcomes) + 1)]
    race.all_asked()
    for resolve, outcome in zip(resolves, outcomes, strict=False):
        resolve(outcome)
    assert race.is_over == any(not isinstance(outcome, Unanswered) for outcome in outcomes)
