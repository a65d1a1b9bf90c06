"""The identity, tables and stores that the parts of one node share."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from .. import __about__
from ..backends.ports import Backend
from ..config import WebSocketConfig
from ..exceptions import BackendUnavailableError
from ..local.fanout import FanOut
from ..local.sends import SendLimiter
from ..local.shards import Shards
from ..names import ConnectionId, NodeId
from ..runtime.gc_pauses import GcPauses
from ..runtime.metrics import Counters, Histograms
from ..runtime.tasks import Tasks
from ..streams.stream import Streams
from ..wire.channels import Channel
from ..wire.outgoing import Outgoing
from ..wire.own_json import encode_json
from ..wire.sequences import SequenceTracker
from .arrivals import Arrivals
from .ends import Ends
from .hooks import Hooks
from .in_flight import InFlight
from .replies import PendingReplies
from .tail import Tail

FORMER_IDS = 8
"""Number of remembered former ids of this process."""


@dataclass(frozen=True, slots=True)
class Served:
    """How this process is served, as ``manager.lifespan`` detects it.

    Attributes:
        protocol: Class that serves the sockets; see ``uvicorn/protocol.py``.
        reason: Reason why it is not our class; "" if it is.
        workers: Number of processes that serve this application on one port, or None if unknown.
        application: Name that distinguishes applications; "" if there is none.
    """

    protocol: str = "asgi"
    reason: str = "start() was called without manager.lifespan"
    workers: int | None = None
    application: str = ""


class NodeState:
    """One node: its identity, its tables and its stores, which the parts in this package share.

    Args:
        open_backend: Called once, when everything else is complete.

    Attributes:
        node_id: Random at every start, and replaced when the lease has lapsed.
        subscribed: Rooms with a confirmed subscription.
        boxes: Clients with a confirmed subscription to their mailbox.
        backend: The stores. To publish, use the bus that the registry gives to each part: it may degrade.
        is_closed: Whether this node was shut down, and not started again.
        is_draining: Whether new clients are rejected.
        is_out_of_time: Whether the shutdown starts no more hooks of presence.
        has_met_sessions: Whether a client has offered ``stabilizer.v1``, so that messages need an address.
    """

    is_closed: bool = False
    is_draining: bool = False
    is_out_of_time: bool = False
    has_met_sessions: bool = False

    def __init__(
        self,
        config: WebSocketConfig,
        log: logging.Logger,
        open_backend: "Callable[[NodeState], Backend]",
        *,
        is_distributed: bool,
    ) -> None:
        self.config: WebSocketConfig = config
        self.log: logging.Logger = log
        self.counters: Counters = Counters()
        self.histograms: Histograms = Histograms()
        self.gc_pauses: GcPauses = GcPauses()
        self.ends: Ends = Ends(self.counters, self.histograms, lambda: self.config.closed_log_size)
        self.arrivals: Arrivals = Arrivals()
        self.tasks: Tasks = Tasks(log)
        self.tail: Tail = Tail(self.tasks, self.counters, lambda: self.is_closed)
        self.streams: Streams = Streams(self.tasks, self.counters, lambda: self.config.max_message_size)
        spans = self.histograms
        handled, fanned_out = (
            (spans.message_handler, spans.fan_out) if config.enable_metrics else (None, None)
        )
        self.hooks: Hooks = Hooks(self.counters, log, handled)
        self.shards: Shards = Shards(config.num_shards)
        self.fan_out: FanOut = FanOut(self.shards, self.counters, fanned_out)
        self.limiter: SendLimiter = SendLimiter(lambda: self.config.max_concurrent_broadcast)
        self.in_flight: InFlight = InFlight(self.fan_out.submit)
        self.replies: PendingReplies = PendingReplies()
        self.subscribed: set[str] = set()
        self.boxes: set[str] = set()
        self.name: str = config.node_name or socket.gethostname()
        self.started: datetime = datetime.now(UTC)
        self.node_id: NodeId = new_node_id()
        self.outgoing: Outgoing = Outgoing(self.node_id)
        self.former_ids: list[NodeId] = []
        self.lapsed_ids: list[NodeId] = []  # those whose sweepers report the events
        self._counter = 0
        self.loop: asyncio.AbstractEventLoop | None = None  # of start()
        self.thread = 0  # of that loop
        self.served: Served = Served()
        self.is_distributed: bool = is_distributed
        self.degrades: bool = self.is_distributed and config.on_backend_loss == "degrade"
        self.is_away: bool = False  # Redis did not answer the last beat
        self.session_ttl_ms: int = int(config.session_ttl_s * 1000)
        self.backend: Backend = open_backend(self)
        self.sequences: SequenceTracker = SequenceTracker(is_ordered=self.backend.is_ordered)

    def next_connection_id(self) -> ConnectionId:
        self._counter += 1
        return ConnectionId(f"{self.node_id}.{self._counter}")

    def describe(self) -> bytes:
        """Return the description of this node in the store."""
        return encode_json(
            {
                "name": self.name,
                "version": __about__.__version__,
                "started": self.started.timestamp(),
                "draining": self.is_draining,
                "application": self.served.application,
                "group": self.group,
                "settings": self.config.shared(),
            },
            "node info",
        )

    @property
    def version(self) -> str:
        """The release of this library."""
        return __about__.__version__

    @property
    def group(self) -> str:
        """The processes that are scraped as one: those that serve one application on one port of one host."""
        if self.config.scrape_group is not None:
            return self.config.scrape_group
        process = os.getppid() if (self.served.workers or 1) > 1 else os.getpid()
        return f"{socket.gethostname()}:{process}"

    def is_subscribed(self, channel: Channel) -> bool:
        """Whether what is published to a channel that is no inbox comes back to this node."""
        if channel.client:
            return channel.client in self.boxes
        return not channel.room or channel.room in self.subscribed

    def has_members(self, channel: Channel) -> bool:
        """Whether a connection here is to be sent what is published to a channel that is no inbox."""
        if channel.client:
            return self.shards.has_client(channel.client)
        return not channel.room or channel.room in self.shards.rooms

    def may_be_watched(self, room: str) -> bool:
        """Whether clients may watch the members of a room."""
        return room.startswith(self.config.client_presence)

    def check_reachable(self) -> None:
        """Raise now instead of after ``redis_timeout_s``.

        Raises:
            BackendUnavailableError: Redis did not answer the last beat.
        """
        if self.is_away:
            raise BackendUnavailableError("Redis does not answer")

    def degraded(self) -> str | None:
        """Return the limitation of a node that is ready, or None if there is none."""
        if self.is_away or not self.backend.is_connected:
            return "no Redis: only clients of this node are reached"
        return None

    def rename(self, *, has_lapsed: bool = False) -> None:
        """Take a new node_id. With ``has_lapsed``, a sweeper reports the events of the present one."""
        self.former_ids = [*self.former_ids, self.node_id][-FORMER_IDS:]
        if has_lapsed:
            self.lapsed_ids = [*self.lapsed_ids, self.node_id][-FORMER_IDS:]
        self.node_id = new_node_id()
        self.outgoing.rename(self.node_id)

    @property
    def own_ids(self) -> tuple[NodeId, ...]:
        """Present and former ids of this process. Presence may still have entries of former ones."""
        return self.node_id, *self.former_ids

    def is_own(self, node: NodeId) -> bool:
        """Whether ``node`` is this process, under its present or a former id."""
        return node == self.node_id or node in self.former_ids


def new_node_id() -> NodeId:
    """Return 64 random bits."""
    return NodeId(secrets.token_hex(8))
