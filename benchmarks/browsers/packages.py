"""The packages of the peers, their bundles and the size of each client."""

import gzip
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..systems.base import MissingError

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "clients" / "javascript" / "src" / "client.js"
TOOL = "esbuild"
SERVERS = ("socket.io", "@socket.io/redis-streams-adapter", "redis", "ws")
OPTIONS = ("--bundle", "--minify", "--format=esm", "--target=es2022")


@dataclass(frozen=True, slots=True)
class Package:
    """A client: its name at npm, and what an application imports of it."""

    name: str
    entry: str


CLIENTS = {
    "ours": Package("this library", f'export {{ connect }} from "{SOURCE}"'),
    "centrifuge": Package("centrifuge", 'export { Centrifuge } from "centrifuge"'),
    "socketio": Package("socket.io-client", 'export { io } from "socket.io-client"'),
    "phoenix": Package("phoenix", 'export { Socket } from "phoenix"'),
    "partysocket": Package("partysocket", 'export { WebSocket } from "partysocket"'),
    "reconnecting": Package("reconnecting-websocket", 'export { default } from "reconnecting-websocket"'),
}


class Packages:
    """Packages of npm in one folder."""

    def __init__(self, modules: Path) -> None:
        self.modules = modules

    @classmethod
    def install(cls, folder: Path) -> "Packages":
        """Install all into a folder.

        Raises:
            MissingError: npm is not here.
        """
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            raise MissingError("node and npm: install Node.js 20 or newer")
        names = [TOOL, *SERVERS, *(package.name for key, package in CLIENTS.items() if key != "ours")]
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *names]
        subprocess.run(command, check=True, timeout=600)
        return cls(folder / "node_modules")

    def version(self, name: str) -> str:
        """Return the version of an installed package."""
        found: str = json.loads((self.modules / name / "package.json").read_text())["version"]
        return found

    def size(self, client: str) -> int:
        """Return the bytes of a client, minified and gzipped."""
        return len(gzip.compress(self._bundle(stdin=CLIENTS[client].entry), 9, mtime=0))

    def page(self, client: str) -> bytes:
        """Return the script of the page of a client."""
        imports = f'import {{ start }} from "./{client}.js"; import {{ note, tell }} from "./page.js"'
        return self._bundle(stdin=f"{imports}; start(note, tell)")

    def _bundle(self, stdin: str) -> bytes:
        command = [str(self.modules / ".bin" / TOOL), *OPTIONS]
        environment = {**os.environ, "NODE_PATH": str(self.modules)}
        done = subprocess.run(
            command,
            input=stdin.encode(),
            cwd=HERE / "clients",
            env=environment,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        return done.stdout
