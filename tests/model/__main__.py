"""Explores the families, with more of everything on request: ``python -m tests.model --deep [NAME …]``."""

import argparse
import time
from dataclasses import replace

from .explore import explore
from .families import FAMILIES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--deep", action="store_true", help="the larger bounds of each family")
    parser.add_argument("--most", type=int, default=3_000_000, help="states of a family (about 2 KiB each)")
    parser.add_argument("names", nargs="*", help="parts of the names of families")
    arguments = parser.parse_args()
    failed = 0
    for family in FAMILIES:
        if arguments.names and not any(name in family.name for name in arguments.names):
            continue
        began_s = time.process_time()
        result = explore(
            replace(family, budget=family.deep) if arguments.deep else family, most=arguments.most
        )
        print(
            f"{family.name:28}{result.states:9,} states {result.steps:10,} steps {result.settled:7,} at rest"
            f"  depth {result.deepest:2}  {'' if result.is_complete else 'not all'}"
            f"  {time.process_time() - began_s:.1f} s",
            flush=True,
        )
        if result.found is not None:
            failed += 1
            print(result.found)
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
