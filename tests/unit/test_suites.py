"""The verdict on a run of a foreign test suite."""

from pathlib import Path

from tests.suites import judge
from tests.suites.judge import Difference, Rank, violations

KNOWN = Difference("test_b", frozenset({"plain"}), "looks at a private name")
STOCK = {"t.py::test_a": Rank.PASSED, "t.py::test_b[x]": Rank.PASSED, "t.py::test_b[y]": Rank.PASSED}
AS_LISTED = {**STOCK, "t.py::test_b[x]": Rank.FAILED, "t.py::test_b[y]": Rank.FAILED}


def test_listed_failures_violate_nothing() -> None:
    assert violations(STOCK, AS_LISTED, [KNOWN]) == []


def test_failure_that_stock_does_not_have_is_a_violation() -> None:
    found = violations(STOCK, {**AS_LISTED, "t.py::test_a": Rank.FAILED}, [KNOWN])
    assert found == ["t.py::test_a: worse than with uvicorn's class"]


def test_missing_result_is_a_failure() -> None:
    ours = {name: rank for name, rank in AS_LISTED.items() if "test_a" not in name}
    assert violations(STOCK, ours, [KNOWN]) == ["t.py::test_a: worse than with uvicorn's class"]


def test_failure_that_stock_has_is_no_violation() -> None:
    worse = {"t.py::test_a": Rank.FAILED}
    assert violations({**STOCK, **worse}, {**AS_LISTED, **worse}, [KNOWN]) == []


def test_lower_rank_is_a_violation() -> None:
    assert violations({"9.3.1": Rank.PASSED}, {"9.3.1": Rank.TOLERATED}, []) != []


def test_listed_test_that_passes_is_stale() -> None:
    found = violations(STOCK, {**AS_LISTED, "t.py::test_b[y]": Rank.PASSED}, [KNOWN])
    assert found == ["t.py::test_b[y]: passes, but is listed"]


def test_listed_test_that_the_suite_does_not_have_is_stale() -> None:
    gone = Difference("test_gone", frozenset({"plain"}), "was renamed")
    assert violations(STOCK, AS_LISTED, [KNOWN, gone]) == ["test_gone: listed, but not in the suite"]


def test_every_known_difference_has_a_reason_and_a_way() -> None:
    known = judge.load_differences(Path(judge.__file__).with_name("differences.toml"))
    assert [each.test for each in known if not each.reason or not each.ways] == []
