"""Small archives of one pipeline, for the tests of editing."""

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
    return filled_pipeline("tiny-octaves")


@pytest.fixture
def make(tmp_path: Path, pipeline: ZoomLDMPipeline) -> Make:
    """Write an archive of one colour and of random embeddings; its first row is no tissue."""

    def write(
        name: str,
        colour: int = 120,
        size: tuple[int, int] = (1500, 1300),
        base: int | None = 2,
        codec: str = "png",
        digest: str | None = None,
        precision: str = "int8",
    ) -> Path:
        rng = np.random.default_rng(colour)
        rows, cols = grid_shape(*size)
        tissue = np.ones((rows, cols), bool)
        tissue[0] = False
        dim = pipeline.embedding_dim
        wide, high = level_size(*size, base or 0)
        write_archive(
            tmp_path / name,
            Header(
                slide=SlideInfo(
                    name=f"{name}.svs",
                    file_bytes=1_000_000,
                    native_size=size,
                    size=size,
                    mpp_x=0.5,
                    mpp_y=0.5,
                    mpp_source="option",
                    vendor="aperio",
                    icc=None,
                    content="a" * 64,
                ),
                tissue=TissueInfo(mode="otsu", threshold=0.1, view_mpp=8.0),
                encoder=Encoder(
                    id="tiny", digest=digest or pipeline.digest("patch_encoder"), dim=dim
                ),
                autoencoder=None,
                pipeline=None,
                creator="zoomldm test",
            ),
            np.argwhere(tissue),
            rng.standard_normal((tissue.sum(), dim)).astype(np.float32),
            np.linspace(-1, 1, dim, dtype=np.float32),
            base=None if base is None else (base, np.full((high, wide, 3), colour, np.uint8)),
            base_codec=codec,
            precision=precision,  # type: ignore[arg-type]
        )
        return tmp_path / name

    return write
