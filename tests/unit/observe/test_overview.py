"""The window of the overview: rates over the last minute, and none over a moment."""

from dataclasses import replace

from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.observe.overview import LEAST_S, WINDOW_S, Watch, ends_of, totals_of
from fastapi_websocket_stabilizer.observe.report import report_of
from fastapi_websocket_stabilizer.registry.telemetry import Sample, Scrape

NODE = Sample(
    0, NodeId("a1b2"), 1, "web-1", "2.0.0", 0.0, {"connections_opened": 100, "closed:slow": 7},
    {"connections": 30.0, "ready": 1.0, "rooms": 2.0, "outbox_bytes": 5.0}, {},
)  # fmt: skip


def opened(count: int) -> list[Sample]:
    return [replace(NODE, totals={"connections_opened": 100 + count, "closed:slow": 7 + count // 10})]


def test_first_look_has_no_rates() -> None:
    look = Watch().look(Scrape([NODE], 0), 10.0)
    assert (look.rate(NODE, "connections_opened_total"), ends_of(look)) == (0.0, {})


def test_burst_of_a_moment_is_no_storm() -> None:
    watch = Watch()
    watch.look(Scrape([NODE], 0), 10.0)
    look = watch.look(Scrape(opened(50), 0), 10.01)
    assert look.all_rate("connections_opened_total") == 50 / LEAST_S
    assert "ReconnectStorm" not in [problem.name for problem in report_of("fws", look).problems]


def test_window_is_the_last_minute() -> None:
    watch = Watch()
    for second in range(0, 200, 2):
        look = watch.look(Scrape(opened(second), 0), float(second))
    assert WINDOW_S <= look.seconds < WINDOW_S + 10
    assert look.all_rate("connections_opened_total") == 1.0
    assert len(watch._looks) < 20


def test_look_after_a_pause_is_compared_with_itself() -> None:
    watch = Watch()
    watch.look(Scrape([NODE], 0), 0.0)
    watch.look(Scrape([NODE], 0), 30.0)
    look = watch.look(Scrape(opened(90), 0), 3600.0)
    assert look.increase(look.nodes[0], "connections_opened_total") == 0
    look = watch.look(Scrape(opened(390), 0), 3610.0)
    assert look.all_rate("connections_opened_total") == 30.0


def test_totals_and_ends_are_sums_over_nodes() -> None:
    watch, other = Watch(), replace(NODE, node=NodeId("c3d4"), gauges={"connections": 10.0})
    watch.look(Scrape([NODE, other], 0), 0.0)
    now = [*opened(60), replace(other, totals={"connections_opened": 100, "closed:slow": 9})]
    look = watch.look(Scrape(now, 0), 60.0)
    totals = totals_of(report_of("fws", look))
    assert (totals.nodes, totals.ready, totals.connections, totals.rooms) == (2, 1, 40, 2)
    assert (totals.opened_per_s, totals.outbox_bytes) == (1.0, 5)
    assert ends_of(look) == {"slow": 8}
