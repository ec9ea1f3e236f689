"""Archives behind URLs in the viewer: only what is looked at is fetched, and no URL is told."""

from pathlib import Path

import pytest
from bucket import Bucket
from fastapi.testclient import TestClient

from viewer.conftest import tile_url
from zoomldm.errors import ConfigError
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.viewer.app import ViewerSettings, create_app
from zoomldm.viewer.catalogue import open_catalogue

URL = "s3://b/private/patient.zldm"
KEY = "b/private/patient.zldm"


@pytest.fixture
def served(bucket: Bucket, archive: Path, slide: Path, pipeline: ZoomLDMPipeline):
    bucket.files[KEY] = archive.read_bytes()
    catalogue = open_catalogue([URL], [slide], pipeline=pipeline)
    app = create_app(catalogue, ViewerSettings())
    with TestClient(app, base_url="http://localhost") as client:
        yield client, {f["kind"]: f for f in client.get("/api/slides.json").json()["slides"]}
    catalogue.close()


def test_it_shows_what_the_file_shows(
    served, bucket: Bucket, client: TestClient, shown: dict
) -> None:
    remote, metadata = served
    assert metadata["archive"]["id"] == shown["archive"]["id"]  # links to it hold wherever it lies
    assert metadata["archive"]["original"] == metadata["slide"]["id"]
    bucket.reset()
    for level in (7, 2, 0):
        url = tile_url(metadata["archive"], level, kind="png")
        assert remote.get(url).content == client.get(url).content
    sent = bucket.sent
    assert 0 < sent < len(bucket.files[KEY]) and ("HEAD", KEY) not in bucket.asked
    assert remote.get(tile_url(metadata["archive"], 2, kind="png")).status_code == 200
    assert bucket.sent == sent


def test_no_url_comes_from_a_client_and_none_goes_to_one(served, bucket: Bucket) -> None:
    remote, metadata = served
    assert "private" not in remote.get("/api/slides.json").text
    bucket.reset()
    for path in (
        f"/tiles/{URL}/{metadata['archive']['version']}/0/7/0_0.jpg",
        f"/tiles/s3%3A%2F%2Fb%2Fx.zldm/{metadata['archive']['version']}/0/7/0_0.jpg",
        f"/api/slides/{bucket.url}/b/x.zldm/similar.json?row=0&col=0",
    ):
        assert remote.get(path).status_code == 404
    assert bucket.asked == []


@pytest.mark.parametrize(("how", "word"), [("remove", "removed"), ("replace", "replaced")])
def test_what_goes_meanwhile_is_410(served, bucket: Bucket, how: str, word: str) -> None:
    remote, metadata = served
    data = bucket.files.pop(KEY)
    if how == "replace":
        bucket.files[KEY] = data[::-1]
    answer = remote.get(tile_url(metadata["archive"], 4))
    assert answer.status_code == 410 and f"was {word} while it was shown" in answer.json()["error"]
    assert "s3:" not in answer.text and "private" not in answer.text


def test_a_bucket_that_refuses_meanwhile_is_one_line_without_its_name(
    served, bucket: Bucket
) -> None:
    remote, metadata = served
    bucket.refuse = 403
    answer = remote.get(tile_url(metadata["archive"], 4))
    assert answer.status_code == 500 and "private" not in answer.text
    assert len(answer.json()["error"].splitlines()) == 1


def test_slides_are_read_from_disk(bucket: Bucket, archive: Path, pipeline) -> None:
    with pytest.raises(ConfigError, match="slides are read from disk"):
        open_catalogue(["s3://b/a.svs"])
    with pytest.raises(ConfigError, match="slides are read from disk"):
        open_catalogue([archive], ["s3://b/a.svs"], pipeline=pipeline)
