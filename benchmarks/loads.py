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
    turns: int = 9
    """Samples of each room in one run, by turns with those of other systems; each has a share of ``sample_cpu_s``."""
    log_entries: int = 500
    """Length of the log that many clients come back to at once …"""
    storm_missed: int = 10
    """… and how many entries of it each has missed."""
    missed: int = 50
    """Messages that are sent while clients are away …"""
    away_s: float = 5.0
    """… for this long."""
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
    turns=1,
    away_s=0.5,
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
    turns=1,
    log_entries=50,
    storm_missed=2,
    missed=5,
    away_s=0.1,
    settle_s=0.1,
    sample_cpu_s=0.0,
    sample_wall_s=1.0,
)
LOADS = {"full": FULL, "quick": QUICK, "tiny": TINY}
