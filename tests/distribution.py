"""Check the files of a release: ``python -m tests.distribution wheel|client|sdist|release|demo …``.

It imports the standard library only, because ``.ci/release`` runs it without a virtual environment.
"""

import re
import subprocess
import sys
import tarfile
import time
import tomllib
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile
from zipfile import ZipFile

PROJECT = Path(__file__).parents[1]
PACKAGE = "fastapi_websocket_stabilizer"
CLIENT = "fastapi_websocket_stabilizer_client"
SOURCES = {PACKAGE: PROJECT / "src", CLIENT: PROJECT / "clients" / "python" / "src"}
"""The folder of each package that has a wheel of its own."""
SCRIPTS = PROJECT / "clients" / "javascript" / "src"
FOR_BUNDLERS = {"react.js", "testing.js"}
"""Modules of them that the wheel of the server does not have in ``web/client``: the route does not serve them."""
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "PKG-INFO"),
    *("src", "tests", "examples", "compose", "benchmarks", "docs", "clients", "protocol"),
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
}
"""Names at the top of the repository, and ``PKG-INFO``, which the build adds to a source distribution."""
FOR_PACKAGERS = ("LICENSE", "pyproject.toml", f"src/{PACKAGE}/__init__.py", "tests/unit", "tests/conftest.py")
"""Files and folders with which a packager builds the wheel and runs the unit tests."""
DEMO_IS_UP = "Ctrl-C ends everything"
DEMO_PATIENCE_S = 60.0
FIRST_PORT = 18700
"""First port to try; the demo skips those in use."""


def package_files(package: str = PACKAGE) -> set[str]:
    """Return the files of a package in this tree, as a wheel names them."""
    source = SOURCES[package]
    files = (file for file in (source / package).rglob("*") if file.is_file())
    found = {str(file.relative_to(source)) for file in files if "__pycache__" not in file.parts}
    if package == PACKAGE:
        served = {file.name for file in SCRIPTS.iterdir()} - FOR_BUNDLERS
        found |= {f"{PACKAGE}/web/client/{name}" for name in served}
    return found


def problems_of_wheel(names: Iterable[str], package: set[str], name: str = PACKAGE) -> list[str]:
    """Return one sentence for each file that a wheel has besides ``package``, or lacks."""
    found = set(names)
    metadata = re.compile(
        rf"{name}-[^/]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)"
    )
    strangers = {name for name in found - package if not metadata.fullmatch(name)}
    return [
        *(f"{name} is in the wheel and not in the package" for name in sorted(strangers)),
        *(f"{name} is in the package and not in the wheel" for name in sorted(package - found)),
    ]


def problems_of_sdist(names: Iterable[str]) -> list[str]:
    """Return one sentence for each top-level name that does not belong, and for each file that is missing."""
    paths = [name.partition("/")[2] for name in names]
    strangers = {path.partition("/")[0] for path in paths} - TOP_LEVEL - {""}
    missing = [
        needed for needed in FOR_PACKAGERS if not any(f"{path}/".startswith(f"{needed}/") for path in paths)
    ]
    return [
        *(f"{name} is not meant for the source distribution" for name in sorted(strangers)),
        *(f"{name} is missing in the source distribution" for name in missing),
    ]


def problems_of_release(tag: str, version: str, changelog: str, readme: str) -> list[str]:
    """Return one sentence for each change that ``tag`` still needs."""
    newest = next(iter(re.findall(r"^## (.+)$", changelog, re.MULTILINE)), "nothing")
    found = []
    if tag != f"v{version}":
        found.append(f"the tag must be v{version}, as the version in pyproject.toml, got {tag}")
    if newest != version:
        found.append(f"the first section of CHANGELOG.md must be {version}, got {newest}")
    if "is not on PyPI" in readme:
        found.append("README.md says that the release is not published")
    return found


def check_demo(command: Path) -> list[str]:
    """Start the demo, request the page and the health of each replica, end the demo; return the problems."""
    with NamedTemporaryFile() as output:
        options = ["demo", "--replicas", "2", "--port", str(FIRST_PORT)]
        demo = subprocess.Popen([command, *options], stdout=output, stderr=output)
        try:
            problems = _problems_of_demo(demo, Path(output.name))
        finally:
            demo.terminate()
            code = demo.wait(DEMO_PATIENCE_S)
    return problems if code == 0 else [*problems, f"the demo ended with {code}"]


def _problems_of_demo(demo: subprocess.Popen[bytes], output: Path) -> list[str]:
    deadline_s = time.monotonic() + DEMO_PATIENCE_S
    while DEMO_IS_UP not in (text := output.read_text()):
        if demo.poll() is not None or time.monotonic() > deadline_s:
            return [f"the demo did not start:\n{text}"]
        time.sleep(0.1)
    urls = sorted(set(re.findall(r"http://127\.0\.0\.1:\d+", text)))
    wrong = [f"{url} answered {status}" for url in urls if (status := _status(f"{url}/readyz")) != 200]
    wrong += [f"{url} has no page" for url in urls if _status(url) != 200]
    return wrong if len(urls) == 2 else [*wrong, f"the demo has not two replicas: {urls}"]


def _status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return int(answer.status)


def main(arguments: list[str]) -> int:
    """Carry out one check, print its problems, and return the exit code."""
    match arguments:
        case ["wheel", path]:
            problems = problems_of_wheel(ZipFile(path).namelist(), package_files())
        case ["client", path]:
            problems = problems_of_wheel(ZipFile(path).namelist(), package_files(CLIENT), CLIENT)
        case ["sdist", path]:
            with tarfile.open(path) as archive:
                problems = problems_of_sdist(archive.getnames())
        case ["release", tag]:
            version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
            texts = [(PROJECT / name).read_text() for name in ("CHANGELOG.md", "README.md")]
            problems = problems_of_release(tag, version, *texts)
        case ["demo", command]:
            problems = check_demo(Path(command))
        case _:
            problems = [
                "usage: python -m tests.distribution wheel|client|sdist FILE | release TAG | demo COMMAND"
            ]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
