"""socket.io with @socket.io/redis-adapter on Node."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

from tests.support.process import ChildProcess

from .base import PROJECT, MissingError, Stage, System, environment, output_of, variable

NODE_MODULES = "BENCHMARKS_NODE_MODULES"
PACKAGES = ("socket.io", "@socket.io/redis-adapter", "redis")


class SocketIO(System):
    """One Node process a replica."""

    name = "socket.io"
    title = "socket.io + redis-adapter (Node)"
    dialect = "socket.io"
    everybody_path = "/socket.io/?EIO=4&transport=websocket"
    client_path = "/socket.io/?EIO=4&transport=websocket&client_id={id}"

    def versions(self) -> dict[str, str]:
        """Read the packages' own descriptions."""
        node = shutil.which("node")
        if node is None:
            raise MissingError("node: install Node.js 20 or newer")
        try:
            found = {f"{name} (npm)": _version(_modules() / name) for name in PACKAGES}
        except OSError as error:
            install = f"npm install {' '.join(PACKAGES)}; then set {NODE_MODULES} to that node_modules"
            raise MissingError(install) from error
        return {"node": output_of([node, "--version"], str.strip), **found}

    def launch(self, port: int, stage: Stage, stack: ExitStack) -> ChildProcess:
        """Start Node in production mode."""
        told = {**environment(stage, "compressed" if stage.is_compressed else ""), "NODE_ENV": "production"}
        told |= {"BENCHMARKS_PORT": str(port), NODE_MODULES: str(_modules().resolve())}
        script = PROJECT / "benchmarks" / "apps" / "socketio_server.mjs"
        return ChildProcess(["node", script], environment=told)


def _modules() -> Path:
    return Path(variable(NODE_MODULES) or "node_modules")


def _version(package: Path) -> str:
    return str(json.loads((package / "package.json").read_text())["version"])
