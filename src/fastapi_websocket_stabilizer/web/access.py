"""Checks of the callers of the admin routes: a secret, dependencies of the application, or this machine."""

import hmac
import time
from collections import deque
from collections.abc import Callable

from fastapi import HTTPException, Request

from ..exceptions import ConfigurationError
from ..runtime.metrics import Counters
from .metrics import PROXIED

LOOPBACK = ("127.0.0.1", "::1", "localhost")
FAILURES = 5
"""Wrong secrets of one address in a minute. Further ones are not compared."""
ALL_FAILURES = 50
"""Wrong secrets of all addresses in a minute."""
KNOWN = 16
"""Addresses with the right secret that are remembered."""
MINUTE_S = 60.0
OF_PROXIES = ("cf-connecting-ip", "true-client-ip", "x-client-ip", "x-cluster-client-ip")
"""Headers of proxies, beside those of ``PROXIED`` and ``X-Forwarded-*``."""
WRONG = "send admin_secret (WS_ADMIN_SECRET) as Authorization: Bearer <admin_secret>"
ELSEWHERE = (
    "without admin_secret, the admin routes answer browsers on this machine only, not through a proxy and at a "
    "loopback name such as localhost: set admin_secret (WS_ADMIN_SECRET), or give admin_router(dependencies=…)"
)
TOO_MANY = "too many wrong secrets: wait a minute. stabilizer on the command line needs no HTTP"
UNSAFE = (
    "an action needs the headers Content-Type: application/json and X-Stabilizer: 1, and must not come from another "
    "site"
)
UNGUARDED = (
    "admin_router(actions=…) lets callers act: set admin_secret (WS_ADMIN_SECRET), or give dependencies=[…] that "
    "check who calls"
)


class Failures:
    """Wrong secrets of the last minute. Pure: time is a parameter, in seconds.

    It keeps at most ``ALL_FAILURES`` of them, because more are not compared, and ``KNOWN`` addresses that had the
    right one. These are not held up by the failures of others.
    """

    def __init__(self) -> None:
        self._last: deque[tuple[float, str]] = deque()
        self._known: deque[str] = deque(maxlen=KNOWN)

    def add(self, address: str, now_s: float) -> None:
        """Note a wrong secret."""
        self._last.append((now_s, address))

    def passed(self, address: str) -> None:
        """Note that an address had the right secret."""
        if address not in self._known:
            self._known.append(address)

    def are_too_many(self, address: str, now_s: float) -> bool:
        """Whether a secret of this address is not to be compared now."""
        while self._last and self._last[0][0] <= now_s - MINUTE_S:
            self._last.popleft()
        mine = sum(each == address for _, each in self._last)
        return mine >= FAILURES or (len(self._last) >= ALL_FAILURES and address not in self._known)


class Access:
    """Checks the callers of one admin router.

    Args:
        secret: Function that returns ``admin_secret``.
        is_checked: Whether dependencies of the application check callers.
        counters: The counters of the node.
    """

    def __init__(self, secret: Callable[[], str | None], counters: Counters, *, is_checked: bool) -> None:
        self._secret, self._is_checked, self._counters = secret, is_checked, counters
        self._failures = Failures()

    def check_guarded(self) -> None:
        """Check that callers are checked before they act.

        Raises:
            ConfigurationError: There is neither a secret nor a dependency.
        """
        if self._secret() is None and not self._is_checked:
            raise ConfigurationError(UNGUARDED, settings=("admin_secret",))

    async def check_page(self, request: Request) -> None:
        """Allow a browser to load the page, which has no data. With a secret, it asks for it.

        Raises:
            HTTPException: 403 if there is neither a secret nor a dependency, and the caller is elsewhere.
        """
        if self._is_open_to_this_machine and not _is_on_this_machine(request):
            self._refuse(403, ELSEWHERE)

    def check(self, request: Request) -> None:
        """Allow a caller to look.

        Raises:
            HTTPException: 403, or 429 after too many wrong secrets.
        """
        secret = self._secret()
        if secret is not None:
            self._check_secret(request, secret)
        elif self._is_open_to_this_machine and not (
            _is_on_this_machine(request) and _is_of_the_page(request)
        ):
            self._refuse(403, ELSEWHERE)

    @property
    def _is_open_to_this_machine(self) -> bool:
        return self._secret() is None and not self._is_checked

    def _check_secret(self, request: Request, secret: str) -> None:
        address, now_s = request.client.host if request.client else "", time.monotonic()
        if self._failures.are_too_many(address, now_s):
            self._refuse(429, TOO_MANY)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), secret.encode())
        if scheme.lower() == "bearer" and is_right:
            self._failures.passed(address)
            return
        if given:  # a page that has no secret yet asks without one
            self._failures.add(address, now_s)
        self._refuse(403, WRONG)

    def check_action(self, request: Request) -> None:
        """Allow a caller to act: another site must not be able to send the request with the user's cookies.

        Raises:
            HTTPException: 403 for any other request.
        """
        headers = request.headers
        is_json = headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
        if not (is_json and headers.get("x-stabilizer") == "1" and _is_of_the_page(request)):
            self._refuse(403, UNSAFE)

    def _refuse(self, status: int, detail: str) -> None:
        self._counters.admin_refused += 1
        raise HTTPException(status, detail)


def _is_on_this_machine(request: Request) -> bool:
    """Whether a request came directly from this machine, at a name that no other site can have (DNS rebinding).

    A proxy shows itself by a header, or by HTTP/1.0 or a connection for one request, as nginx without settings does.
    """
    names = request.headers.keys()
    is_forwarded = any(
        name in PROXIED or name in OF_PROXIES or name.startswith("x-forwarded-") for name in names
    )
    is_for_one = request.headers.get("connection", "").strip().lower() == "close"
    is_direct = not is_forwarded and not is_for_one and request.scope.get("http_version") != "1.0"
    is_local = request.client is not None and request.client.host in LOOPBACK
    return is_direct and is_local and _host_of(request.headers.get("host", "")) in LOOPBACK


def _is_of_the_page(request: Request) -> bool:
    """Whether a browser says that no page of another site has sent the request. Programs say nothing."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _host_of(header: str) -> str:
    """Return the name in a ``Host`` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0] if header.count(":") == 1 else header
