"""What a client may get wrong, or mean badly; what the disk and the files may do meanwhile."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from viewer.conftest import tile_url
from zoomldm.archive import open_archive
from zoomldm.errors import ConfigError, ZoomLDMError
from zoomldm.viewer.app import ViewerSettings, create_app
from zoomldm.viewer.catalogue import Catalogue, open_catalogue
from zoomldm.viewer.guard import names_of
from zoomldm.viewer.overlays import read_overlay


def serving(catalogue: Catalogue, **settings: object) -> TestClient:
    app = create_app(catalogue, ViewerSettings(**settings))  # type: ignore[arg-type]
    return TestClient(app, base_url="http://localhost")


@pytest.mark.parametrize(
    "path",
    [
        "/tiles/{id}/{version}/0/8/0_0.jpg",
        "/tiles/{id}/{version}/0/-1/0_0.jpg",
        "/tiles/{id}/{version}/0/7/1_0.jpg",
        "/tiles/{id}/{version}/0/7/0_1.jpg",
        "/tiles/{id}/{version}/0/7/-1_0.jpg",
        "/tiles/{id}/{version}/0/0/99999999999999999999_0.jpg",
        "/tiles/{id}/{version}/0/0/NaN_0.jpg",
        "/tiles/{id}/{version}/0/0/1e3_0.jpg",
        "/tiles/{id}/{version}/0/0/0x1_0.jpg",
        "/tiles/{id}/{version}/-1/0/0_0.jpg",
        "/tiles/{id}/{version}/4294967296/0/0_0.jpg",
        "/tiles/{id}/{version}/0/0/0_0.exe",
        "/tiles/{id}/0000000000000000/0/0/0_0.jpg",
        "/tiles/000000000000/{version}/0/0/0_0.jpg",
        "/tiles/{id}'--/{version}/0/0/0_0.jpg",
        "/tiles/..%2f..%2fetc/{version}/0/0/0_0.jpg",
        "/tiles/../../etc/passwd",
        "/static/../app.py",
        "/static/..%2f..%2fapp.py",
        "/static/%2e%2e/%2e%2e/guard.py",
        "/static//etc/passwd",
        "/static/js/main.js%00.png",
        "/etc/passwd",
        "/api/slides/{id}/overlays/0.json",
        "/api/slides/{id}/overlays/-1.json",
        "/api/slides/{id}/similar.json?row=99999&col=0",
        "/regions/{id}/{version}/0.png?level=0&x=0&y=0&w=9999&h=10",
        "/regions/{id}/{version}/0.png?level=0&x=0&y=0&w=0&h=10",
        "/dzi/{id}-0_files/99/0_0.jpg",
        "/docs",
    ],
)
def test_what_is_not_there_is_404(client: TestClient, shown: dict, path: str) -> None:
    metadata = shown["archive"]
    answer = client.get(
        path.replace("{id}", metadata["id"]).replace("{version}", metadata["version"])
    )
    assert answer.status_code == 404
    assert "root:" not in answer.text and "/tmp" not in answer.text


@pytest.mark.parametrize(
    "query",
    [
        "level=0&x=NaN&y=0&w=1&h=1",
        "level=0&x=-1&y=0&w=1&h=1",
        "level=0&x=1e9&y=0&w=1&h=1",
        "level=0&x=99999999999999999999&y=0&w=1&h=1",
        "level=0.5&x=0&y=0&w=1&h=1",
        "level=9&x=0&y=0&w=1&h=1",
        "level=0&x=0&y=0&w=1",
        "level=0&x=inf&y=0&w=1&h=1",
        "level=0&x=&y=0&w=1&h=1",
    ],
)
def test_queries_that_can_not_be_are_422(client: TestClient, shown: dict, query: str) -> None:
    metadata = shown["archive"]
    answer = client.get(f"/regions/{metadata['id']}/{metadata['version']}/0.png?{query}")
    assert answer.status_code == 422 and len(answer.json()["error"].splitlines()) == 1


def test_a_slide_has_no_seeds_and_no_embeddings(client: TestClient, shown: dict) -> None:
    metadata = shown["slide"]
    assert client.get(tile_url(metadata, 7, seed=1)).status_code == 404
    assert client.get(f"/api/slides/{metadata['id']}/similar.json?row=0&col=0").status_code == 404


def test_too_large_a_region_says_what_to_do(client: TestClient, shown: dict, monkeypatch) -> None:
    monkeypatch.setattr("zoomldm.viewer.regions.MOST_PIXELS", 100)
    metadata = shown["archive"]
    answer = client.get(
        f"/regions/{metadata['id']}/{metadata['version']}/0.png?level=2&x=0&y=0&w=20&h=20"
    )
    assert answer.status_code == 404 and "zoomldm decompress" in answer.json()["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("10.0.0.1", 421),
        ("", 421),
        ("localhost@evil.example", 421),
    ],
)
def test_the_host_must_be_ours(client: TestClient, host: str, status: int) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == status


def test_names_of_any_address_are_addresses() -> None:
    names = names_of("0.0.0.0", ["viewer.example"])
    assert {"localhost", "viewer.example", ""} <= names and "evil.example" not in names


def test_other_sites_may_not_ask(client: TestClient, shown: dict) -> None:
    url = tile_url(shown["slide"], 7)
    assert client.get(url, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get(url, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_a_token_opens_by_header_or_cookie(catalogue: Catalogue) -> None:
    with serving(catalogue, token="right-token") as client:
        assert client.get("/").status_code == 200  # the page itself, which asks for it
        assert client.get("/api/slides.json").status_code == 401
        assert client.get("/metrics").status_code == 401
        for wrong in ("wrong", "", "right-token2", "right-toke", "é"):
            given = {"Authorization": f"Bearer {wrong}".encode()}
            assert client.get("/api/slides.json", headers=given).status_code == 401
            cookie = {"Cookie": f"zoomldm_token={wrong}".encode()}
            assert client.get("/api/slides.json", headers=cookie).status_code == 401
        right = {"Authorization": "Bearer right-token"}
        assert client.get("/api/slides.json", headers=right).status_code == 200
        answer = client.post("/api/session", headers=right)
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert client.get("/api/slides.json").status_code == 200  # by the cookie now kept


@pytest.mark.parametrize("method", ["put", "delete", "patch", "post"])
def test_nothing_can_be_written(client: TestClient, shown: dict, method: str) -> None:
    assert getattr(client, method)(tile_url(shown["slide"], 7)).status_code == 405


def test_long_paths_are_refused(client: TestClient) -> None:
    assert client.get("/" + "a" * 3000).status_code == 414


@pytest.fixture
def copied(tmp_path: Path, archive: Path, pipeline) -> tuple[Path, Catalogue]:
    path = tmp_path / "copy.zldm"
    shutil.copy(archive, path)
    return path, open_catalogue([path], pipeline=pipeline)


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes()[:-1] + b"x")
    other.replace(path)


@pytest.mark.parametrize("how", [Path.unlink, replaced])
def test_an_archive_that_goes_is_410(copied, how: Callable[[Path], None]) -> None:
    path, catalogue = copied
    with serving(catalogue) as client:
        (metadata,) = client.get("/api/slides.json").json()["slides"]
        before = client.get(tile_url(metadata, 7))
        how(path)
        for level in (6, 1):  # stored, and generated
            answer = client.get(tile_url(metadata, level))
            assert answer.status_code == 410
            assert "while it was shown" in answer.json()["error"] and str(path) not in answer.text
        # by its digest still right
        assert client.get(tile_url(metadata, 7)).content == before.content
        assert client.get("/health").status_code == 200


def test_damage_is_an_error_and_never_a_wrong_picture(copied) -> None:
    path, catalogue = copied
    with open_archive(path) as archive:
        names = [m.name for m in archive.manifest.members if m.name.startswith("overview/c/")]
    assert names
    data = bytearray(path.read_bytes())
    stamp = path.stat()
    start = data.index(names[0].encode()) + len(names[0]) + 40
    data[start : start + 8] = bytes(b ^ 255 for b in data[start : start + 8])
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with serving(catalogue) as client:
        (metadata,) = client.get("/api/slides.json").json()["slides"]
        answer = client.get(tile_url(metadata, 2))
        assert answer.status_code == 500 and "DamagedError" in answer.json()["error"]
        assert str(path) not in answer.text


def test_a_full_disk_costs_a_warning(catalogue: Catalogue, tmp_path: Path, monkeypatch) -> None:
    with serving(catalogue, cache=tmp_path / "cache") as client:
        service = client.app.state.service  # type: ignore[attr-defined]

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(service.cache._disk._cache, "set", full)
        metadata = client.get("/api/slides.json").json()["slides"][0]
        assert client.get(tile_url(metadata, 7)).status_code == 200
        assert client.get(tile_url(metadata, 6)).status_code == 200
        assert service.cache.faults == 2
        assert "zoomldm_cache_faults_total 2.0" in client.get("/metrics").text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ('{"type": "Topology"}', "is not GeoJSON"),
        ('[{"geometry": {"type": "Circle", "coordinates": [1, 2]}}]', "feature 0"),
        ('[{"geometry": {"type": "Point", "coordinates": [NaN, 2]}}]', "feature 0"),
        ('[{"geometry": {"type": "Polygon", "coordinates": [1, 2]}}]', "feature 0"),
        ('[{"geometry": {"type": "Point", "coordinates": [1e999, 2]}}]', "feature 0"),
    ],
)
def test_overlays_are_checked(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_overlay(path)


def test_what_can_not_be_opened(archive: Path, slide: Path, pipeline, tmp_path: Path) -> None:
    from synthetic import paint_slide

    with pytest.raises(ConfigError, match="given twice"):
        open_catalogue([archive, archive], pipeline=pipeline)
    with pytest.raises(ConfigError, match="needs a pipeline"):
        open_catalogue([archive])
    other = paint_slide(tmp_path / "other.tif", 900, 700)
    with pytest.raises(ConfigError, match="no archive given was made from this slide"):
        open_catalogue([archive], [other], pipeline=pipeline)
    with pytest.raises(ZoomLDMError, match="no such file"):
        open_catalogue([tmp_path / "none.svs"])
