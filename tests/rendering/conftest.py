"""A pipeline and small archives for the tests of rendering."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import filled_pipeline

from zoomldm.archive import Encoder, Header, SlideInfo, TissueInfo, write_archive
from zoomldm.geometry.levels import grid_shape, level_size
from zoomldm.pipeline import ZoomLDMPipeline

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def pipeline() -> ZoomLDMPipeline:
    return filled_pipeline()


@pytest.fixture
def make(tmp_path: Path, pipeline: ZoomLDMPipeline) -> Make:
    """Write an archive of random embeddings that the pipeline accepts."""

    def write(
        width: int = 1500,
        height: int = 1100,
        overview: int | None = 2,
        mask: np.ndarray | None = None,
        digest: str | None = None,
        name: str = "slide.zldm",
        base: int | None = None,
        codec: str = "avif",
        quality: int = 40,
    ) -> Path:
        rng = np.random.default_rng(width * height)
        rows, cols = grid_shape(width, height)
        tissue = np.ones((rows, cols), bool) if mask is None else mask
        positions = np.argwhere(tissue)
        dim = pipeline.embedding_dim
        header = Header(
            slide=SlideInfo(
                name="slide.svs",
                file_bytes=1_000_000,
                native_size=(width, height),
                size=(width, height),
                mpp_x=0.5,
                mpp_y=0.5,
                mpp_source="option",
                vendor="aperio",
                icc=None,
            ),
            tissue=TissueInfo(mode="otsu", threshold=0.1, view_mpp=8.0),
            encoder=Encoder(id="tiny", digest=digest or pipeline.digest("patch_encoder"), dim=dim),
            autoencoder=None,
            pipeline=None,
            creator="zoomldm test",
        )
        picture = layer = None
        if base is not None:
            wide, high = level_size(width, height, base)
            coarse = rng.integers(90, 250, (high // 8 + 2, wide // 8 + 2, 3), np.uint8)
            layer = (base, coarse.repeat(8, 0).repeat(8, 1)[:high, :wide])
        elif overview is not None:
            wide, high = level_size(width, height, overview)
            coarse = rng.integers(90, 250, (high // 16 + 2, wide // 16 + 2, 3), np.uint8)
            picture = (overview, coarse.repeat(16, 0).repeat(16, 1)[:high, :wide])
        path = tmp_path / name
        write_archive(
            path,
            header,
            positions,
            rng.standard_normal((len(positions), dim)).astype(np.float32),
            np.zeros(dim, np.float32) + np.linspace(-1, 1, dim, dtype=np.float32),
            overview=picture,
            base=layer,
            base_codec=codec,
            base_quality=None if codec == "png" else quality,
        )
        return path

    return write
