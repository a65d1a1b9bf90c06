"""``docs/guarantees.md``: promises, measurements, and the limits of the promises."""

import statistics
import textwrap

from tests.support.clusters import NODE_TIMEOUT_MS
from tests.support.sentinels import DOWN_AFTER_MS

from .resumes import Counts, table
from .rows import ROWS

Results = dict[str, dict[str, list[float]]]
"""Seconds of every trial, by row and by the event that ends the measurement."""

ABOUT = (
    "`python -m tests.guarantees --output docs/guarantees.md` injects each of these faults into real processes and "
    "writes this page. Two replicas with {clients} clients each share a Redis of their own, with a lease of "
    "{lease_s:g} s and beats of {beat_s:g} s. Times are counted from the fault, or from its end if it has one. "
    '"Reached" means that every client received a broadcast of each replica. Sentinels consider a server down after '
    "{sentinel_s:g} s, the servers of a cluster after {cluster_s:g} s. The time that Redis takes to promote another "
    "server has a row of its own. `python -m tests.guarantees --only NAME` repeats a row, and `--lease 2` measures a "
    "shorter lease."
)

BEGINNING = """# Guarantees when something breaks

{about}

| `--only` | fault | promise | measured until | median | worst | trials |
|---|---|---|---|---|---|---|
"""

ENDING = """
## What is not promised

- **Delivery.** A message is written at most once. It is lost if Redis, the network or the replica that holds the
  client fails while it is in flight. `on_bus_gap` and `statistics().counters` (`bus_gaps`, `bus_lost`) show that
  messages were lost, but not which clients missed them. A client that is away receives nothing. Stored messages reach
  clients of `stabilizer.v1` all the same, as the table of resumes shows.
- **A log that was empty.** A client of `stabilizer.v1` has no entry of a log that was empty when it left the room.
  Messages were stored, Redis lost its content, and the client came back to other rooms. When it comes back to this
  one, it is not told of the loss.
- **Consensus.** Redis replication is asynchronous, so a failover can lose the last claims. Stamps and repeated
  claims repair that: once everything has settled, the client belongs to the socket that claimed last.
- **Exactly one hook call.** A presence event is reported once. It is reported again, with the same `event_id`, only
  in two cases. The reporting process died or was cut off from Redis before it confirmed the report, or Redis has
  just lost its content.
- **A leave that Redis lost.** If Redis loses its content while a replica is dead and not swept yet, no record of
  that replica's clients remains. Their leaves are not reported.
- **One order for all while Redis is away.** Messages that a replica then delivers only to its own clients have
  another place among the messages of the other replicas. Each manager's messages keep their order.
- **A token once, if Redis loses the redemption.** A Redis that returns from a snapshot, or a promoted replica of
  it, may have the record of a redeemed token again. The replica that redeemed the token refuses it at once, and
  deletes the record again with its next beat. Until then another replica may redeem it. If that replica has ended,
  the token can be redeemed once more within its lifetime. `appendfsync always` leaves no such record.
- **A Redis whose clock steps back** while a replica is frozen for longer than its lease. A socket that has taken
  over a client in that time may have to give it back.
- **Order between paths in a Redis Cluster.** There, order holds per channel: direct messages, each room, and
  broadcasts to all.
"""


def page(results: Results, counts: Counts, *, clients: int, lease_s: float, beat_s: float) -> str:
    """Return the page as Markdown."""
    patience = {"sentinel_s": DOWN_AFTER_MS / 1000, "cluster_s": NODE_TIMEOUT_MS / 1000}
    about = ABOUT.format(clients=clients, lease_s=lease_s, beat_s=beat_s, **patience)
    lines = [BEGINNING.format(about=textwrap.fill(about, 120, break_on_hyphens=False))]
    for name, waits in results.items():
        shown, fault, promise = f"`{name}`", ROWS[name].fault, ROWS[name].promise
        for waited_for, seconds in waits.items():
            median, worst = _words(statistics.median(seconds)), _words(max(seconds))
            lines.append(
                f"| {shown} | {fault} | {promise} | {waited_for} | {median} | {worst} | {len(seconds)} |\n"
            )
            shown = fault = promise = ""
    return "".join([*lines, table(counts, _words), ENDING])


def _words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
