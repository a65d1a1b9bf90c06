"""Run tests with the oldest releases that pyproject.toml allows: ``python -m tests.floors [pytest arguments]``.

They are installed into a virtual environment of their own. Everything else comes from the running environment.
"""

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PROJECT = Path(__file__).parents[1]
TOOLS = ("benchmarks", "dev")
"""Extras that a user does not install; their floors are not a promise."""
HELPERS = ("httpx",)
"""What an old release needs in the tests and a new one does not: the TestClient of Starlette before 1.0."""
TESTS = ("tests/unit", "tests/compat", "tests/wire", "tests/integration/test_doctor.py")
OPTIONS = (
    *("-m", "not alone", "-q", "-p", "no:cacheprovider"),
    # An old release may use what a newer one of its own dependencies deprecates.
    *("-W", "ignore::DeprecationWarning"),
)


def floors(project: Mapping[str, Any]) -> list[str]:
    """Return ``name==version`` for each lower bound of the product and of the extras that users install."""
    extras = project["optional-dependencies"].items()
    groups = [project["dependencies"], *(lines for name, lines in extras if name not in TOOLS)]
    return sorted({floor for lines in groups for floor in _floors_of(lines)})


def _floors_of(requirements: list[str]) -> Iterator[str]:
    for requirement in requirements:
        if found := re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement):
            yield "==".join(found.groups())
        elif not requirement.startswith("fastapi-websocket-stabilizer["):
            raise ValueError(f"{requirement!r} in pyproject.toml has no lower bound: write name>=version")


def _see_own_packages(environment: Path) -> None:
    """Let an environment import what the running one has, behind its own: pip then installs only what differs."""
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "running-environment.pth").write_text(sysconfig.get_path("purelib") + "\n")


def main(arguments: list[str]) -> int:
    """Make the environment, run the tests in it, and return the exit code of pytest."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    with TemporaryDirectory(prefix="fws-floors-") as directory:
        constraints = Path(directory, "constraints.txt")
        constraints.write_text("\n".join(floors(project)))
        print("floors:", *floors(project), flush=True)
        environment = Path(directory, "environment")
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        _see_own_packages(environment)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-c", str(constraints), "-e", f"{PROJECT}[dev]", *HELPERS], check=True)
        return subprocess.run(
            [python, "-m", "pytest", *OPTIONS, *(arguments or TESTS)], cwd=PROJECT
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
