"""An archive of any size without a slide: random embeddings over a base layer at 5x."""

from pathlib import Path

import numpy as np

from zoomldm.archive import Encoder, Header, SlideInfo, TissueInfo, write_archive
from zoomldm.geometry.levels import grid_shape, level_size
from zoomldm.pipeline import ZoomLDMPipeline

BASE = 2


def random_archive(folder: Path, side: int, tissue: float, pipeline: ZoomLDMPipeline) -> Path:
    """An archive of a square slide whose tissue is one square in its middle.

    Args:
        folder: where it is written.
        side: px at 0.5 mpp.
        tissue: fraction of the tiles.
        pipeline: whose patch encoder it says that it was made with.
    """
    rng = np.random.default_rng(0)
    rows, _ = grid_shape(side, side)
    half = max(1, round(rows * tissue**0.5 / 2))
    middle = range(max(0, rows // 2 - half), min(rows, rows // 2 + half))
    positions = np.array([(r, c) for r in middle for c in middle])
    dim = pipeline.embedding_dim
    header = Header(
        slide=SlideInfo(
            name="made.svs",
            file_bytes=1,
            native_size=(side, side),
            size=(side, side),
            mpp_x=0.5,
            mpp_y=0.5,
            mpp_source="option",
            vendor="aperio",
            icc=None,
        ),
        tissue=TissueInfo(mode="otsu", threshold=0.1, view_mpp=8.0),
        encoder=Encoder(id="tiny-octaves", digest=pipeline.digest("patch_encoder"), dim=dim),
        autoencoder=None,
        pipeline=None,
        creator="benchmark",
    )
    wide, high = level_size(side, side, BASE)
    coarse = rng.integers(120, 250, (high // 8 + 1, wide // 8 + 1, 3), np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)[:high, :wide]
    path = folder / f"{side}.zldm"
    write_archive(
        path,
        header,
        positions,
        rng.standard_normal((len(positions), dim)).astype(np.float32),
        np.zeros(dim, np.float32) + np.linspace(-1, 1, dim, dtype=np.float32),
        base=(BASE, picture),
        base_codec="jpeg",
        base_quality=60,
    )
    return path
