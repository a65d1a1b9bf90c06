"""The program ``stabilizer``, the options that its commands share, and its errors."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from ..names import printable

if TYPE_CHECKING:
    from ..config import WebSocketConfig

_INSTALL = "pip install 'fastapi-websocket-stabilizer[%s]'"

try:
    import typer
except ImportError:
    raise SystemExit(f"stabilizer needs typer: {_INSTALL % 'cli'}") from None

T = TypeVar("T")

app: typer.Typer = typer.Typer(no_args_is_help=True)

Url = Annotated[str | None, typer.Option(help="The registry's Redis; WS_REDIS_URL unless given.")]
Namespace = Annotated[str | None, typer.Option(help="WS_NAMESPACE unless given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def main() -> None:
    """Command-line tools of fastapi-websocket-stabilizer."""


def on_registry(
    call: "Callable[[WebSocketConfig], Coroutine[Any, Any, T]]",
    redis_url: str | None,
    namespace: str | None,
    *,
    failure: int = 1,
) -> T:
    """Return the result of a call, which gets the settings of the environment and those that are given.

    If it raises an error of this library, the program ends with the exit code ``failure``.
    """
    from ..config import WebSocketConfig
    from ..exceptions import WebSocketStabilizerError
    from .operator import RemoteError

    given = {"WS_REDIS_URL": redis_url, "WS_NAMESPACE": namespace}
    try:
        config = WebSocketConfig.from_env(os.environ | {name: text for name, text in given.items() if text})
        return asyncio.run(call(config))
    except (RemoteError, WebSocketStabilizerError) as error:
        fail(str(error), failure)
    except Exception as error:
        if failure == 1:
            raise
        fail(f"{error!r}, which is a defect", failure)  # monitoring must not take it for a warning


def require(extra: str, *modules: str) -> None:
    """End the program if modules are missing, and say which extra has them."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        fail(f"this needs {', '.join(missing)}: {_INSTALL % extra}")


def fail(message: str, code: int = 1) -> NoReturn:
    """Say on stderr what is wrong, and end the program."""
    text = "\n".join(map(printable, message.split("\n")))  # names of nodes are in it
    typer.echo(f"stabilizer: {text}", err=True)
    raise typer.Exit(code)
