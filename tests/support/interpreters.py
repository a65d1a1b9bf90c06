"""Find another Python on this machine."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


def find_python(release: str) -> Path | None:
    """Return a Python of a release such as "3.12" that works: the one of PATH, or of pyenv."""
    return next((each for each in _candidates(release) if _is_of_release(each, release)), None)


def _candidates(release: str) -> Iterator[Path]:
    if found := shutil.which(f"python{release}"):
        yield Path(found)
    if pyenv := shutil.which("pyenv"):
        # The shim on PATH works only if pyenv's local version is of this release, so ask for all.
        for installed in _lines(pyenv, "versions", "--bare"):
            if installed.startswith(f"{release}."):
                yield from (
                    Path(prefix, "bin", f"python{release}") for prefix in _lines(pyenv, "prefix", installed)
                )


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def _is_of_release(python: Path, release: str) -> bool:
    return version_of(python) == release


def version_of(python: Path) -> str:
    """Return major and minor version of an interpreter, or "" if it does not run."""
    command = [str(python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
