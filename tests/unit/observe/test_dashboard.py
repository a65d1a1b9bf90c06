"""The dashboard has metrics of the catalog, and panels that do not cover one another."""

import json
import re
from itertools import combinations
from typing import Any

import pytest

from fastapi_websocket_stabilizer.observe.catalog import METRICS, OF_SCRAPE
from fastapi_websocket_stabilizer.observe.dashboard import ROWS, as_json

DASHBOARD = json.loads(as_json())


def all_panels() -> list[dict[str, Any]]:
    return [each for panel in DASHBOARD["panels"] for each in (panel, *panel.get("panels", ()))]


EXPRESSIONS = [target["expr"] for panel in all_panels() for target in panel.get("targets", ())]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_has_metrics_and_labels_of_the_catalog(expression: str) -> None:
    known = {metric.full_name: metric for metric in (*METRICS, *OF_SCRAPE)}
    for name in re.findall(r"stabilizer_\w+", expression):
        metric = known.get(name) or known[re.sub("_bucket$", "", name)]
        by = set(re.findall(r"by \(([^)]*)\)", expression)[0].split(", ")) if " by (" in expression else set()
        assert by <= {"registry", "instance", "worker", "le", metric.label}


def test_panels_have_ids_of_their_own_and_do_not_cover_one_another() -> None:
    panels = all_panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        is_apart = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
        assert is_apart, (one, other)
        assert one["x"] + one["w"] <= 24


def test_first_three_rows_are_open() -> None:
    rows = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert [row["title"] for row in rows] == list(ROWS)
    assert [row["collapsed"] for row in rows] == [False] * 3 + [True] * (len(ROWS) - 3)
