"""The peers in Python: release 1.1 with a listener, python-socketio, channels_redis, hubcast."""

from pathlib import Path

from .base import MissingError, PythonSystem, output_of, variable

OLD_PYTHON = "BENCHMARKS_OLD_PYTHON"
OLD_PACKAGES = "fastapi-websocket-stabilizer==1.1.0 redis hiredis uvicorn uvloop httptools websockets"
_VERSION = "from importlib.metadata import version; print(version('fastapi-websocket-stabilizer'))"
_IMPORTS = "import redis, hiredis, uvicorn, uvloop, httptools, websockets;"


class Glue(PythonSystem):
    """Release 1.1 in an environment of its own, with a pub/sub listener beside each manager."""

    name = "1.1+glue"
    title = "release 1.1 + pub/sub listener"
    application = "glue"

    @property
    def interpreter(self) -> str:
        """The Python that has release 1.1."""
        return variable(OLD_PYTHON) or ""

    def versions(self) -> dict[str, str]:
        """Ask the other interpreter."""
        install = (
            f"python -m venv old && old/bin/pip install {OLD_PACKAGES}; then set {OLD_PYTHON}=old/bin/python"
        )
        if not Path(self.interpreter).is_file():
            raise MissingError(install)
        try:
            found = output_of([self.interpreter, "-c", _IMPORTS + _VERSION], str.strip)
        except OSError as error:
            raise MissingError(f"{str(error).splitlines()[-1]}; {install}") from error
        if not found.startswith("1.1"):
            raise MissingError(f"{OLD_PYTHON} has {found}; {install}")
        return {"fastapi-websocket-stabilizer (old)": found}


class PythonSocketIO(PythonSystem):
    """python-socketio with AsyncRedisManager."""

    name = "python-socketio"
    title = "python-socketio + AsyncRedisManager"
    application = "python_socketio"
    packages = ("python-socketio", "python-engineio")
    dialect = "socket.io"
    everybody_path = "/socket.io/?EIO=4&transport=websocket"
    client_path = "/socket.io/?EIO=4&transport=websocket&client_id={id}"


class ChannelsLayer(PythonSystem):
    """The layer of channels_redis, on FastAPI."""

    name = "channels_redis"
    title = "channels_redis pub/sub layer"
    application = "channels_layer"
    packages = ("channels_redis", "channels")
    everybody_path = "/ws"


class Hubcast(PythonSystem):
    """hubcast on FastAPI."""

    name = "hubcast"
    title = "hubcast"
    application = "hubcast_hub"
    packages = ("hubcast",)
    everybody_path = "/ws"
