"""The commands for operators. They need only Redis, so they work when HTTP does not."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .program import AsJson, Namespace, Url, app, fail, on_registry

if TYPE_CHECKING:
    from ..config import WebSocketConfig
    from ..observe.looking import Shown
    from ..registry.views import Question
    from .operator import Operator

T = TypeVar("T")

Over = Annotated[float, typer.Option(min=0.1, help="Seconds between the two looks; a beat is 3.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="Rows to show.")]
OnNode = Annotated[
    str | None, typer.Option("--node", help="Only this node: a node_id, or the name of one node.")
]
OfClient = Annotated[str | None, typer.Option("--client", help="Only those of this client.")]


@app.command()
def check(
    over: Over = 7.0, as_json: AsJson = False, redis_url: Url = None, namespace: Namespace = None
) -> None:
    """Say what is wrong with a registry.

    The exit codes are those of monitoring plugins. 0 is for nothing, 1 for a warning, 2 for a problem that cannot
    wait, and 3 if Redis cannot be asked.
    """
    from .check import look

    report = on_registry(lambda config: look(config, over), redis_url, namespace, failure=3)
    typer.echo(_json(report.as_dict()) if as_json else report.as_text())
    raise typer.Exit(report.exit_code)


@app.command()
def nodes(
    over: Over = 3.5, as_json: AsJson = False, redis_url: Url = None, namespace: Namespace = None
) -> None:
    """List the live nodes of a registry, with their connections and rates."""
    from .check import look

    report = on_registry(lambda config: look(config, over), redis_url, namespace)
    typer.echo(_json([asdict(node) for node in report.nodes]) if as_json else report.nodes_as_text())


@app.command()
def top(
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 3.0,
    once: Annotated[bool, typer.Option("--once", help="Print one look, as without a terminal.")] = False,
    redis_url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Watch a registry: its problems, and what each node does. q ends it, c, o, s and l sort."""
    from .top import run_top

    is_live = sys.stdout.isatty() and sys.stdin.isatty() and not once
    on_registry(lambda config: run_top(config, every, typer.echo, is_live=is_live), redis_url, namespace)


@app.command()
def conns(
    client: OfClient = None,
    room: Annotated[str | None, typer.Option(help="Only those in this room.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only those that are slow, silent, parked or expiring.")
    ] = None,
    sort: Annotated[str, typer.Option(help="age, outbox or silent: the first rows have most of it.")] = "age",
    limit: Limit = 50,
    node: OnNode = None,
    as_json: AsJson = False,
    redis_url: Url = None,
    namespace: Namespace = None,
) -> None:
    """List open connections, with what waits for them and when they were heard."""
    from ..observe.looking import ORDERS
    from .rows import connections_as_text

    question = _question("connections", client=client, room=room, state=state, order=sort, limit=limit)
    shown = _look(question, ORDERS.get(sort, ORDERS["age"]), node, redis_url, namespace)
    _print(shown, connections_as_text(shown), as_json=as_json)


@app.command()
def rooms(
    prefix: Annotated[str, typer.Option(help="Only rooms whose name begins with it.")] = "",
    limit: Limit = 50,
    node: OnNode = None,
    as_json: AsJson = False,
    redis_url: Url = None,
    namespace: Namespace = None,
) -> None:
    """List the rooms with the most connections."""
    from ..observe import looking
    from ..registry.views import OfRooms
    from .rows import rooms_as_text

    async def ask(operator: "Operator") -> "Shown":
        return await looking.rooms(operator, OfRooms(prefix, limit), await operator.those(node))

    shown = _operate(ask, redis_url, namespace)
    _print(shown, rooms_as_text(shown), as_json=as_json)


@app.command()
def closed(
    client: OfClient = None,
    cause: Annotated[str | None, typer.Option(help="Only those with this cause, such as slow.")] = None,
    limit: Limit = 50,
    node: OnNode = None,
    as_json: AsJson = False,
    redis_url: Url = None,
    namespace: Namespace = None,
) -> None:
    """List the last connections that have ended, and why. Nodes that have gone take theirs with them."""
    from .rows import closed_as_text

    question = _question("closed", client=client, cause=cause, limit=limit)
    shown = _look(question, lambda end: end.at, node, redis_url, namespace)
    _print(shown, closed_as_text(shown), as_json=as_json)


