"""The routers of a manager, which an application includes."""

from collections.abc import Collection, Sequence
from functools import cached_property

from fastapi import APIRouter
from fastapi.params import Depends as Dependency

from ..observe.prometheus import Collector
from ..registry.registry import Registry
from .admin import Action, Broadcast, admin_router
from .client_script import add_client_script_route
from .health import health_router
from .histories import Authorize, ReadPage, history_router
from .metrics import Scope, collector, metrics_router


class Routers:
    """The methods of a manager that return routers."""

    def __init__(self, node: Registry, read_history: ReadPage, publish: Broadcast) -> None:
        self._node, self._read_history, self._publish = node, read_history, publish

    @cached_property
    def router(self) -> APIRouter:
        """A router for load balancers, deploy scripts and pages.

        ``GET /livez``, ``GET /readyz``, ``POST /drain``, and ``GET /stabilizer/client.js``, the JavaScript client.
        """
        router = health_router(self._node)
        add_client_script_route(router)
        return router

    def history_router(self, authorize: Authorize) -> APIRouter:
        """Return a router with ``GET /history/{room}``, so that pages can load older messages.

        >>> async def may_read(room: str, user: Annotated[User, Depends(signed_in)]) -> None:
        ...     if room not in user.rooms:
        ...         raise HTTPException(403)
        >>> app.include_router(manager.history_router(may_read))

        ``authorize`` is a FastAPI dependency with a parameter ``room``. It raises an ``HTTPException``, or returns
        False, if the caller may not read the room. The query has ``limit`` (1 to 100, by default 50) and ``before``.

        Raises:
            ConfigurationError: ``authorize`` is no function that takes a room.
        """
        return history_router(self._node, self._read_history, authorize)

    def metrics_router(self) -> APIRouter:
        """Return a router with ``GET /metrics`` for Prometheus: ``app.include_router(manager.metrics_router())``.

        Each scrape shows all workers of the server, whichever answers. ``docs/metrics.md`` lists the metrics.
        Requests that came through a proxy get 403, unless ``metrics_secret`` is set and sent.

        Raises:
            ConfigurationError: ``prometheus-client`` is not installed, which the extra ``prometheus`` does.
        """
        return metrics_router(self._node)

    def prometheus_collector(self, scope: Scope = "host") -> Collector:
        """Return a collector for a ``CollectorRegistry`` of the application.

        ``"host"`` has the workers of this server, ``"node"`` only this process, and ``"cluster"`` all nodes, for a
        scraper that cannot find them. Do not sum the last one over several targets. ``"host"`` and ``"cluster"`` must
        be collected in another thread than that of the event loop, as a ``def`` endpoint does.

        Raises:
            ConfigurationError: ``scope`` is unknown, or ``prometheus-client`` is not installed.
        """
        return collector(self._node, scope)

    def admin_router(
        self,
        *,
        prefix: str = "/stabilizer/admin",
        dependencies: Sequence[Dependency] = (),
        actions: Collection[Action] = (),
        include_in_schema: bool = False,
    ) -> APIRouter:
        """Return a router with a page for operators and its JSON: ``app.include_router(manager.admin_router())``.

        It shows all nodes, whichever answers (``docs/admin.md``). Without ``admin_secret`` and ``dependencies`` it
        answers browsers on this machine only.

        Args:
            prefix: The path of the page.
            dependencies: FastAPI dependencies that check callers, as ``Depends(signed_in_admin)``. One may set
                ``request.state.actor``, which the audit log shows.
            actions: What callers may do: "kick", "drain", "broadcast". Without any, they can only look.
            include_in_schema: Whether the JSON routes are in the OpenAPI schema of the application.

        Raises:
            ConfigurationError: An action is unknown. Or there are actions, but neither a secret nor a dependency.
        """
        return admin_router(
            self._node, self._publish, prefix=prefix, dependencies=dependencies, actions=actions,
            include_in_schema=include_in_schema,
        )  # fmt: skip
