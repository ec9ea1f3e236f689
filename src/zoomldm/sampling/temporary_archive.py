"""An archive without a slide: a grid of embeddings, or an image as its base layer."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoomldm import __version__
from zoomldm.archive import ArchiveWriter, Encoder, Header, SlideInfo, TissueInfo
from zoomldm.geometry.levels import BASE_MPP, TILE
from zoomldm.pipeline import ZoomLDMPipeline


def write_temporary_archive(
    path: Path,
    name: str,
    pipeline: ZoomLDMPipeline,
    grid: NDArray,
    base: tuple[int, NDArray[np.uint8]] | None = None,
) -> None:
    """Write an archive for a single rendering.

    Args:
        path: the target.
        name: name of its content, `grid` or `image`.
        pipeline: the pipeline that will render it.
        grid: (rows, cols, D) embeddings; all of it counts as tissue.
        base: level and pixels of a lossless base layer; the raster then has exactly its size.
    """
    rows, cols, dim = grid.shape
    size = cols * TILE, rows * TILE
    if base is not None:
        size = base[1].shape[1] << base[0], base[1].shape[0] << base[0]
    known = pipeline.patch_encoder is not None
    header = Header(
        slide=SlideInfo(
            name=name,
            file_bytes=0,
            native_size=size,
            size=size,
            mpp_x=BASE_MPP,
            mpp_y=BASE_MPP,
            mpp_source=name,
            vendor="zoomldm",
            icc=None,
        ),
        tissue=TissueInfo(mode="all", threshold=0.0, view_mpp=BASE_MPP),
        encoder=Encoder(
            id="own", digest=pipeline.digest("patch_encoder") if known else "none", dim=dim
        ),
        autoencoder=None,
        pipeline=None,
        creator=f"zoomldm {__version__}",
    )
    with ArchiveWriter(path, header, np.zeros(dim, np.float32), "float16") as writer:
        for row in range(rows):
            places = np.stack([np.full(cols, row), np.arange(cols)], 1)
            writer.add_embeddings(places, grid[row])
        if base is not None:
            writer.add_base(*base, "png")
