"""Settings, validated at construction and assignment. The fields of release 1.1 come first, in its order."""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields
from datetime import timedelta
from difflib import get_close_matches
from functools import wraps
from typing import Annotated, Any, Final, Literal, Self

from annotated_types import Gt, MinLen
from pydantic import (
    AfterValidator,
    AllowInfNan,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from . import close_codes
from .exceptions import ConfigurationError
from .models import JSON, CompressionMode, MemoryEvictionPolicy
from .retention import History, Mailbox, read_histories, read_history, read_mailbox, stored

log: logging.Logger = logging.getLogger(__name__)

MIN_KEY_BYTES = 32
"""Minimum length of a secret in ``envelope_keys``, in bytes."""
CURSOR_BYTES = 1 << 16
"""Least ``max_message_size`` without a warning, if clients return with positions."""
PositiveFloat = Annotated[float, Gt(0)]
FiniteFloat = Annotated[float, Gt(0), AllowInfNan(False)]
PositiveInt = Annotated[int, Gt(0)]


_TOGETHER: Final = "settings_together"
"""The type of an error about several settings, whose ``ctx`` has their names."""

_SCHEMES = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)


def _lower(value: object) -> object:
    return (
        value.lower()
        if isinstance(value, str) and not isinstance(value, CompressionMode | MemoryEvictionPolicy)
        else value
    )


def _split(value: object) -> object:
    """Return the parts of a text between commas, without spaces around them."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _redis_url(value: object) -> object:
    if value is None:
        return value
    if not isinstance(value, str) or not value.startswith(_SCHEMES):
        raise ValueError(
            "must be a redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL"
            " (rediss+sentinel:// and rediss+cluster:// with TLS)"
        )
    return value


def _close_code(value: int) -> int:
    if not close_codes.is_allowed(value):
        raise ValueError(f"must be {close_codes.ALLOWED}")
    return value


def _namespace(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[^{}\x00-\x1f\x7f-\x9f]{1,64}", value):
        raise ValueError("must be 1 to 64 characters without braces and control characters")
    return value


def check_envelope_keys(value: object) -> tuple[str, ...]:
    """Return ``envelope_keys`` as a tuple; a string is split at commas.

    Raises:
        ValueError: One is not a string or is too short; the message does not contain the keys.
    """
    keys = [key.strip() for key in value.split(",")] if isinstance(value, str) else value
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
        raise ValueError("must be strings")
    if any(len(key.encode(errors="ignore")) < MIN_KEY_BYTES for key in keys):
        raise ValueError(f"must be strings of at least {MIN_KEY_BYTES} bytes each")
    return tuple(keys)


def mask_password(url: str) -> str:
    """Return ``url`` with ``***`` for all users and passwords, including those of Sentinels."""
    hidden = re.sub(r"([?&](?:\w*password|\w*username)=)[^&\s]*", r"\1***", url)
    # A password that is not percent-encoded may have any character, so mask up to the last @, even of a path.
    return re.sub(r"//([^:/?#@]*)(:?).*@", _masked, hidden)


def _masked(credentials: re.Match[str]) -> str:
    user, colon = credentials.groups()
    return f"//{'***' if user or not colon else ''}{':***' if colon else ''}@"


def _named(error: ValidationError) -> ConfigurationError:
    """Return the ``ConfigurationError`` for pydantic's error: one sentence for each rejected setting."""
    errors = error.errors()
    settings = tuple(name for each in errors for name in _settings(each))
    return ConfigurationError("; ".join(map(_describe, errors)), settings=settings)


def _settings(error: Any) -> Sequence[str]:
    """Return the names of the settings in an error of pydantic."""
    names: Sequence[str] = error["ctx"]["settings"] if error["type"] == _TOGETHER else error["loc"][:1]
    return [str(name) for name in names]


