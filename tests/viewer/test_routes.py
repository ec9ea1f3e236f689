"""Every endpoint, as it should be used."""

import io
import json

import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from PIL import Image

from viewer.conftest import tile_url
from zoomldm.viewer.app import ViewerSettings, create_app
from zoomldm.viewer.catalogue import Catalogue, open_catalogue


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_metadata_says_what_is_real_and_names_no_path(client: TestClient, shown: dict) -> None:
    archive, slide = shown["archive"], shown["slide"]
    assert archive["original"] == slide["id"]
    assert [level["real"] for level in archive["levels"]] == [False] * 2 + [True] * 6
    assert all(level["real"] for level in slide["levels"])
    assert (archive["width"], archive["height"]) == (slide["width"], slide["height"])
    assert archive["archive"]["ratio"] > 0 and archive["archive"]["archive_digest"]
    assert "/" not in archive["name"] and "/tmp" not in client.get("/api/slides.json").text


@pytest.mark.parametrize("kind", ["jpg", "webp", "png"])
def test_tiles_are_what_the_picture_is(
    client: TestClient, shown: dict, catalogue: Catalogue, kind: str
) -> None:
    metadata = shown["archive"]
    answer = client.get(tile_url(metadata, 2, kind=kind))
    assert answer.status_code == 200
    entry = catalogue.get(metadata["id"])
    assert entry is not None
    wanted = entry.image.read(0, 2, 0, 0, 256, 250)
    found = pixels(answer.content)
    assert found.shape[:2] == (250, 256)  # cut at the slide's edge
    error = np.abs(found.astype(int) - wanted.astype(int)).mean()
    assert error == 0 if kind == "png" else error < 3


def test_generated_tiles_depend_on_the_seed_alone(client: TestClient, shown: dict) -> None:
    metadata = shown["archive"]
    first, again = (client.get(tile_url(metadata, 0, 1, 1, kind="png")) for _ in range(2))
    other = client.get(tile_url(metadata, 0, 1, 1, seed=1, kind="png"))
    assert first.content == again.content
    assert pixels(first.content).shape == (256, 256, 3)
    assert first.content != other.content


def test_tiles_are_kept_for_ever_and_not_sent_twice(client: TestClient, shown: dict) -> None:
    url = tile_url(shown["slide"], 1)
    first = client.get(url)
    assert "immutable" in first.headers["cache-control"]
    assert "private" in first.headers["cache-control"]
    again = client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content


def test_a_second_server_finds_the_tiles_on_disk(
    client: TestClient, shown: dict, archive, slide, pipeline, cache
) -> None:
    url = tile_url(shown["archive"], 0, 1, 1)
    tile = client.get(url).content
    app = create_app(
        open_catalogue([archive], [slide], pipeline=pipeline),
        ViewerSettings(cache=cache),
    )
    with TestClient(app, base_url="http://localhost") as other:
        assert other.get(url).content == tile
        assert app.state.service.hits == {"memory": 0, "disk": 1, "none": 0}


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_region_says_where_its_pixels_come_from(
    client: TestClient, shown: dict, kind: str
) -> None:
    metadata = shown["archive"]
    place = {"level": 1, "x": 100, "y": 60, "w": 200, "h": 120}
    answer = client.get(f"/regions/{metadata['id']}/{metadata['version']}/3.{kind}", params=place)
    assert answer.status_code == 200
    assert "regenerated-not-for-diagnosis" in answer.headers["content-disposition"]
    if kind == "png":
        image = Image.open(io.BytesIO(answer.content))
        size, provenance = image.size, json.loads(image.info["zoomldm"])
        assert image.info["Disclaimer"] == "Regenerated, not for diagnosis"
    else:
        with tifffile.TiffFile(io.BytesIO(answer.content)) as tiff:
            page = tiff.pages[0]
            size, provenance = page.shape[1::-1], json.loads(page.description)
    assert size == (200, 120)
    assert provenance["pixels_are"] == "generated" and provenance["seed"] == 3
    assert provenance["archive_digest"] == metadata["archive"]["archive_digest"]
    assert provenance["region"] == [200, 120, 400, 240]


def test_confidence_is_known_of_what_was_made(client: TestClient, shown: dict) -> None:
    metadata = shown["archive"]
    seed = 7  # that no other test shows
    url = f"/api/slides/{metadata['id']}/{metadata['version']}/{seed}/confidence.json"
    block = {"row": 0, "col": 0, "rows": 4, "cols": 6}
    assert client.get(url, params=block).json() == {"tiles": []}
    tissue = pixels(
        client.get(f"/api/slides/{metadata['id']}/{metadata['version']}/tissue.png").content
    )
    row, col = np.argwhere(tissue[..., 0] > 0)[0].tolist()
    assert client.get(tile_url(metadata, 0, col, row, seed)).status_code == 200
    (tile,) = client.get(url, params=block).json()["tiles"]
    assert (tile["row"], tile["col"]) == (row, col) and -1 <= tile["cosine"] <= 1


def test_similar_tiles_are_the_nearest_embeddings(
    client: TestClient, shown: dict, catalogue: Catalogue
) -> None:
    metadata = shown["archive"]
    entry = catalogue.get(metadata["id"])
    assert entry is not None
    archive = entry.image.archive  # type: ignore[attr-defined]
    row, col = np.argwhere(archive.mask)[0].tolist()
    answer = client.get(
        f"/api/slides/{metadata['id']}/similar.json", params={"row": row, "col": col, "count": 3}
    ).json()
    places = answer["places"]
    assert len(places) == 3
    assert all(max(abs(p["row"] - row), abs(p["col"] - col)) > 1 for p in places)
    grid = archive.embeddings(0, archive.rows, 0, archive.cols)
    unit = grid / np.linalg.norm(grid, axis=2, keepdims=True)
    cosines = unit @ unit[row, col]
    cosines[~archive.mask] = -2
    cosines[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2] = -2
    expected = np.sort(cosines.ravel())[::-1][:3]
    assert np.allclose([p["cosine"] for p in places], expected, atol=1e-3)


def test_deep_zoom_is_the_same_tiles(client: TestClient, shown: dict) -> None:
    metadata = shown["archive"]
    text = client.get(f"/dzi/{metadata['id']}-0.dzi").text
    assert f'Width="{metadata["width"]}"' in text and 'TileSize="256"' in text
    zoom = (max(metadata["width"], metadata["height"]) - 1).bit_length()
    answer = client.get(f"/dzi/{metadata['id']}-0_files/{zoom - 2}/0_0.jpg")
    assert answer.content == client.get(tile_url(metadata, 2)).content
    assert client.get(f"/dzi/{metadata['id']}-0_files/0/0_0.jpg").status_code == 404


def test_health_and_metrics(catalogue: Catalogue, shown: dict) -> None:
    client = TestClient(create_app(catalogue), base_url="http://localhost")
    client.get(tile_url(shown["slide"], 3))
    client.get(tile_url(shown["slide"], 3))
    assert client.get("/health").json()["status"] == "ok"
    text = client.get("/metrics").text
    assert 'zoomldm_tiles_total{found="memory"} 1.0' in text
    assert 'zoomldm_requests_total{kind="tiles",status="200"} 2.0' in text


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "http" not in page.text.replace("http-equiv", "")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "access-control-allow-origin" not in page.headers
