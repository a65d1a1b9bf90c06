"""The Lua scripts, loaded at import."""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """One operation that Redis executes atomically."""

    name: str
    source: str
    sha: str


_COMMENT = re.compile(r"(^|\s+)--[^'\"]*$", re.MULTILINE)
"""A comment up to the end of its line. With a quotation mark it may be part of a string, and stays."""


def stripped(source: str) -> str:
    """Return Lua without comments and indentation, which is half of it: Redis hashes a source with each EVAL."""
    lines = (_COMMENT.sub("", line).strip() for line in source.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("--"))


def _read(name: str, *shared: str) -> Script:
    """Return a script, preceded by the shared functions that it uses."""
    lua = files(__package__).joinpath("lua")
    parts = [*(lua.joinpath("shared", f"{part}.lua") for part in shared), lua.joinpath(f"{name}.lua")]
    source = "".join(stripped(part.read_text()) for part in parts)
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


AGREE = _read("agree")
CLIENT_CLAIM = _read("client_claim", "claims", "entries", "events")
CLIENT_CLAIM_IF_FREE = _read("client_claim_if_free", "claims", "entries", "events")
CLIENT_RELEASE = _read("client_release", "entries", "events")
CLIENT_REVOKE = _read("client_revoke")
CLIENT_REVOKED = _read("client_revoked")
CLIENTS_PUBLISH = _read("clients_publish")
LOG_AFTER = _read("log_after", "logs")
LOG_APPEND = _read("log_append", "log_placed", "logs")
LOG_BEGIN = _read("log_begin")
LOG_DELETE = _read("log_delete", "log_placed", "logs")
LOG_POLICY_REPLACE = _read("log_policy_replace")
LOG_VERIFY = _read("log_verify", "log_placed", "logs")
MAILBOX_MARK = _read("mailbox_mark", "logs")
MAILBOX_READ = _read("mailbox_read")
NODE_ABANDON = _read("node_abandon")
NODE_FENCE = _read("node_fence")
NODE_FENCE_EXTEND = _read("node_fence_extend")
NODE_REGISTER = _read("node_register")
NODE_RENEW = _read("node_renew")
NODE_SHORTEN = _read("node_shorten")
PRESENCE_CONFIRM = _read("presence_confirm")
PRESENCE_ENTER = _read("presence_enter", "log_placed", "presence")
PRESENCE_LEAVE = _read("presence_leave", "log_placed", "presence")
PRESENCE_UPDATE = _read("presence_update", "entries")
ROOM_JOIN = _read("room_join", "events")
ROOM_LEAVE = _read("room_leave", "events")
SESSION_BEGIN = _read("session_begin", "sessions")
SESSION_CLAIM = _read("session_claim", "claims", "entries", "events", "session_claims")
SESSION_CLAIM_IF_FREE = _read("session_claim_if_free", "claims", "entries", "events", "session_claims")
SESSION_FORGET = _read("session_forget", "sessions")
SESSION_MARK = _read("session_mark", "sessions")
SESSION_NOTE = _read("session_note", "sessions")
SESSION_RELEASE = _read("session_release", "sessions")
SESSION_REVOKE = _read("session_revoke", "sessions")
SESSION_TAKE = _read("session_take", "sessions")
WORKER_TAKE = _read("worker_take")
