"""This library with rooms of which some are recorded, and as it was before it could record."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from .base import MissingError, Stage, variable
from .ours import Ours

BEFORE = "BENCHMARKS_BEFORE"
BEFORE_COMMIT = "2489a94"
"""The last commit without logs."""


class OursRooms(Ours):
    """Plain sockets."""

    name = "ours-rooms"
    title = "**this library**, plain sockets"
    application = "rooms"
    has_rooms = True
    records = True


class OursV1(OursRooms):
    """Sockets that speak ``stabilizer.v1``."""

    name = "ours-v1"
    title = "**this library**, `stabilizer.v1`"
    dialect = "stabilizer.v1"
    resumes = True


class OursOff(OursRooms):
    """Plain sockets, and no history of any room."""

    name = "ours-off"
    title = "this library without history, plain sockets"
    variant = "off"
    records = False


class OursBefore(OursRooms):
    """Another checkout of this library."""

    name = "ours-before"
    title = "this library before history, plain sockets"
    variant = "before"
    records = False

    def versions(self) -> dict[str, str]:
        """Return its commit."""
        folder = variable(BEFORE)
        if folder is None or not (Path(folder) / "src").is_dir():
            raise MissingError(f"git worktree add before {BEFORE_COMMIT}; then set {BEFORE}=before")
        command = ["git", "-C", folder, "rev-parse", "--short", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return {"fastapi-websocket-stabilizer (before history)": done.stdout.strip() or "unknown"}

    def told(self, stage: Stage) -> Mapping[str, str]:
        """Return what its application is told: also where the package is."""
        return {**super().told(stage), "PYTHONPATH": str(Path(variable(BEFORE) or "", "src").resolve())}
