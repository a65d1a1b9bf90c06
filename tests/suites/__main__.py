"""Run a foreign test suite against our WebSocket class: ``python -m tests.suites uvicorn`` or ``… autobahn``.

Ends with 1 if our class does worse than uvicorn's own, and names where.
"""

import argparse
import sys

from tests.suites import autobahn_suite, uvicorn_suite
from tests.suites.uvicorn_suite import LOOPS, WAYS, SuiteUnavailableError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument("suite", choices=("uvicorn", "autobahn"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    parser.add_argument("--cases", nargs="+", default=autobahn_suite.ALL, help="of Autobahn, such as 9.*")
    parser.add_argument("--quick", action="store_true", help="of Autobahn: some cases of each kind")
    return parser.parse_args()


def _run(given: argparse.Namespace) -> list[str]:
    if given.suite == "uvicorn":
        return uvicorn_suite.run(given.ways, given.loops)
    cases = autobahn_suite.QUICK if given.quick else given.cases
    return autobahn_suite.run(given.ways, given.loops, cases)


def main() -> int:
    given = _arguments()
    try:
        found = _run(given)
    except SuiteUnavailableError as error:
        print(f"{given.suite}: not run, {error}")
        return 0
    print(*(found or ["nothing is worse than with uvicorn's own class"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
