"""Settings. The fields of release 1.1 come first, in its order; all are validated, at assignment too."""

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

log: logging.Logger = logging.getLogger(__name__)

MIN_KEY_BYTES = 32
"""Shortest secret of ``envelope_keys``."""
PositiveFloat = Annotated[float, Gt(0)]
FiniteFloat = Annotated[float, Gt(0), AllowInfNan(False)]
PositiveInt = Annotated[int, Gt(0)]


_TOGETHER: Final = "settings_together"
"""The type of an error about several settings; its ``ctx`` names them."""

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
    """Return ``envelope_keys``; as text they are separated by commas.

    Raises:
        ValueError: They are no strings, or too short; says nothing of what they are.
    """
    keys = [key.strip() for key in value.split(",")] if isinstance(value, str) else value
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
        raise ValueError("must be strings")
    if any(len(key.encode(errors="ignore")) < MIN_KEY_BYTES for key in keys):
        raise ValueError(f"must be strings of at least {MIN_KEY_BYTES} bytes each")
    return tuple(keys)


def mask_password(url: str) -> str:
    """Return ``url`` with users and passwords, Sentinel's too, replaced by ``***``, for people to read."""
    hidden = re.sub(r"([?&](?:\w*password|\w*username)=)[^&\s]*", r"\1***", url)
    # A password that is not percent-encoded may hold anything: it ends at the last @, even where a path has one.
    return re.sub(r"//([^:/?#@]*)(:?).*@", _masked, hidden)


def _masked(credentials: re.Match[str]) -> str:
    user, colon = credentials.groups()
    return f"//{'***' if user or not colon else ''}{':***' if colon else ''}@"


def _named(error: ValidationError) -> ConfigurationError:
    """Return our error for pydantic's: one sentence for each refused setting."""
    errors = error.errors()
    settings = tuple(name for each in errors for name in _settings(each))
    return ConfigurationError("; ".join(map(_describe, errors)), settings=settings)


def _settings(error: Any) -> Sequence[str]:
    """Return the settings that an error of pydantic is about."""
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
    """Return a question about the name that ``name`` is like; "" when it is like none."""
    found = get_close_matches(name, known, n=1)
    return f": did you mean {found[0]}?" if found else ""


