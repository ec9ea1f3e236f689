"""Which archives a pipeline takes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import paint_slide

from zoomldm.archive import open_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.errors import ArchiveError
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.pipeline.compatibility import check_encoder
from zoomldm.rendering import Cascade, RenderOptions


@dataclasses.dataclass
class StandInEncoder:
    """A patch encoder of any width, whose numbers are a fixed random projection."""

    embedding_dim: int
    id: str = "drawn"
    digest: str = "d" * 64
    batch: int = 32

    def encode_tiles(self, tiles: np.ndarray) -> np.ndarray:
        thumbnails = tiles[:, ::32, ::32].reshape(len(tiles), -1).astype(np.float32)
        weights = np.random.default_rng(0).normal(size=(thumbnails.shape[1], self.embedding_dim))
        return (thumbnails @ weights / 255).astype(np.float32)


def without_encoder() -> ZoomLDMPipeline:
    whole = build_pipeline("tiny")
    parts = {name: getattr(whole, name) for name in ("unet", "vae", "summarizer", "scheduler")}
    return ZoomLDMPipeline(**parts, patch_encoder=None)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def compress_slide(dim: int, pipeline: ZoomLDMPipeline, **options: object) -> Path:
        slide = paint_slide(tmp_path / "a.tif", 600, 600)
        out = tmp_path / f"{dim}.zldm"
        chosen = CompressOptions(base="none", tissue="all", **options)  # type: ignore[arg-type]
        compress(slide, out, chosen, pipeline=pipeline, name="x", encoder=StandInEncoder(dim))
        return out

    return compress_slide


def test_without_a_patch_encoder_numbers_must_agree(make: Callable) -> None:
    pipeline = without_encoder()
    with open_archive(make(pipeline.embedding_dim, pipeline)) as archive:
        check_encoder(archive, pipeline)
        with Cascade(archive, pipeline, RenderOptions(steps=2)) as cascade:
            assert cascade.patch(0, 0, 0).shape == (256, 256, 3)
        with pytest.raises(ArchiveError, match="was made by patch encoder 'drawn'"):
            check_encoder(archive, build_pipeline("tiny"))
    with (
        open_archive(make(48, pipeline)) as archive,
        pytest.raises(ArchiveError, match=r"embeddings of 48 dimensions .*the pipeline takes 32"),
    ):
        check_encoder(archive, pipeline)


def test_without_a_patch_encoder_it_can_be_trained(make: Callable, tmp_path: Path) -> None:
    from training.calls import train_stage

    torch.manual_seed(0)
    pipeline = without_encoder()
    pipeline.save_pretrained(str(tmp_path / "pipeline"))
    data = make(32, pipeline, for_training=True).parent
    (data / "a.tif").unlink()
    report = train_stage(
        "diffusion",
        "tiny",
        data,
        tmp_path / "run",
        changes={"steps": 2, "batch_size": 8},
        pipeline=str(tmp_path / "pipeline"),
    )
    assert report.steps == 2
    assert (Path(report.pipeline) / "unet").is_dir()
