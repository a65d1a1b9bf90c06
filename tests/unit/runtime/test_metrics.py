"""Counters and durations."""

import dataclasses
import re

import pytest

from fastapi_websocket_stabilizer.runtime.metrics import Counters, Histogram, Timing, totals


def test_every_counter_begins_at_nothing() -> None:
    assert set(totals(Counters()).values()) == {0}


def test_totals_name_every_counter() -> None:
    counters = Counters(broadcasts=3, bus_lost=2)
    assert list(totals(counters)) == [counter.name for counter in dataclasses.fields(Counters)]
    assert totals(counters) == totals(Counters()) | {"broadcasts": 3, "bus_lost": 2}


@pytest.mark.parametrize("counter", dataclasses.fields(Counters), ids=lambda counter: str(counter.name))
def test_help_of_a_counter_is_one_line(counter: "dataclasses.Field[int]") -> None:
    """Exporters show it as it is, and not every format takes a line break."""
    text = counter.metadata["help"]
    assert re.fullmatch(r"[A-Z][^\n\\]{8,110}\.", text)
    assert len(text.split()) <= 25


def test_totals_are_a_copy() -> None:
    counters = Counters()
    before = totals(counters)
    counters.broadcasts += 1
    assert before["broadcasts"] == 0


def test_misspelt_counter_is_an_error() -> None:
    with pytest.raises(AttributeError):
        Counters().broadcast = 1  # type: ignore[attr-defined]


def test_histogram_keeps_count_sum_and_maximum() -> None:
    durations = Histogram((1,))
    for seconds in (0.5, 2.0, 1.0):
        durations.add(seconds)
    assert durations.snapshot() == Timing(count=3, total_s=3.5, max_s=2.0)


def test_bucket_has_what_is_at_most_its_bound() -> None:
    durations = Histogram((0.1, 1))
    for seconds in (0.0, 0.1, 0.1000001, 1.0, 1.5, 99.0):
        durations.add(seconds)
    assert durations.counts == [2, 2, 2]


def test_histogram_that_never_ran_is_all_zero() -> None:
    assert Histogram(()).snapshot() == Timing(0, 0.0, 0.0)


def test_snapshot_does_not_change_any_more() -> None:
    durations = Histogram((1,))
    before = durations.snapshot()
    durations.add(1.0)
    assert before == Timing()
