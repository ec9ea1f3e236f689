"""One small slide, its archive and a viewer of both."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from synthetic import paint_slide
from tiny import filled_pipeline

from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.pipeline import ZoomLDMPipeline

pytest.importorskip("fastapi", reason="the extra `viewer` is not installed")

from fastapi.testclient import TestClient

from zoomldm.viewer.app import ViewerSettings, create_app
from zoomldm.viewer.catalogue import Catalogue, open_catalogue

Open = Callable[..., TestClient]


@pytest.fixture(scope="session")
def pipeline() -> ZoomLDMPipeline:
    return filled_pipeline("tiny-octaves")


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_slide(tmp_path_factory.mktemp("slide") / "patient.tif", 1400, 1000, tissue=0.7)


@pytest.fixture(scope="session")
def archive(
    tmp_path_factory: pytest.TempPathFactory, slide: Path, pipeline: ZoomLDMPipeline
) -> Path:
    path = tmp_path_factory.mktemp("archive") / "patient.zldm"
    compress(slide, path, CompressOptions(), pipeline=pipeline, name="tiny-octaves")
    return path


@pytest.fixture
def catalogue(archive: Path, slide: Path, pipeline: ZoomLDMPipeline) -> Iterator[Catalogue]:
    catalogue = open_catalogue([archive], [slide], pipeline=pipeline)
    yield catalogue
    catalogue.close()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def client(
    archive: Path, slide: Path, pipeline: ZoomLDMPipeline, cache: Path
) -> Iterator[TestClient]:
    """A viewer that all tests share which leave its files alone."""
    opened = open_catalogue([archive], [slide], pipeline=pipeline)
    app = create_app(opened, ViewerSettings(cache=cache))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="session")
def shown(client: TestClient) -> dict[str, dict]:
    """Metadata of the archive and of its original."""
    slides = client.get("/api/slides.json").json()["slides"]
    return {metadata["kind"]: metadata for metadata in slides}


def tile_url(
    metadata: dict, level: int, col: int = 0, row: int = 0, seed: int = 0, kind: str = "jpg"
) -> str:
    return f"/tiles/{metadata['id']}/{metadata['version']}/{seed}/{level}/{col}_{row}.{kind}"
