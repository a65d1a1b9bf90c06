"""Each fault of the matrix fires the alerts that it must, and no other.

The faults are those of ``tests/guarantees``: real processes, servers and sockets. The rules are looked at ten times a
second. Prometheus and the page look less often, so they may miss what lasts for less than a beat.
"""

import re
from pathlib import Path

import pytest

from tests.guarantees import one_server, several_servers  # noqa: F401 - both fill ROWS
from tests.guarantees.rows import ROWS
from tests.guarantees.watch import Alerts
from tests.support.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
LEASE_S = 3.0
AWAY = {"NodeDeaf", "BusLost", "LeaseLost", "NodeLost"}
"""What may follow if Redis or the network is away for about a lease, or until the next beat has noticed that."""
EXPECTED: dict[str, tuple[set[str], set[str]]] = {
    "replica-killed": ({"NodeLost"}, set()),
    "replica-frozen": ({"LeaseLost", "NodeLost"}, {"BusLost"}),
    "replica-blocked": ({"LeaseLost"}, {"NodeLost", "BusLost"}),
    "all-replicas-killed": ({"NodeLost"}, set()),
    "redis-restarted-empty": ({"RedisFailing", "BusLost", "LeaseLost"}, AWAY),
    "redis-flushed": ({"LeaseLost"}, set()),
    "redis-frozen": ({"RedisFailing", "LeaseLost"}, AWAY),
    "bus-killed": ({"BusLost"}, {"NodeDeaf"}),
    "network-cut": ({"RedisFailing", "BusLost"}, AWAY),
    "network-black-hole": ({"RedisFailing", "BusLost", "LeaseLost"}, AWAY),
    "remote-send-while-redis-is-frozen": ({"RedisFailing"}, AWAY),
    "local-send-while-redis-is-frozen": (set(), set()),
    "client-that-does-not-read": ({"SlowConsumers"}, {"ClosedByTrouble"}),
    "replica-drained": ({"DrainStuck"}, {"NodeLost"}),  # the trial ends with a kill
    "sentinel-primary-killed": ({"RedisFailing", "BusLost"}, AWAY),
    "sentinel-primary-frozen": ({"RedisFailing"}, AWAY),
    "sentinel-failover": (set(), {"RedisFailing", *AWAY}),
    "cluster-primary-of-leases-killed": ({"RedisFailing"}, AWAY),
    "cluster-primary-of-broadcasts-killed": ({"RedisFailing", "BusLost"}, AWAY),
    "cluster-primary-flushed": (set(), {"LeaseLost"}),  # if it is the primary of the leases
    "cluster-slot-moved": (set(), {"BusLost", "NodeDeaf"}),
}
"""The alerts that each fault must fire, and those that it may."""


def test_every_fault_of_the_matrix_has_its_alerts_also_on_the_page() -> None:
    assert set(EXPECTED) == set(ROWS)
    for name, (must, may) in EXPECTED.items():
        (line,) = re.findall(rf"^\| `{name}` \|(.*)\|(.*)\|$", PAGE.read_text(), re.MULTILINE)
        on_page = [set(re.findall(r"[A-Z]\w+", cell)) for cell in line]
        assert on_page == [must, may - must], name


@pytest.mark.later
@pytest.mark.parametrize("name", ROWS)
async def test_fault_fires_its_alerts_and_no_other(name: str) -> None:
    row, (must, may) = ROWS[name], EXPECTED[name]
    async with row.world.open(LEASE_S, 0.3 * LEASE_S) as world, Alerts.during(world) as alerts:
        await row.trial(world)
        # An end is counted when the socket is closed, which may be later than all that the trial waits for.
        await eventually(lambda: must <= set(alerts.found), 10, what=f"{must}, found {alerts.found}")
    found = set(alerts.found)
    print(f"{name}: {', '.join(sorted(found)) or 'none'}")
    assert must <= found <= must | may, alerts.found
