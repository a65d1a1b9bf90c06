"""Find a Python 2.7, which the Autobahn test suite needs, and install the suite for it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.suites.uvicorn_suite import SuiteUnavailableError

VARIABLE = "FWS_PYTHON27"
"""Environment variable with the path of a Python 2.7."""
PACKAGE = "autobahntestsuite==25.10.1"


def find_python27() -> Path:
    """Return a Python 2.7 that works: the one of ``FWS_PYTHON27``, of PATH, or of pyenv.

    Raises:
        SuiteUnavailableError: There is none.
    """
    for candidate in _candidates():
        if _is_python27(candidate):
            return candidate
    raise SuiteUnavailableError(f"no Python 2.7: set {VARIABLE}, or put python2.7 on PATH or into pyenv")


def _candidates() -> Iterator[Path]:
    if given := os.environ.get(VARIABLE):
        yield Path(given)
    if found := shutil.which("python2.7"):
        yield Path(found)
    if pyenv := shutil.which("pyenv"):
        # The shim on PATH works only if pyenv's local version is a 2.7, so ask for those that are installed.
        for release in _lines(pyenv, "versions", "--bare"):
            if release.startswith("2.7"):
                yield from (Path(prefix, "bin", "python2.7") for prefix in _lines(pyenv, "prefix", release))


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def _is_python27(python: Path) -> bool:
    try:
        ran = subprocess.run(
            [python, "-c", "import sys; print(sys.version[:3])"], capture_output=True, text=True
        )
    except OSError:
        return False
    return ran.stdout.strip() == "2.7"


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
