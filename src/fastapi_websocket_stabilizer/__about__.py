"""The installed version."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fastapi-websocket-stabilizer")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"