@dataclass(config=ConfigDict(validate_assignment=True, extra="forbid"))
class WebSocketConfig:
    """Every setting, with its default. Durations are seconds, sizes bytes.

    Raises:
        ConfigurationError: A value cannot work (also a ``ValueError``); at construction and at assignment.
    """

    heartbeat_interval: PositiveFloat = 30.0
    """Seconds of silence after which a connection is pinged."""
    heartbeat_timeout: PositiveFloat = 60.0
    """Seconds to wait for any sign of life after a ping; then the connection is closed with 4007."""
    heartbeat_type: Literal["ping", "custom"] = "ping"
    """``ping`` sends ``{"type": "ping", "timestamp": …}``; ``custom`` sends ``heartbeat_message``."""
    max_connections: PositiveInt | None = None
    """Connections on this node; one more is refused with ``ConnectionLimitExceededError``."""
    max_message_size: PositiveInt = 1048576
    """Longest message in bytes; a longer one inbound closes with 1009, outbound raises ``MessageError``."""
    reconnect_token_ttl: Annotated[timedelta, Gt(timedelta(0))] = field(
        default_factory=lambda: timedelta(hours=1)
    )
    """Lifetime of a reconnect token."""
    enable_reconnect: bool = True
    """False makes the token calls raise ``ConfigurationError``."""
    compression: Annotated[CompressionMode, BeforeValidator(_lower)] = CompressionMode.DEFLATE
    """permessage-deflate. ``none`` is obeyed under our uvicorn class; other servers negotiate it by themselves."""
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
    ] = "INFO"
    """From which level on this manager logs; lower case is taken, too."""
    enable_metrics: bool = False
    """Measure the duration of fan-outs too (``statistics().fan_out_seconds``); counters are always kept."""
    num_shards: PositiveInt = 16
    """Parts of the local tables; a fan-out gives the event loop back between two of them."""
    max_concurrent_cleanup: PositiveInt = 100
    """Sockets being closed at the same time."""
    max_concurrent_broadcast: PositiveInt = 1000
    """Sockets whose send is under way at the same time; further messages wait in their outboxes."""
    memory_check_interval: PositiveFloat = 60.0
    """Seconds between two measurements of all connections' metadata and user data."""
    memory_eviction_policy: Annotated[MemoryEvictionPolicy, BeforeValidator(_lower)] = (
        MemoryEvictionPolicy.LRU
    )
    """Which connection gives way when ``max_total_memory`` is reached."""
    max_memory_per_connection: PositiveInt | None = None
    """Bytes of metadata and user data of one connection."""
    max_total_memory: PositiveInt | None = None
    """Bytes of metadata and user data of all connections of this node."""

    heartbeat_message: str | JSON | None = None
    """What ``heartbeat_type="custom"`` sends; None is the same as ``"ping"``."""
    redis_url: Annotated[str | None, BeforeValidator(_redis_url)] = field(default=None)
    """Redis of the registry, its Sentinels or its cluster; None is one process in memory."""
    namespace: Annotated[str, BeforeValidator(_namespace)] = "fws"
    """First part of every key and channel; several registries may share one Redis."""
    node_name: Annotated[str, MinLen(1)] | None = None
    """This node's name for people; the host name unless set."""
    token_secret: Annotated[str, MinLen(16)] | None = field(default=None, repr=False)
    """Signs reconnect tokens; shared through Redis unless set."""
    envelope_keys: Annotated[tuple[str, ...], BeforeValidator(check_envelope_keys)] = field(
        default=(), repr=False
    )
    """Secrets of at least 32 bytes that sign what nodes publish: the first signs, all verify. None: unsigned."""
    max_connections_per_client: PositiveInt = 1
    """Sockets of one client in the whole registry."""
    on_client_overflow: Literal["replace", "reject"] = "replace"
    """One socket too many closes the oldest, or is itself refused."""
    displaced_code: Annotated[int, AfterValidator(_close_code)] = close_codes.NORMAL
    """Close code of a socket that a newer one of its client displaces; the reason is always "reconnected"."""
    max_metadata_size: PositiveInt = 16384
    """Bytes of one connection's metadata as JSON."""
    max_rooms_per_connection: PositiveInt = 1000
    """Rooms that one connection may be in."""
    outbox_size: PositiveInt = 1048576
    """Bytes that may wait for one slow socket; an empty outbox takes any one message."""
    outbox_policy: Literal["close", "drop_oldest", "drop_newest"] = "close"
    """What happens to a socket, or to a message, when its outbox is full."""
    write_timeout_s: FiniteFloat = 2.0
    """Seconds that one send to a socket may take before it is given up as a slow consumer."""
    close_timeout_s: FiniteFloat = 2.0
    """Seconds that closing one socket may take before it is forgotten."""
    inbound_frames_per_turn: PositiveInt = 8
    """Frames of one socket that are parsed in one turn of the event loop; the others wait for the next turns."""
    lease_ttl_s: FiniteFloat = 10.0
    """Seconds after which a silent node is dead; its clients are shown no longer than this."""
    renew_interval_s: FiniteFloat = 3.0
    """Seconds between two renewals of the lease (a beat)."""
    redis_timeout_s: FiniteFloat = 3.0
    """Seconds that Redis, or another node through it, may take to answer."""
    on_backend_loss: Literal["degrade", "refuse"] = "degrade"
    """Without Redis: serve this node's clients alone and register them later, or refuse what needs it."""
    drain_over_s: FiniteFloat = 20.0
    """Seconds over which a drain closes this node's clients, unless it is told otherwise."""
    drain_on_sigterm: bool = True
    """Under uvicorn, have ``manager.lifespan`` drain on SIGTERM before the server stops."""
    drain_secret: Annotated[str, MinLen(16)] | None = field(default=None, repr=False)
    """Bearer token of ``POST /drain``, at least 16 characters; None: the route answers 403."""
    keep_handshake: bool = False
    """Keep the request that opened a parked socket for ``connection.handshake``: 1 to 3 KiB each."""
    uvicorn_protocol: bool = True
    """Have ``manager.lifespan`` install ``fastapi_websocket_stabilizer.uvicorn`` when the server is uvicorn."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        # Two renewals may fail in a row before a living node's clients vanish from presence.
        if self.lease_ttl_s < 3 * self.renew_interval_s:
            both = f"{self.lease_ttl_s:g} < 3 x {self.renew_interval_s:g}"
            names = "lease_ttl_s", "renew_interval_s"
            rule = f"lease_ttl_s must be at least 3 x renew_interval_s: {both}"
            raise PydanticCustomError(_TOGETHER, "{rule}", {"rule": rule, "settings": names})
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, prefix: str = "WS_") -> Self:
        """Read settings from variables such as ``WS_HEARTBEAT_INTERVAL``; case does not matter.

        Durations are seconds; an empty value is the default. A variable that begins with ``prefix`` and names no
        setting is ignored, with a warning in the log; so is ``REDIS_URL`` without ``WS_REDIS_URL``.

        Raises:
            ConfigurationError: A value cannot work; the error names the variable.
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
        """Return the settings that all nodes of a registry need alike, without secrets."""
        return {
            "max_connections_per_client": self.max_connections_per_client,
            "on_client_overflow": self.on_client_overflow,
            "lease_ttl_s": self.lease_ttl_s,
            "signed": bool(self.envelope_keys),
        }

    def doubts(self) -> list[str]:
        """Return one sentence for each setting that can work and is probably not what was meant."""
        found = []
        if self.heartbeat_type == "custom" and self.heartbeat_message is None:
            found.append('heartbeat_type is "custom" without a heartbeat_message: it does what "ping" does')
        if self.redis_url is not None and self.redis_timeout_s > self.lease_ttl_s - self.renew_interval_s:
            found.append(
                f"redis_timeout_s ({self.redis_timeout_s:g}) is longer than lease_ttl_s - renew_interval_s"
                f" ({self.lease_ttl_s - self.renew_interval_s:g}): one renewal that Redis does not answer"
                " costs the lease; shorten redis_timeout_s or lengthen lease_ttl_s"
            )
        return found

    def __repr__(self) -> str:
        """Show what differs from the defaults; no password, no secret."""
        shown = []
        for setting in fields(self):
            value = getattr(self, setting.name)
            default = setting.default if setting.default_factory is MISSING else setting.default_factory()
            if setting.repr and value != default:
                shown.append(f"{setting.name}={_shown(setting.name, value)}")
        return f"WebSocketConfig({', '.join(shown)})"


# Kubernetes sets these for every service: one that is called "ws" must not look like a mistake.
_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_(TCP|UDP)|$)")


def _misnamed(environ: Mapping[str, str], prefix: str, variables: Mapping[str, str]) -> list[str]:
    """Return one sentence for each variable that was probably meant for a setting, and is none."""
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
    if name in ("token_secret", "drain_secret"):
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
        # A rule over two fields is checked after the assignment.
        self.__dict__[name] = before
        if name not in type(self).__dataclass_fields__:
            del self.__dict__[name]
        raise _named(error) from None


# pydantic reports "1 validation error for …" over three lines; ours read "<field> must be …". A wrap validator cannot
# raise ours: pydantic puts a ValueError of a validator into its own error, and ConfigurationError is a ValueError.
# Methods in the class body do not work either: the decorator replaces both.
WebSocketConfig.__init__ = _init_with_named_errors  # type: ignore[method-assign]  # same signature
WebSocketConfig.__setattr__ = _setattr_with_named_errors  # type: ignore[method-assign,assignment]  # same signature
