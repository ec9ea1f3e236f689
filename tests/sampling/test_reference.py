"""What `--like` takes and refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training.archives import make_archive

from zoomldm.archive import open_archive
from zoomldm.errors import ArchiveError, ConfigError, PipelineError, RegionError
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.sampling.reference import read_like, read_reference


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 x 5 tiles, tissue in rows 1 to 5 and columns 0 to 3."""
    path = tmp_path_factory.mktemp("reference") / "a@b.zldm"
    return make_archive(path, build_pipeline("tiny"), levels=())


def test_a_place_in_an_archive(archive: Path, pipeline: ZoomLDMPipeline) -> None:
    found = read_reference(f"{archive}@700, 300", pipeline)  # tile of row 1, column 2
    with open_archive(archive) as opened:
        expected = opened.embeddings_of([1], [2])[0]
        digest = opened.digest
    assert np.array_equal(found.embedding, expected.astype(np.float32))
    assert found.source == {"archive": "a@b.zldm", "archive_digest": digest, "x": 700, "y": 300}


def test_a_picture(tmp_path: Path, pipeline: ZoomLDMPipeline) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    path = tmp_path / "tile.png"
    Image.fromarray(pixels).save(path)
    found = read_reference(str(path), pipeline)
    np.testing.assert_allclose(found.embedding, pipeline.encode_tiles(pixels[None])[0])
    assert found.source["picture"] == "tile.png"
    Image.fromarray(pixels).save(tmp_path / "a@1,2.png")  # a file's name before anything else
    assert read_reference(str(tmp_path / "a@1,2.png"), pipeline).source["picture"] == "a@1,2.png"


def test_refused(archive: Path, tmp_path: Path, pipeline: ZoomLDMPipeline) -> None:
    with pytest.raises(RegionError, match=r"300,100 is background; the nearest tissue is at 256,2"):
        read_reference(f"{archive}@300,100", pipeline)
    with pytest.raises(RegionError, match="5000,0 lies outside; the slide has 1280 x 1536 px"):
        read_reference(f"{archive}@5000,0", pipeline)
    with pytest.raises(ConfigError, match="expected @X,Y in whole pixels"):
        read_reference(f"{archive}@1.5,2", pipeline)
    with pytest.raises(ArchiveError, match="patch encoder"):
        read_reference(f"{archive}@300,300", build_pipeline("tiny", seed=1))
    with pytest.raises(ConfigError, match="no such image"):
        read_reference(str(tmp_path / "none.png"), pipeline)
    with pytest.raises(ConfigError, match="for an archive give ARCHIVE@X,Y"):
        read_reference(str(archive), pipeline)
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(huge)
    with pytest.raises(ConfigError, match=r"huge\.png: is no image"):
        read_reference(str(huge), pipeline)
    small = tmp_path / "small.png"
    Image.new("RGB", (300, 256)).save(small)
    with pytest.raises(ConfigError, match="300 x 256 px; expected one tile, 256 x 256 px"):
        read_reference(str(small), pipeline)
    deep = tmp_path / "deep.png"  # 16 bits a channel, which became white
    Image.fromarray(np.full((256, 256), 9000, np.uint16)).save(deep)
    with pytest.raises(ConfigError, match=r"deep\.png: has more than 8 bits a channel \(mode I;16"):
        read_reference(str(deep), pipeline)
    bare = build_pipeline("tiny")
    bare.patch_encoder = None
    with pytest.raises(PipelineError, match="no patch encoder to describe it"):
        read_reference(str(small), bare)


def test_the_most_usual_tile_of_an_archive(archive: Path, pipeline: ZoomLDMPipeline) -> None:
    found = read_like(str(archive), pipeline)
    with open_archive(archive) as opened:
        places = np.argwhere(opened.mask)
        values = opened.embeddings_of(*places.T)
    cosines = values @ values.mean(0) / np.linalg.norm(values, axis=1)
    row, col = places[cosines.argmax()]
    assert (found.source["x"], found.source["y"]) == (col * 256, row * 256)
    again = read_like(f"{archive}@{col * 256},{row * 256}", pipeline)
    np.testing.assert_array_equal(again.embedding, found.embedding)
    with pytest.raises(ArchiveError, match="patch encoder"):
        read_like(str(archive), build_pipeline("tiny", seed=1))
