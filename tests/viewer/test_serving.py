"""A real server on a real socket: slow and leaving clients, the command, its contract."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from viewer.conftest import tile_url
from zoomldm.viewer.app import ViewerSettings, create_app
from zoomldm.viewer.catalogue import Catalogue, open_catalogue
from zoomldm.viewer.pictures import ArchiveImage
from zoomldm.viewer.serve import bound, serve


class Running:
    """A server in a thread, and what may be asked of it."""

    def __init__(self, catalogue: Catalogue, **settings: Any) -> None:
        self.app = create_app(catalogue, ViewerSettings(**settings))
        self.socket = bound("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        servers: list[Any] = []
        self.thread = threading.Thread(
            target=serve, args=(self.app, self.socket, None, servers.append), daemon=True
        )
        self.thread.start()
        while not servers or not servers[0].started:
            time.sleep(0.01)
        self.server = servers[0]

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def running(catalogue: Catalogue) -> Iterator[Running]:
    server = Running(catalogue, most=3)
    yield server
    server.stop()


def held(running: Running, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Generating waits for an event."""
    event = threading.Event()
    read = ArchiveImage.read

    def slow(self: ArchiveImage, *place: int) -> Any:
        if not self.is_real(place[1]):
            event.wait(30)
        return read(self, *place)

    monkeypatch.setattr(ArchiveImage, "read", slow)
    return event


def until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_abandoned_requests_are_cancelled_and_a_full_queue_answers(
    running: Running, shown: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, metadata = held(running, monkeypatch), shown["archive"]
    making = running.app.state.service.making

    def asked(col: int) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", running.port))
        path = tile_url(metadata, 0, col, 1, seed=9)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return sock

    clients = [asked(0)]
    until(lambda: making.running == 1)
    clients += [asked(col) for col in (1, 2, 3)]
    until(lambda: making.waiting == 3)
    status, body = running.get(tile_url(metadata, 0, 4, 1, seed=9))
    assert status == 503 and "try again in" in json.loads(body)["error"]
    assert running.get(tile_url(metadata, 3))[0] == 200  # stored pixels don't wait behind
    for client in clients[1:3]:
        client.close()
    until(lambda: making.waiting == 1)
    assert making.counts.abandoned == 2
    event.set()
    assert clients[3].recv(15) == b"HTTP/1.1 200 OK"
    for client in (clients[0], clients[3]):
        client.close()


def test_clients_that_never_finish_are_let_go(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoomldm.viewer.serve.HEADERS_WITHIN", 0.3)
    slow = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(5)]
    for client in slow[1:]:
        client.sendall(b"GET / HTTP/1.1\r\nHost: local")
    connection = socket.create_connection(("127.0.0.1", running.port))
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(15) == b"HTTP/1.1 200 OK"
    for client in slow:
        client.settimeout(20)
        assert b"200" not in client.recv(4096)  # closed, perhaps with an error first
        client.close()
    connection.close()
    assert running.get("/health")[0] == 200


def test_a_client_that_leaves_in_the_middle_harms_nobody(running: Running, shown: dict) -> None:
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", running.port))
        path = tile_url(shown["slide"], 2)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    assert running.get(tile_url(shown["slide"], 2))[0] == 200


def test_raw_nonsense_is_refused(running: Running) -> None:
    for text in (b"\0\xff\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET http://[ HTTP/1.1\r\n\r\n"):
        client = socket.create_connection(("127.0.0.1", running.port))
        client.settimeout(20)
        client.sendall(text)
        assert b"200 OK" not in client.recv(4096)
        client.close()
    assert running.get("/health")[0] == 200


def test_the_contract_holds(running: Running) -> None:
    """Whatever the OpenAPI description allows or not gets an answer that it describes."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{running.port}/api/openapi.json")
    checked = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=6,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            answer = case.call()
            assert answer.status_code < 500
            assert str(answer.status_code) in case.operation.definition.raw["responses"]

        check()
        checked.add(operation.path)
    assert len(checked) >= 10


def test_the_command_serves_and_ends_when_asked(archive: Path, slide: Path, tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    command = [sys.executable, "-m", "zoomldm", "view", str(slide), "--no-browser", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--cache", str(tmp_path / "cache"), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout
    text = ""
    while not text.endswith("}\n"):
        text += process.stdout.readline()
        assert process.poll() is None
    port = int(json.loads(text)["url"].split(":")[2].strip("/"))
    connection = None
    for _ in range(100):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/api/slides.json")
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    assert connection
    (metadata,) = json.loads(connection.getresponse().read())["slides"]
    assert metadata["name"] == slide.name and metadata["kind"] == "slide"
    connection.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (0, 130)


def test_two_servers_one_port() -> None:
    from zoomldm.errors import ConfigError

    first = bound("127.0.0.1", 0)
    first.listen()
    with pytest.raises(ConfigError, match="can't be listened on"):
        bound("127.0.0.1", first.getsockname()[1])
    first.close()


def test_similar_places_across_archives(
    archive: Path, pipeline: Any, tmp_path: Path, slide: Path
) -> None:
    from synthetic import paint_slide

    from zoomldm.compression.compress import CompressOptions, compress

    other = paint_slide(tmp_path / "other.tif", 800, 600, tissue=0.9, seed=3)
    path = tmp_path / "other.zldm"
    compress(other, path, CompressOptions(), pipeline=pipeline, name="tiny-octaves")
    catalogue = open_catalogue([archive, path, slide], pipeline=pipeline)
    one, two, original = catalogue.entries.values()
    assert one.original == original.id and two.original is None
    mask = one.image.archive.mask  # type: ignore[attr-defined]
    row, col = next((r, c) for r in range(4) for c in range(6) if mask[r, c])
    places = catalogue.similar(one, row, col, 30)
    assert {place["slide"] for place in places} == {one.id, two.id}
    cosines = [place["cosine"] for place in places]
    assert cosines == sorted(cosines, reverse=True)
    catalogue.close()