@app.command()
def explain(
    client: Annotated[str, typer.Argument(help="The id of a client.")],
    as_json: AsJson = False,
    redis_url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Say what is known of one client: its connections, how the last ones ended, and what is wrong."""
    from ..observe import looking

    found = _operate(lambda operator: looking.explain(operator, client), redis_url, namespace)
    typer.echo(_json(looking.explained_as_dict(found)) if as_json else found.as_text())
    if found.silent:
        raise typer.Exit(1)


@app.command()
def tail(
    client: OfClient = None,
    kind: Annotated[str | None, typer.Option(help="Only events of this kind: opened or closed.")] = None,
    as_json: AsJson = False,
    redis_url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Print each connection that opens or ends, on all nodes, until Ctrl+C. A line of JSON each with --json."""
    from .tailing import run_tail

    if kind not in (None, "opened", "closed"):
        fail(f"--kind is opened or closed, got {kind!r}", 2)
    say, warn = typer.echo, partial(typer.echo, err=True)
    try:
        on_registry(
            lambda config: run_tail(config, client, kind, say, warn, as_json=as_json), redis_url, namespace
        )
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(0) from None


@app.command()
def kick(
    client: Annotated[str, typer.Argument(help="The id of a client.")],
    connection: Annotated[str | None, typer.Option(help="Only this connection_id.")] = None,
    code: Annotated[
        int, typer.Option(help="Close code. 4510 asks a client of stabilizer.v1 not to come back, 1012 does.")
    ] = 4510,
    reason: Annotated[str, typer.Option(help="Reason of the close frame.")] = "closed by an operator",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
    redis_url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Disconnect a client, as manager.disconnect does."""
    if not yes:
        if not sys.stdin.isatty():
            fail("this closes connections: give --yes where nobody can be asked", 2)
        what = "all connections" if connection is None else repr(connection)
        typer.confirm(f"Close {what} of {client!r}?", abort=True)
    count = _operate(
        lambda operator: operator.disconnect(client, code, reason, connection), redis_url, namespace
    )
    typer.echo(_json({"client_id": client, "closed": count}) if as_json else f"{client}: {count} closed")


@app.command()
def drain(
    node: Annotated[
        str, typer.Argument(help="A node_id, or the name of one node (WS_NODE_NAME, else its host).")
    ],
    over: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds; WS_DRAIN_OVER_S unless given.")
    ] = None,
    redis_url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Drain a node: close its connections gradually, so that its clients reconnect to others.

    The process continues to run without connections.
    """
    from .drain import run_drain

    on_registry(lambda config: run_drain(config, node, over, typer.echo), redis_url, namespace)


def _question(what: str, **asked: Any) -> "Question":
    """Return a question. End the program if an option has a value that it cannot have."""
    from pydantic import ValidationError

    from ..registry.views import question_in

    try:
        return question_in(
            {"what": what} | {name: value for name, value in asked.items() if value is not None}
        )
    except ValidationError as error:
        (first, *_) = error.errors()
        option = {"order": "sort"}.get(str(first["loc"][0]), first["loc"][0])
        fail(f"--{option}: {first['msg']}, got {first['input']!r}", 2)


def _look(
    question: "Question",
    order: Callable[[Any], Any],
    node: str | None,
    redis_url: str | None,
    namespace: str | None,
) -> "Shown":
    from ..observe import looking

    async def ask(operator: "Operator") -> "Shown":
        return await looking.look(operator, question, order, await operator.those(node))

    return _operate(ask, redis_url, namespace)


def _operate(ask: Callable[["Operator"], Awaitable[T]], redis_url: str | None, namespace: str | None) -> T:
    """Return the answer of an operator, who is connected while it is asked."""
    from .operator import Operator

    async def connected(config: "WebSocketConfig") -> T:
        async with Operator(config) as operator:
            return await ask(operator)

    return on_registry(connected, redis_url, namespace)


def _print(shown: "Shown", text: str, *, as_json: bool) -> None:
    """Print rows; say on stderr what they do not show, and end with 1 if a node has not answered."""
    typer.echo(_json(shown.as_dict()) if as_json else text)
    for line in shown.warnings():
        typer.echo(line, err=True)
    if shown.silent:
        raise typer.Exit(1)


def _json(found: object) -> str:
    return json.dumps(found, indent=1)
