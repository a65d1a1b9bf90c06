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
CLIENT = PROJECT / "clients" / "python"
CLIENT_TESTS = ("clients/python/tests/test_client.py",)
"""Tests of the Python client, whose floors are lower than those of the server. They come last."""
OPTIONS = (
    *("-m", "not alone", "-q", "-p", "no:cacheprovider"),
    # An old release may use what a newer one of its own dependencies deprecates.
    *("-W", "ignore::DeprecationWarning"),
)


def floors(project: Mapping[str, Any]) -> list[str]:
    """Return ``name==version`` for each lower bound of the product and of the extras that users install."""
    extras = project.get("optional-dependencies", {}).items()
    groups = [project["dependencies"], *(lines for name, lines in extras if name not in TOOLS)]
    return sorted({floor for lines in groups for floor in _floors_of(lines)})


def project_of(folder: Path) -> dict[str, Any]:
    """Return the table ``project`` of a pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


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
    project = project_of(PROJECT)
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
        tests = [python, "-m", "pytest", *OPTIONS]
        code = subprocess.run([*tests, *(arguments or TESTS)], cwd=PROJECT).returncode
        if code or arguments:
            return code
        print("floors of the Python client:", *floors(project_of(CLIENT)), flush=True)
        subprocess.run([*install, *floors(project_of(CLIENT))], check=True)
        return subprocess.run([*tests, *CLIENT_TESTS], cwd=PROJECT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
