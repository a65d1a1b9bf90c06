"""Find a Python 2.7, which the Autobahn test suite needs, and install the suite for it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.suites.uvicorn_suite import SuiteUnavailableError
from tests.support.interpreters import find_python, version_of

VARIABLE = "FWS_PYTHON27"
"""Environment variable with the path of a Python 2.7."""
PACKAGE = "autobahntestsuite==25.10.1"


def find_python27() -> Path:
    """Return a Python 2.7 that works: the one of ``FWS_PYTHON27``, of PATH, or of pyenv.

    Raises:
        SuiteUnavailableError: There is none.
    """
    for candidate in _candidates():
        if version_of(candidate) == "2.7":
            return candidate
    raise SuiteUnavailableError(f"no Python 2.7: set {VARIABLE}, or put python2.7 on PATH or into pyenv")


def _candidates() -> Iterator[Path]:
    if given := os.environ.get(VARIABLE):
        yield Path(given)
    if found := find_python("2.7"):
        yield found


def install_autobahn(python: Path, directory: Path) -> dict[str, str]:
    """Install the suite below ``directory``; return the environment in which its ``wstest`` runs.

    Raises:
        SuiteUnavailableError: pip cannot install it; the message has pip's words.
    """
    # As a user's site directory: only in such a one does Python 2 find the namespace packages of Twisted.
    environment = {**os.environ, "PYTHONUSERBASE": str(directory)}
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--user",
        "--quiet",
        "--disable-pip-version-check",
        PACKAGE,
    ]
    installed = subprocess.run(command, env=environment, capture_output=True, text=True)
    if installed.returncode:
        raise SuiteUnavailableError(f"pip cannot install {PACKAGE}: {installed.stderr.strip()}")
    return environment
