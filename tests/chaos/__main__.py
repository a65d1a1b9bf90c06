"""``python -m tests.chaos --minutes 30 --seed 7`` prints the violations of a run. A seed always has one schedule."""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.chaos.checker import violations
from tests.chaos.history import History
from tests.chaos.run import chaos
from tests.chaos.schedule import FOLLOWERS, plan


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--followers", type=int, default=FOLLOWERS, help="clients of stabilizer.v1")
    parser.add_argument("--sown", default="", help="a fault of tests.chaos.seeded")
    parser.add_argument("--history", type=Path, help="write the history to this file, as JSON")
    parser.add_argument("--check", type=Path, help="check this history instead of a run")
    return parser.parse_args()


def main() -> int:
    given = _arguments()
    if given.check:
        history = History.load(given.check)
    else:
        sizes = {"replicas": given.replicas, "clients": given.clients, "followers": given.followers}
        schedule = plan(given.seed, given.minutes * 60, **sizes)
        history = asyncio.run(chaos(schedule, sown=given.sown))
        if given.history:
            history.save(given.history)
    print(_summary(history))
    found = violations(history)
    print(*(found or ["nothing is violated"]), sep="\n")
    if found and not (given.check or given.history):  # a second run of the seed has other delays
        file = Path(tempfile.mkdtemp(prefix="fws-chaos-"), "history.json")
        history.save(file)
        print(f"history: {file}, to be looked at with --check")
    return 1 if found else 0


def _summary(history: History) -> str:
    got = sum(len(socket.got) for socket in history.sockets)
    faults = Counter(fault.kind for fault in history.faults)
    outcomes = Counter(call.outcome for call in history.calls)
    shown = {"sockets": len(history.sockets), "messages received": got, "looks": len(history.seen)}
    heard = Counter(heard.what for follower in history.followers for heard in follower.heard)
    lines = {
        "seen": shown,
        "followers were told": dict(heard.most_common()),
        "faults": dict(faults.most_common()),
        "calls": dict(outcomes.most_common()),
    }
    return "\n".join(
        f"{name}: " + ", ".join(f"{what} {count}" for what, count in counts.items())
        for name, counts in lines.items()
    )


if __name__ == "__main__":
    sys.exit(main())
