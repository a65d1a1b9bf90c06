"""The capacity plan: its formulae where they can be checked by hand."""

import pytest
from benchmarks import capacity
from benchmarks.capacity import Bounds, Costs, Load, plan, replicas_with_members

IDLE = Load(1000, broadcasts=0, room_messages=0, direct_messages=0, reconnects=0)


def test_idle_connections_cost_memory_and_pings_only() -> None:
    costs = Costs(connection_kib=10, replica_mib=50, idle_us=100)
    found = plan(IDLE, costs, Bounds())
    assert (found.replicas, found.primaries, found.deliveries, found.redis_share) == (1, 1, 0, 0)
    assert found.cpu_share == pytest.approx(0.1)
    assert found.replica_mib == pytest.approx(50 + 1000 * 10 / 1024)


@pytest.mark.parametrize(
    ("replicas", "size", "hearing"), [(1, 10, 1.0), (4, 1, 1.0), (2, 2, 1.5), (10, 1e6, 10.0)]
)
def test_replicas_that_hear_a_room(replicas: int, size: float, hearing: float) -> None:
    assert replicas_with_members(replicas, size) == pytest.approx(hearing)


def test_replicas_are_added_until_each_has_room_to_breathe() -> None:
    for connections in (10_000, 1_000_000):
        found = plan(Load(connections), Costs(), Bounds(cpu_share=0.5))
        assert found.cpu_share <= 0.5
        assert connections / found.replicas <= Bounds().connections_per_replica


def test_load_that_no_number_of_replicas_carries_is_refused() -> None:
    with pytest.raises(ValueError, match="broadcasts a second fill a core"):
        plan(Load(10, broadcasts=1e6), Costs(), Bounds())


def test_table_has_a_row_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    capacity.main(["1000", "2000", "--broadcasts", "0", "--connections-per-replica", "500"])
    rows = capsys.readouterr().out.strip().splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["1,000", "2,000"]
    assert [row.split("|")[3].strip() for row in rows[2:]] == ["2", "4"]
