"""The composition of a node: creates, starts and stops its parts."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from .. import close_codes
from ..backends.memory import MemoryBackend, MemoryHub
from ..backends.ports import Backend, Bus, Watcher
from ..backends.redis import RedisBackend
from ..config import WebSocketConfig
from ..exceptions import (
    LOSSES,
    BackendUnavailableError,
    NotStartedError,
    ShutdownError,
    WrongEventLoopError,
)
from ..local.connection import Connection
from ..local.pinger import Pinger
from ..models import CloseCause, ShutdownReport
from ..runtime import loop_lag
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters
from ..runtime.services import Service, Services
from ..wire.channels import Channel
from ..wire.envelopes import Envelope, Kind
from .archive import Archive
from .broadcasts import Broadcasts
from .budget import Budget, UserData
from .claims import Claims
from .connections import Connections
from .degrade import DegradingBus
from .directory import Directory
from .drain import Drain
from .history import History
from .inbound import Inbound
from .inboxes import Inboxes
from .keeping import Keeping
from .lease import Lease, RenewedLease, SoloLease
from .mailboxes import Mailboxes
from .outbound import Outbound
from .presence import Reports
from .questions import Questions
from .reclaims import Reclaims
from .recovery import Recovery
from .requests import Requests
from .revocations import Revocations
from .rooms import Rooms
from .showing import Showing
from .state import NodeState
from .successions import Successions
from .survey import Survey
from .sweep import Sweeper
from .telemetry import Telemetry
from .tokens import Tokens
from .watching import Watching

OpenBackend = Callable[[WebSocketConfig, Watcher, Counters], Backend]
"""Function that opens the backend of a registry with several nodes. ``testing`` has one without Redis."""

CLOSED_REASON = "server shutdown"


class Registry:
    """One node of a registry.

    In memory mode it works from its creation on, on any event loop. In distributed mode it works from ``start`` to
    ``stop``, on the event loop of ``start``.
    """

    def __init__(
        self, config: WebSocketConfig, log: logging.Logger, open_backend: OpenBackend | None = None
    ) -> None:
        if open_backend is None and config.redis_url is not None:
            open_backend = RedisBackend
        self._services = Services(log)
        self._is_joining = False
        is_shared = open_backend is not None
        state = NodeState(config, log, partial(self._open, open_backend), is_distributed=is_shared)
        backend = state.backend
        self.state: NodeState = state
        self.lease: Lease = (
            RenewedLease(backend.nodes, config, state.describe, lambda: backend.run_id)
            if is_shared
            else SoloLease(lambda: state.node_id)
        )
        self.directory: Directory = Directory(state, self.lease)
        self.tokens: Tokens = Tokens(state)
        self.keeping: Keeping = Keeping(state)
        self.history: History = History(state, self._deliver, self.keeping)
        degrading = (
            DegradingBus(state, backend.bus, self._deliver_alone, self._flush) if state.degrades else None
        )
        self._compose(degrading or backend.bus, degrading)

    def _compose(self, bus: Bus, degrading: DegradingBus | None) -> None:
        """Create the parts that enter, send and receive, each after those that it uses."""
        state, lease = self.state, self.lease
        reports, inboxes = Reports(state), Inboxes(state, bus)
        self.claims: Claims = Claims(state, inboxes, lease, reports, end=self._end)
        reclaims = self._compose_reclaims(inboxes, reports)
        self.watching: Watching = Watching(state)
        self.rooms: Rooms = Rooms(
            state, bus, self.claims, reclaims, history=self.history, keeping=self.keeping, watching=self.watching
        )  # fmt: skip
        self.outbound: Outbound = Outbound(state, bus, lease)
        self.archive: Archive = Archive(state, self.history)
        self.broadcasts: Broadcasts = Broadcasts(state, bus, self.outbound, self.history.policy)
        self.mailboxes: Mailboxes = Mailboxes(state, bus, self.history)
        budget = Budget(state, self._end)
        self.questions: Questions = Questions(state, inboxes, self.directory)
        self.connections: Connections = Connections(
            state,
            questions=self.questions,
            claims=self.claims,
            reclaims=reclaims,
            rooms=self.rooms,
            outbound=self.outbound,
            budget=budget,
            showing=Showing(state, budget, self.claims, reclaims),
            history=self.history,
            mailboxes=self.mailboxes,
        )
        self.user_data: UserData = UserData(state, budget, self.directory)
        self.drain: Drain = Drain(state, self.connections, self.directory, lease)
        self._pinger = Pinger(
            state.shards,
            self.connections.limits,
            state.counters,
            state.histograms.ping,
            self.connections.expire,
        )
        self.telemetry: Telemetry = Telemetry(state, lease, self.directory, self._pinger, self.unready)
        self._compose_receivers(inboxes, reclaims, Sweeper(state, reports), degrading)

    def _compose_reclaims(self, inboxes: Inboxes, reports: Reports) -> Reclaims:
        """Create the parts that enter connections again, and decide which of them go on."""
        state, claims, keeping = self.state, self.claims, self.keeping
        revocations = Revocations(state, self._leave, lambda *end: self.connections.expire(*end))
        self.successions: Successions = Successions(state, claims, keeping, inboxes, self.lease)
        return Reclaims(
            state, claims, reports, keeping, revocations=revocations, successions=self.successions
        )

    def _compose_receivers(
        self, inboxes: Inboxes, reclaims: Reclaims, sweeper: Sweeper, degrading: DegradingBus | None
    ) -> None:
        """Create the parts that react to the bus and to beats."""
        state = self.state
        self.requests: Requests = Requests(
            state, inboxes, directory=self.directory, connections=self.connections, rooms=self.rooms,
            drain=self.drain, questions=self.questions, revocations=reclaims.revocations,
        )  # fmt: skip
        self.survey: Survey = Survey(
            state, inboxes, directory=self.directory, telemetry=self.telemetry, requests=self.requests,
            drain=self.drain,
        )  # fmt: skip
        acts = {Kind.EVICT: self.successions.on_evict, Kind.REQUEST: self.requests.on_request}
        acts[Kind.PRESENCE] = self.watching.on_change
        self.inbound: Inbound = Inbound(state, inboxes, self.history, acts)
        self.recovery: Recovery = Recovery(
            state,
            self.lease,
            claims=self.claims,
            reclaims=reclaims,
            tokens=self.tokens,
            keeping=self.keeping,
            watching=self.watching,
            sweeper=sweeper,
            history=self.history,
            telemetry=self.telemetry,
            degrading=degrading,
        )

    # Callbacks from a part to one that is created later: from the bus to its receivers, and from limits and
    # revocations to the end of a connection or of its stay in a room. None is called before all parts exist.

    def _open(self, open_backend: OpenBackend | None, state: NodeState) -> Backend:
        if open_backend is None:
            return MemoryBackend(MemoryHub(), state.node_id, self._receive, state.counters)
        watcher = Watcher(
            receive=self._receive,
            gap_began=lambda: self.recovery.gap_began(),
            gap_ended=lambda seconds: self.recovery.gap_ended(seconds),
            pause=state.fan_out.pause,
            flush_earlier_sends=self._flush,
            opened_at=state.shards.opened_at,
            heard_after=state.histograms.bus_lag.add,
            answered_after=state.histograms.redis_command.add,
        )
        return open_backend(state.config, watcher, state.counters)

    def _receive(self, channel: Channel, envelope: Envelope, size: int) -> None:
        self.inbound.receive(channel, envelope, size)

    def _deliver(self, channel: Channel, envelope: Envelope) -> None:
        self.inbound.deliver(channel, envelope)

    def _deliver_alone(self, channel: Channel, envelope: Envelope) -> None:
        self.history.release(channel, envelope)
        self.inbound.deliver(channel, envelope)

    def _flush(self) -> None:
        self.outbound.flush()

    async def _end(self, connection: Connection, cause: CloseCause, code: int, reason: str) -> None:
        await self.connections.end(connection, cause, code, reason)

    async def _leave(self, connection: Connection, room: str) -> None:
        await self.rooms.leave(connection, room)

    # Life

    def check_usable(self) -> None:
        """Check that calls that may leave this process can be made on this event loop.

        Raises:
            ShutdownError: After ``graceful_shutdown`` and before the next ``start``.
            NotStartedError: Distributed, and ``start`` has not returned yet. No sweep finds what a node has entered
                without a lease.
            WrongEventLoopError: Distributed, and started on another event loop.
        """
        if self.state.is_closed:
            raise ShutdownError("the manager was shut down; start() opens it again")
        if self.state.is_distributed and self.state.loop is not running_loop():
            self.check_reachable()
            self._check_loop()
        if self._is_joining:
            raise NotStartedError("start() has not returned yet: await it before the first call")

    def check_reachable(self) -> None:
        """Check that the store can be used, from any thread.

        Raises:
            ShutdownError, NotStartedError: As ``check_usable``. Memory can always be used.
        """
        if self.state.is_distributed and self.state.is_closed:
            raise ShutdownError("the manager was shut down; start() opens it again")
        if self.state.is_distributed and self.state.loop is None:
            raise NotStartedError(
                "redis_url is set: await manager.start() first, or FastAPI(lifespan=manager.lifespan)"
            )

    def _check_loop(self) -> None:
        if self.state.loop is not running_loop():
            raise WrongEventLoopError(
                "a manager with a redis_url works on the event loop that start() ran on: call it in an async def "
                "endpoint, from a thread with asyncio.run_coroutine_threadsafe(call, loop), or use SyncPublisher"
            )

    @property
    def is_closed(self) -> bool:
        return self.state.is_closed

    @property
    def is_started(self) -> bool:
        return self.state.loop is not None and not self.state.loop.is_closed()

    def unready(self) -> str | None:
        """Return why this node should get no new clients, or None if it is ready."""
        if self.state.is_closed:
            return "shut down"
        if self.state.is_draining:
            return "draining"
        if self.state.is_distributed and self.state.loop is None:
            return "not started"
        if self.state.is_away:
            return None if self.state.degrades else "Redis does not answer"
        if self.history.agreed.refusal:
            return self.history.agreed.refusal
        # No other node could reach its clients, although they would look connected.
        return "the bus is deaf: nothing of other nodes arrives" if self.state.backend.is_deaf else None

    async def start(self) -> bool:
        """Connect, take a lease, and start the services; return False if that was done on this loop before.

        Raises:
            BackendUnavailableError, ConfigurationError: As ``Backend.start``. All connections are closed again.
        """
        if self.state.loop is running_loop():
            return False
        if self.state.loop is not None and not self.state.loop.is_closed():
            raise WrongEventLoopError(
                "the manager is already started on another event loop; shut it down there first"
            )
        if self.state.is_distributed or self.state.loop is not None or self.state.is_closed:
            # Also at the first start, otherwise a forked worker would share the id of its parent. A start that failed
            # may have left connections, whose claims Redis has executed under its id.
            self.recovery.rename()
        self.state.loop, self.state.thread = running_loop(), threading.get_ident()
        self.state.is_closed = self.state.is_draining = self.state.is_out_of_time = False
        try:
            await self._join_others()
        except BaseException:
            self.state.loop = None
            await self.state.backend.stop()
            raise
        finally:
            self._is_joining = False
        self._start_services()
        return True

    async def _join_others(self) -> None:
        state, self.state.is_away, self._is_joining = self.state, False, True
        try:
            await state.backend.start(state.node_id)
            await self.history.begin()
            await self.tokens.share_secret()
            await self.lease.register(state.node_id)
        except BackendUnavailableError as error:
            if not state.degrades:
                raise
            # Under `uvicorn --workers`, a worker that does not start stops all other workers.
            await state.backend.stop()
            state.backend.start_later(state.node_id)
            self.lease.begin(state.node_id)
            self.recovery.store_lost(error)

    def _start_services(self) -> None:
        self.history.open()
        services: dict[str, Service] = {
            "fan-out": lambda: self.state.fan_out.run(self.lease.gate.obstacle),
            "heartbeats": self._pinger.run,
            "memory-check": self.connections.budget.run,
            "loop-lag": lambda: loop_lag.watch(self.state.histograms.event_loop_lag),
        }
        if self.state.is_distributed:
            services["lease"] = lambda: self.lease.run(self.recovery)
        self.state.gc_pauses.start()
        self._services.start(services)

    async def stop(self, timeout_s: float) -> ShutdownReport:
        """Reject new connections, close and release all, and disconnect from Redis, within about ``timeout_s``."""
        if self.state.is_distributed and self.is_started:
            self._check_loop()
        began_s = running_loop().time()
        await self.state.streams.close(timeout_s)  # while this node can still send
        self.state.is_closed = True
        left_s = max(0.0, timeout_s - (running_loop().time() - began_s))
        closed, failed = await self.connections.close_all(
            CloseCause.SHUTDOWN, close_codes.GOING_AWAY, CLOSED_REASON, left_s
        )
        left_s = timeout_s - (running_loop().time() - began_s)
        await self.state.tasks.settle(
            max(left_s, self.state.config.redis_timeout_s if self.state.loop else 0.1)
        )
        await self._stop_services()
        duration_s = running_loop().time() - began_s
        return ShutdownReport(closed, failed, duration_s)

    async def _stop_services(self) -> None:
        self.state.gc_pauses.stop()
        loop, self.state.loop = self.state.loop, None
        if not await self._services.stop(loop):
            return
        self.state.in_flight.give_up()
        self.history.close()
        self.state.is_away = False  # try once more, even if the last beat failed
        with suppress(*LOSSES):  # another node sweeps the rest by the index, so remove the entries first
            # Last, because other nodes may still send requests to this one. Not if a sweeper has something to report.
            if await self.recovery.release_rest():
                await self.telemetry.retire()
                await self.lease.retire(self.state.node_id)
        await self.state.backend.stop()
        self.state.subscribed.clear()
        self.state.boxes.clear()
        self.state.sequences.forget()
