"""How much is done: the full load, a quick one to see that everything works, a tiny one for the tests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """Sizes of all measures."""

    runs: int = 3
    clients: int = 1000
    broadcasts: int = 200
    in_flight: int = 20
    awaited: int = 20
    paced_rate: int = 20
    paced_s: int = 6
    direct_clients: int = 500
    direct_rounds: int = 10
    direct_in_flight: int = 50
    memory_clients: int = 2000
    large_clients: int = 10_000
    large_broadcasts: int = 40
    json_broadcasts: int = 20
    idle_s: float = 30.0
    """One heartbeat of every connection falls into it."""
    growth_clients: tuple[int, ...] = (100, 1000, 5000, 10_000)
    growth_replicas: tuple[int, ...] = (1, 2, 4)
    settle_s: float = 1.0
    sample_cpu_s: float = 1.0
    """A sample of a rate is repeated until the servers have used this much CPU …"""
    sample_wall_s: float = 12.0
    """… or this long has passed."""


FULL = Load()
QUICK = Load(
    runs=1,
    clients=200,
    broadcasts=100,
    paced_s=1,
    direct_clients=100,
    direct_rounds=3,
    memory_clients=300,
    large_clients=1000,
    idle_s=2.0,
    growth_clients=(100, 400),
    growth_replicas=(1, 2),
    settle_s=0.3,
    sample_cpu_s=0.1,
    sample_wall_s=2.0,
)
TINY = Load(
    runs=1,
    clients=20,
    broadcasts=20,
    awaited=5,
    paced_s=1,
    direct_clients=10,
    direct_rounds=1,
    memory_clients=20,
    large_clients=20,
    large_broadcasts=5,
    json_broadcasts=3,
    idle_s=0.2,
    growth_clients=(20,),
    growth_replicas=(2,),
    settle_s=0.1,
    sample_cpu_s=0.0,
    sample_wall_s=1.0,
)
LOADS = {"full": FULL, "quick": QUICK, "tiny": TINY}