def _describe(error: Any) -> str:
    rule: str = error["msg"].removeprefix("Value error, ")
    if error["type"] == _TOGETHER:
        return rule
    name = "".join(_settings(error)) or "WebSocketConfig"
    if error["type"] in ("unexpected_keyword_argument", "missing", "no_such_attribute"):
        return f"{name} is not a setting{_did_you_mean(name, WebSocketConfig.__dataclass_fields__)}"
    rule = rule.replace("Input should be", "must be").replace("must be greater than 0", "must be positive")
    value = _shown(name, error["input"])
    return f"{name} {rule if rule.startswith('must') else f'must be valid: {rule}'}, got {value[:200]}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ": did you mean …?" with the known name most similar to ``name``; "" if none is similar."""
    found = get_close_matches(name, known, n=1)
    return f": did you mean {found[0]}?" if found else ""


@dataclass(config=ConfigDict(validate_assignment=True, extra="forbid"))
class WebSocketConfig:
    """All settings and their defaults. Durations are in seconds, sizes in bytes.

    Raises:
        ConfigurationError: A value is invalid, at construction or assignment (also a ``ValueError``).
    """

    heartbeat_interval: PositiveFloat = 30.0
    """Seconds without data from the peer until a ping is sent."""
    heartbeat_timeout: PositiveFloat = 60.0
    """Seconds to wait for any data after a ping, before the connection is closed with 4007."""
    heartbeat_type: Literal["ping", "custom"] = "ping"
    """``ping`` sends ``{"type": "ping", "timestamp": …}``; ``custom`` sends ``heartbeat_message``."""
    max_connections: PositiveInt | None = None
    """Maximum connections on this node; a further one raises ``ConnectionLimitExceededError``."""
    max_message_size: PositiveInt = 1048576
    """Maximum message size in bytes. A larger inbound message closes with 1009; outbound raises ``MessageError``."""
    reconnect_token_ttl: Annotated[timedelta, Gt(timedelta(0))] = field(
        default_factory=lambda: timedelta(hours=1)
    )
    """Lifetime of a reconnect token."""
    enable_reconnect: bool = True
    """Whether reconnect tokens are enabled; if not, the token calls raise ``ConfigurationError``."""
    compression: Annotated[CompressionMode, BeforeValidator(_lower)] = CompressionMode.DEFLATE
    """permessage-deflate. ``none`` needs this library's uvicorn class; other servers negotiate by themselves."""
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
    ] = "INFO"
    """Minimum level of this manager's log messages, in upper or lower case."""
    enable_metrics: bool = False
    """Whether to measure fan-out durations (``statistics().fan_out_seconds``). Counters are always kept."""
    num_shards: PositiveInt = 16
    """Number of shards of the local tables. A fan-out yields to the event loop between two shards."""
    max_concurrent_cleanup: PositiveInt = 100
    """Maximum sockets that are closed at the same time."""
    max_concurrent_broadcast: PositiveInt = 1000
    """Maximum sockets that are written to at the same time; further messages wait in outboxes."""
    memory_check_interval: PositiveFloat = 60.0
    """Seconds between two measurements of all connections' metadata and user data."""
    memory_eviction_policy: Annotated[MemoryEvictionPolicy, BeforeValidator(_lower)] = (
        MemoryEvictionPolicy.LRU
    )
    """The connection to close when ``max_total_memory`` is reached."""
    max_memory_per_connection: PositiveInt | None = None
    """Maximum bytes of metadata and user data of one connection."""
    max_total_memory: PositiveInt | None = None
    """Maximum bytes of metadata and user data of all connections of this node."""

    heartbeat_message: str | JSON | None = None
    """The message of ``heartbeat_type="custom"``; None for that of ``"ping"``."""
    redis_url: Annotated[str | None, BeforeValidator(_redis_url)] = field(default=None)
    """URL of the registry's Redis, Sentinels or cluster; None for one process in memory."""
    namespace: Annotated[str, BeforeValidator(_namespace)] = "fws"
    """First part of every key and channel, so that several registries can share one Redis."""
    node_name: Annotated[str, MinLen(1)] | None = None
    """Display name of this node; None for the host name."""
    token_secret: Annotated[str, MinLen(16)] | None = field(default=None, repr=False)
    """Secret that signs reconnect tokens; None for a random one, which Redis shares among the nodes."""
    envelope_keys: Annotated[tuple[str, ...], BeforeValidator(check_envelope_keys)] = field(
        default=(), repr=False
    )
    """Secrets of at least 32 bytes that sign envelopes. The first signs, all verify; empty for no signatures."""
    max_connections_per_client: PositiveInt = 1
    """Maximum sockets of one client in the whole registry."""
    on_client_overflow: Literal["replace", "reject"] = "replace"
    """Whether a socket beyond the limit replaces the client's oldest or is rejected."""
    displaced_code: Annotated[int, AfterValidator(_close_code)] = close_codes.NORMAL
    """Close code of a displaced socket. The reason is always "reconnected"."""
    max_metadata_size: PositiveInt = 16384
    """Maximum bytes of one connection's metadata as JSON."""
    max_rooms_per_connection: PositiveInt = 1000
    """Maximum rooms of one connection."""
    outbox_size: PositiveInt = 1048576
    """Maximum bytes in the outbox of one socket; an empty outbox accepts a message of any size."""
    outbox_policy: Literal["close", "drop_oldest", "drop_newest"] = "close"
    """Reaction to a full outbox: close the socket, or drop a message. Sockets of ``stabilizer.v1`` are closed."""
    write_timeout_s: FiniteFloat = 2.0
    """Seconds that one write to a socket may take before it is closed as a slow consumer.

    With ``stabilizer.v1`` on the WebSocket class for uvicorn, it is ``heartbeat_interval`` + ``heartbeat_timeout`` if
    that is longer.
    """
    close_timeout_s: FiniteFloat = 2.0
    """Seconds that the close of one socket may take before it is abandoned."""
    inbound_frames_per_turn: PositiveInt = 8
    """Maximum frames of one socket that are parsed in one turn of the event loop; the rest waits for later turns."""
    lease_ttl_s: FiniteFloat = 10.0
    """Lease of a node in seconds. After that, a node without renewal is dead and its clients leave presence."""
    renew_interval_s: FiniteFloat = 3.0
    """Seconds between two renewals of the lease (a beat)."""
    redis_timeout_s: FiniteFloat = 3.0
    """Seconds to wait for an answer of Redis, or of another node."""
    on_backend_loss: Literal["degrade", "refuse"] = "degrade"
    """Without Redis: serve only local clients and register them later, or refuse calls that need Redis."""
    drain_over_s: FiniteFloat = 20.0
    """Default seconds over which a drain closes this node's clients."""
    drain_on_sigterm: bool = True
    """Whether, under uvicorn, ``manager.lifespan`` drains on SIGTERM before the server stops."""
    drain_secret: Annotated[str, MinLen(16)] | None = field(default=None, repr=False)
    """Bearer token of ``POST /drain``, at least 16 characters. With None, the route returns 403."""
    keep_handshake: bool = False
    """Whether parked sockets keep their opening request in ``connection.handshake``: 1 to 3 KiB each."""
    client_protocol: bool = True
    """Whether clients that offer the subprotocol ``stabilizer.v1`` get it, on the routes that support it."""
    client_presence: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Rooms whose members clients of ``stabilizer.v1`` may watch, by the beginning of the name; "" is every room."""
    uvicorn_protocol: bool = True
    """Whether ``manager.lifespan`` installs ``fastapi_websocket_stabilizer.uvicorn`` if the server is uvicorn."""
    history: Annotated[dict[str, History], BeforeValidator(read_histories)] = field(default_factory=dict)
    """Rooms whose messages Redis keeps, by prefix of the room; the longest wins, "" is every room."""
    history_for_all: Annotated[History | None, BeforeValidator(read_history)] = None
    """Whether and how many messages to everybody Redis keeps; None for none."""
    mailbox: Annotated[Mailbox | None, BeforeValidator(read_mailbox)] = None
    """Whether and how many messages to one client Redis keeps, of those sent with ``store=True``; None for none."""
    session_ttl_s: FiniteFloat = 120.0
    """Seconds after its connection for which a session of ``stabilizer.v1`` can be continued."""
    scrape_group: Annotated[str, MinLen(1)] | None = None
    """Name of the processes that one scrape of ``metrics_router`` shows; None for the workers of a server."""
    enable_otel_metrics: bool = False
    """Whether the metrics are also instruments of OpenTelemetry. Spans need no setting."""
    metrics_secret: Annotated[str, MinLen(16)] | None = field(default=None, repr=False)
    """Bearer token of ``GET /metrics``, at least 16 characters. With None, forwarded requests are refused."""
    admin_secret: Annotated[str, MinLen(16)] | None = field(default=None, repr=False)
    """Bearer token of ``manager.admin_router()``, at least 16 characters. With None, only this machine may look."""
    closed_log_size: PositiveInt = 1000
    """Number of ended connections of this node that ``recently_closed`` returns."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        # Otherwise two failed renewals in a row would remove a live node's clients from presence.
        if self.lease_ttl_s < 3 * self.renew_interval_s:
            both = f"{self.lease_ttl_s:g} < 3 x {self.renew_interval_s:g}"
            names = "lease_ttl_s", "renew_interval_s"
            rule = f"lease_ttl_s must be at least 3 x renew_interval_s: {both}"
            raise PydanticCustomError(_TOGETHER, "{rule}", {"rule": rule, "settings": names})
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, prefix: str = "WS_") -> Self:
        """Return settings from variables such as ``WS_HEARTBEAT_INTERVAL``, in upper or lower case.

        Durations are in seconds; an empty value means the default. A variable with ``prefix`` and an unknown name is
        ignored with a warning in the log, and so is ``REDIS_URL`` without ``WS_REDIS_URL``.

        Raises:
            ConfigurationError: A value is invalid; the message has the variable.
        """
        environ = os.environ if environ is None else environ
        variables = {f"{prefix}{setting.name}".upper(): setting.name for setting in fields(cls)}
        read = {variables[name.upper()]: name for name in environ if name.upper() in variables}
        read = {setting: name for setting, name in read.items() if environ[name]}
        for advice in _misnamed(environ, prefix.upper(), variables):
            log.warning(advice)
        try:
            values: dict[str, Any] = {
                setting: _from_text(setting, environ[name]) for setting, name in read.items()
            }
            return cls(**values)
        except ConfigurationError as error:
            named = ", ".join(name for setting, name in read.items() if setting in error.settings)
            raise ConfigurationError(f"{error} (set by {named})", settings=error.settings) from None

    def shared(self) -> dict[str, float | str | bool]:
        """Return the settings that must be equal on all nodes of a registry, without secrets."""
        return {
            "max_connections_per_client": self.max_connections_per_client,
            "on_client_overflow": self.on_client_overflow,
            "lease_ttl_s": self.lease_ttl_s,
            "signed": bool(self.envelope_keys),
            **({"stored": self._stored} if self.stores else {}),
            **({"client_presence": " ".join(sorted(self.client_presence))} if self.client_presence else {}),
        }

    @property
    def _stored(self) -> str:
        everybody, mailboxes = self.history_for_all is not None, self.mailbox is not None
        return stored(self.history, everybody=everybody, mailboxes=mailboxes)

    @property
    def stores(self) -> bool:
        """Whether any message is stored."""
        return bool(self.history or self.history_for_all or self.mailbox)

    def doubts(self) -> list[str]:
        """Return one sentence for each valid setting that is probably a mistake."""
        found = []
        if self.heartbeat_type == "custom" and self.heartbeat_message is None:
            found.append('heartbeat_type is "custom" without a heartbeat_message: it does what "ping" does')
        if self.client_protocol and self.stores and self.max_message_size < CURSOR_BYTES:
            found.append(
                f"max_message_size ({self.max_message_size}) is below {CURSOR_BYTES}: a client of stabilizer.v1 sends"
                " its positions in one frame, 20 bytes and the name of each room with history, and cannot come back"
                f" if that is too long; set it to {CURSOR_BYTES} or more, or give such clients few rooms"
            )
        if self.redis_url is not None and self.redis_timeout_s > self.lease_ttl_s - self.renew_interval_s:
            found.append(
                f"redis_timeout_s ({self.redis_timeout_s:g}) is longer than lease_ttl_s - renew_interval_s"
                f" ({self.lease_ttl_s - self.renew_interval_s:g}): one renewal that Redis does not answer"
                " costs the lease; shorten redis_timeout_s or lengthen lease_ttl_s"
            )
        return found

    def __repr__(self) -> str:
        """Return the settings that differ from their defaults, without passwords and secrets."""
        shown = []
        for setting in fields(self):
            value = getattr(self, setting.name)
            default = setting.default if setting.default_factory is MISSING else setting.default_factory()
            if setting.repr and value != default:
                shown.append(f"{setting.name}={_shown(setting.name, value)}")
        return f"WebSocketConfig({', '.join(shown)})"


