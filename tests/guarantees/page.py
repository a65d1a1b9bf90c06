"""``docs/guarantees.md``: what is promised, what was measured, and what is not promised."""

import statistics
import textwrap

from tests.support.clusters import NODE_TIMEOUT_MS
from tests.support.sentinels import DOWN_AFTER_MS

from .rows import ROWS

Results = dict[str, dict[str, list[float]]]
"""Seconds of every trial, by row and by what was waited for."""

ABOUT = (
    "`python -m tests.guarantees --output docs/guarantees.md` does each of these faults to real processes and writes "
    "this page: two replicas with {clients} clients each and a Redis of their own, a lease of {lease_s:g} s and "
    'beats of {beat_s:g} s. Times are counted from the fault, or from its end where it has one; "reached" means that '
    "a broadcast of each replica was heard by every client. Sentinels call a server down after {sentinel_s:g} s, the "
    "servers of a cluster one another after {cluster_s:g} s: what they take to promote another is theirs, and has a "
    "line of its own. `python -m tests.guarantees --only NAME` repeats a row; what shorter leases give, `--lease 2` "
    "shows."
)

BEGINNING = """# What holds when something breaks

{about}

| `--only` | fault | promised | measured until | median | worst | trials |
|---|---|---|---|---|---|---|
"""

ENDING = """
## What is not promised

- **Delivery.** A message is written at most once. It is lost if Redis, the network or the replica that holds the
  client fails while it is on its way; `on_bus_gap` and `statistics().counters` (`bus_gaps`, `bus_lost`) say that it
  happened, not to whom. A client that is away gets nothing.
- **Consensus.** Redis replication is asynchronous, so a failover can forget the last claims. Stamps and repeated
  claims repair that: once everything has settled, the socket that claimed last is the client's.
- **A hook exactly once.** A presence event is reported once, and again with the same `event_id` only if the process
  that reported it died or was cut off from Redis before it confirmed that, or if Redis has just lost its content.
- **A leave that Redis forgot.** If Redis loses its content while a replica is dead and not swept yet, nothing says
  who was on it: their leaves are not reported.
- **One order for all while Redis is away.** What a replica then delivers to its own clients alone has another place
  among the messages of the others. Each manager's messages keep their order.
- **A token once, if Redis forgets that it was redeemed.** A Redis that comes back from a snapshot, or a promoted
  replica of it, may have the record of a redeemed token again. The replica that redeemed it refuses it at once, and
  deletes the record again with its next beat; until then another replica may redeem it. If that replica has ended,
  the token can be redeemed once more within its lifetime. `appendfsync always` leaves no such record.
- **A Redis whose clock steps back** while a replica is frozen for longer than its lease: a socket that has taken a
  client over meanwhile may have to give it back.
- **Order between paths in a cluster of Redis servers.** There, order holds per channel: direct messages, each room,
  and broadcasts to all.
"""


def page(results: Results, *, clients: int, lease_s: float, beat_s: float) -> str:
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
    return "".join([*lines, ENDING])


def _words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
