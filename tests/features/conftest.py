"""An untrained pipeline, and archives whose embeddings its patch encoder might have made."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archive.making import make_header

from zoomldm.archive import Encoder, Network, write_archive
from zoomldm.geometry.levels import grid_shape, level_size
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def pipeline() -> ZoomLDMPipeline:
    return build_pipeline("tiny")


@pytest.fixture
def make(tmp_path: Path, pipeline: ZoomLDMPipeline) -> Make:
    """Writes an archive with tissue in the given boxes of tiles (row0, row1, col0, col1)."""

    def write(
        name: str = "a",
        size: tuple[int, int] = (3000, 2000),
        boxes: tuple[tuple[int, int, int, int], ...] = ((0, 4, 1, 6),),
        mpp: float = 0.25,
        overview: int | None = None,
        latents: dict | None = None,
        **changes: object,
    ) -> Path:
        rng = np.random.default_rng(0)
        mask = np.zeros(grid_shape(*size), bool)
        for row0, row1, col0, col1 in boxes:
            mask[row0:row1, col0:col1] = True
        header = make_header(*size, 32)
        native = tuple(round(n * 0.5 / mpp) for n in size)
        metadata = {"mpp_x": mpp, "mpp_y": mpp, "native_size": native}
        header = header.model_copy(
            update={
                "slide": header.slide.model_copy(update=metadata),
                "encoder": Encoder(id="tiny", digest=pipeline.digest("patch_encoder"), dim=32),
                "autoencoder": Network(id="tiny", digest=pipeline.digest("vae")),
                **changes,
            }
        )
        view = None
        if overview is not None:
            wide, high = level_size(*size, overview)
            view = overview, rng.integers(0, 256, (high, wide, 3)).astype(np.uint8)
        path = tmp_path / f"{name}.zldm"
        positions = np.argwhere(mask)
        write_archive(
            path,
            header,
            positions,
            rng.standard_normal((len(positions), 32)).astype(np.float32),
            rng.standard_normal(32).astype(np.float32),
            overview=view,
            latents=latents,
        )
        return path

    return write