# Kubernetes sets these for every service, so a service named "ws" must cause no warning.
_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_(TCP|UDP)|$)")


def _misnamed(environ: Mapping[str, str], prefix: str, variables: Mapping[str, str]) -> list[str]:
    """Return one sentence for each ignored variable that was probably meant as a setting."""
    names = [name for name in environ if prefix and name.upper().startswith(prefix)]
    unknown = [n for n in names if n.upper() not in variables and not _OF_KUBERNETES.search(n.upper())]
    found = [
        f"the variable {name} names no setting and is ignored{_did_you_mean(name.upper(), variables)}"
        for name in sorted(unknown)
    ]
    url = f"{prefix}REDIS_URL"
    if prefix and environ.get("REDIS_URL") and not any(environ[n] for n in environ if n.upper() == url):
        found.append(f"the variable REDIS_URL is set and is not read: did you mean {url}?")
    return found


def _from_text(name: str, text: str) -> object:
    if name == "reconnect_token_ttl":
        try:
            return timedelta(seconds=float(text))
        except (ValueError, OverflowError):
            raise ConfigurationError(f"{name} must be seconds, got {text!r}", settings=(name,)) from None
    return text


def _shown(name: str, value: object) -> str:
    if name.endswith("_secret"):
        return f"{len(str(value))} characters"
    if name == "envelope_keys":
        keys = value.split(",") if isinstance(value, str) else value
        return f"{len(keys)} of them" if isinstance(keys, list | tuple) else "something else"
    if name == "redis_url":
        return repr(mask_password(str(value))) if "://" in str(value) else "no scheme"
    return repr(value)


_init, _setattr = WebSocketConfig.__init__, WebSocketConfig.__setattr__


@wraps(_init)
def _init_with_named_errors(self: WebSocketConfig, *args: Any, **kwargs: Any) -> None:
    try:
        _init(self, *args, **kwargs)
    except ValidationError as error:
        raise _named(error) from None


@wraps(_setattr)
def _setattr_with_named_errors(self: WebSocketConfig, name: str, value: Any) -> None:
    before = self.__dict__.get(name)
    try:
        _setattr(self, name, value)
    except ValidationError as error:
        # A rule over two fields fails after the assignment, so restore the old value.
        self.__dict__[name] = before
        if name not in type(self).__dataclass_fields__:
            del self.__dict__[name]
        raise _named(error) from None


# pydantic reports "1 validation error for …" over three lines; this library's error is "<field> must be …". A wrap
# validator cannot raise it, because pydantic wraps every ValueError, and ConfigurationError is one. Methods in the
# class body do not work either, because the decorator replaces both.
WebSocketConfig.__init__ = _init_with_named_errors  # type: ignore[method-assign]  # same signature
WebSocketConfig.__setattr__ = _setattr_with_named_errors  # type: ignore[method-assign,assignment]  # same signature
