"""Checks before every route (host, token, requesting site), headers and log."""

import ipaddress
import json
import secrets
import socket
import time
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zoomldm.viewer.telemetry import Telemetry

COOKIE = "zoomldm_token"
LONGEST_PATH = 2048
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_GONE = 499  # nginx's status for a client that left

# The hash is of the empty string: the page holds an empty style in place of OpenSeadragon's.
_POLICY = (
    "default-src 'none'; script-src 'self'; "
    "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; "
    "img-src 'self' blob: data:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]


def is_loopback(host: str) -> bool:
    """Return whether a server bound to a host is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_of(host: str, others: Collection[str] = ()) -> frozenset[str]:
    """Names that requests to a server on a host may use; the empty name stands for any address.

    Args:
        host: host that the server is bound to.
        others: further names, for example of a proxy.
    """
    found = {*LOOPBACK, host.lower(), *(name.lower() for name in others)}
    if host in ("0.0.0.0", "::"):  # noqa: S104
        found |= {socket.gethostname().lower(), socket.getfqdn().lower(), ""}
    return frozenset(found)


class Guard:
    """ASGI middleware: refuses what is not meant for this server, and adds headers to answers.

    Args:
        app: the next application.
        names: host names that requests may be for; see `names_of`.
        token: token that all requests but those for the page itself must carry; None for none.
        telemetry: where answers are counted.
    """

    def __init__(
        self, app: ASGIApp, names: frozenset[str], token: str | None, telemetry: Telemetry
    ) -> None:
        self.app, self.names, self.telemetry = app, names, telemetry
        self.token = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        start, status, sent = time.perf_counter(), _GONE, 0

        async def dressed(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            refused = self._refused(scope)
            if refused:
                await _refuse(dressed, *refused)
            else:
                await self.app(scope, receive, dressed)
        finally:
            client = scope.get("client")
            self.telemetry.seen(
                scope["method"],
                scope["path"],
                status,
                time.perf_counter() - start,
                sent,
                client[0] if client else "",
            )

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason if the request is refused, else None."""
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name == b"host" and name in headers:
                return 400, "two Host headers"
            headers[name] = value
        path = scope["path"]
        if len(path) > LONGEST_PATH:
            return 414, "the path is too long"
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._known_host(host):
            return 421, f"this server is not {host[:100]!r}; allow that name with --allow-host"
        opening = path == "/" or path.startswith("/static/") or path == "/health"
        site = headers.get(b"sec-fetch-site", b"none")
        if site == b"cross-site" and path != "/":
            return 403, "requested by another site"
        if self.token and not opening and not self._has_token(headers):
            return 401, "a token is needed: open the address that the server printed"
        return None

    def _known_host(self, value: str) -> bool:
        name = value.rsplit(":", 1)[0] if not value.endswith("]") else value
        name = name.strip("[]").lower()
        if not name:
            return False
        if name in self.names:
            return True
        if "" not in self.names:
            return False
        try:  # an address; DNS rebinding needs a name
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _has_token(self, headers: dict[bytes, bytes]) -> bool:
        assert self.token is not None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and secrets.compare_digest(given.strip(), self.token):
            return True
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        found = cookies.get(COOKIE)
        return found is not None and secrets.compare_digest(
            found.value.encode("latin-1", "replace"), self.token
        )


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
