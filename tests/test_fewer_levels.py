"""A pipeline of four levels: what it lacks is one line, what it knows works."""

import logging
from pathlib import Path

import numpy as np
import pytest
from training.archives import make_archive

from zoomldm.archive import open_archive
from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.data.contexts import ContextStore
from zoomldm.errors import PipelineError
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.pipeline.presets import preset
from zoomldm.rendering import DecompressOptions, decompress
from zoomldm.sampling.exports import SheetOptions, write_samples
from zoomldm.sampling.options import SampleOptions

LACKS = r"knows the 4 levels 20x to 2\.5x, not "


@pytest.fixture(scope="module")
def few() -> ZoomLDMPipeline:
    own = CNNSummarizer(**{**preset("tiny")["summarizer"], "levels": 4})
    return ZoomLDMPipeline(**{**build_pipeline("tiny").components, "summarizer": own})


@pytest.fixture(scope="module")
def archive(few: ZoomLDMPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("few") / "a.zldm", few, 4, 4)


def test_decompress(few: ZoomLDMPipeline, archive: Path, tmp_path: Path) -> None:
    """The archive holds no base layer, so that rendering would begin at the coarsest level."""
    with pytest.raises(PipelineError, match=LACKS) as caught:
        decompress(archive, tmp_path / "a.png", DecompressOptions(level="2.5x"), pipeline=few)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_sample(few: ZoomLDMPipeline, tmp_path: Path) -> None:
    options = SampleOptions(steps=2, context_steps=1)
    with pytest.raises(PipelineError, match=LACKS + r"1\.25x"):
        wanted = SheetOptions(["2.5x", "1.25x"], 1, samples=options)
        write_samples(tmp_path / "no", wanted, pipeline=few)
    assert not (tmp_path / "no").exists()
    zoom = SheetOptions(zoom=True, samples=options)
    report = write_samples(tmp_path / "zoom", zoom, pipeline=few)
    assert [row["level"] for row in report.samples] == ["2.5x", "5x", "10x", "20x"]


def test_training_data(
    few: ZoomLDMPipeline, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_archive(archive)
    assert ArchivePatches([opened]).levels == list(range(8))
    assert ArchivePatches([opened], levels=few.levels).levels == list(range(4))
    with caplog.at_level(logging.WARNING):
        store = ContextStore(few, [opened], withheld_fraction=0, most=3)
    assert [len(held.patches) for held in store.levels] == [3, 3, 3, 3, 0, 0, 0, 0]
    assert not np.any(store.levels[3].parents)
    (record,) = caplog.records
    tissue = int(opened.mask.sum())
    assert f"3 of {tissue} at 20x" in record.getMessage()
    assert "0.15625x" not in record.getMessage()
