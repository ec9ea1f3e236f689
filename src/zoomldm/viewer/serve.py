"""Running a viewer: uvicorn on a socket, a browser, and a clean shutdown."""

import asyncio
import socket
import threading
import webbrowser
from collections.abc import Callable
from typing import Literal

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from zoomldm.errors import ConfigError
from zoomldm.viewer.guard import is_loopback

HEADERS_WITHIN = 10.0  # seconds for a client to send its request head
CONNECTIONS = 1000
GRACE = 10  # seconds for open answers to finish on shutdown


def patient(kind: type) -> type:
    """Subclass a uvicorn protocol to close connections whose request head does not arrive.

    uvicorn waits forever, so a few hundred clients that send a byte a minute would take all
    connections.
    """

    class Patient(kind):  # type: ignore[misc, valid-type]
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._stop()
            elif self._deadline is None and (self.cycle is None or self.cycle.response_complete):
                self._wait()  # another request on a kept-alive connection has begun

        def _wait(self) -> None:
            self._deadline = self.loop.call_later(HEADERS_WITHIN, self._give_up)

        def _stop(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _give_up(self) -> None:
            self._deadline = None
            if not self.transport.is_closing():
                self.transport.close()

    return Patient


def fastest_protocol() -> type:
    """Return uvicorn's protocol on httptools if installed, else on h11."""
    try:
        import httptools  # noqa: F401
    except ImportError:
        return H11Protocol
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    return HttpToolsProtocol


def fastest_loop() -> Literal["uvloop", "asyncio"]:
    """Return uvloop if installed, else Python's own event loop."""
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return "asyncio"
    return "uvloop"


def bound(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: name or address.
        port: port number; 0 picks a free one.

    Raises:
        ConfigError: the port is taken, or this machine has no such address.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{host}:{port}: can't be listened on ({reason}); give another --port or --host"
        ) from error
    return sock


def address_of(sock: socket.socket, host: str, token: str | None = None) -> str:
    """Return the URL of a server; the token goes in the fragment, which browsers don't send."""
    port = sock.getsockname()[1]
    name = "127.0.0.1" if is_loopback(host) and host != "localhost" else host
    if host in ("0.0.0.0", "::"):  # noqa: S104
        name = socket.gethostname()
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"#token={token}" if token else "")


def serve(
    app: FastAPI,
    sock: socket.socket,
    url: str | None = None,
    ready: Callable[[uvicorn.Server], None] | None = None,
) -> None:
    """Serve until the process is interrupted or terminated; open answers may finish first.

    Args:
        app: the application; see `create_app`.
        sock: socket to listen on; see `bound`.
        url: URL to open in a browser once the server listens; None opens none.
        ready: called with the server before it starts.
    """
    config = uvicorn.Config(
        app,
        http=patient(fastest_protocol()),
        loop=fastest_loop(),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=16 << 10,
    )
    server = uvicorn.Server(config)
    if ready:
        ready(server)
    if url:
        timer = threading.Timer(0.7, webbrowser.open, (url,))
        timer.daemon = True
        timer.start()
    server.run(sockets=[sock])
