"""Small archives with latents, drawn from a seed, for the tests of the training room."""

from pathlib import Path

import numpy as np

from zoomldm.archive import (
    Encoder,
    Header,
    Network,
    SlideInfo,
    TissueInfo,
    write_archive,
)
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import patch_tiles
from zoomldm.pipeline import ZoomLDMPipeline


def make_archive(
    path: Path,
    pipeline: ZoomLDMPipeline,
    rows: int = 6,
    cols: int = 5,
    seed: int = 0,
    levels: tuple[int, ...] = tuple(range(8)),
) -> Path:
    """Write an archive whose patches' latents depend on their embeddings."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((rows, cols), bool)
    mask[1:, : cols - 1] = True
    where = np.argwhere(mask)
    dim, shape = pipeline.embedding_dim, pipeline.latent_shape
    embeddings = rng.standard_normal((len(where), dim)).astype(np.float32)
    latents = {}
    for level in levels:
        step = max(1, patch_tiles(level) // 4)
        side = patch_tiles(level)
        starts = np.array(
            [
                (r, c)
                for r in range(-side + step, rows, step)
                for c in range(-side + step, cols, step)
            ]
        )
        starts = starts[tiles_within(mask, starts[:, 0], starts[:, 1], side) > 0]
        latents[level] = (starts, rng.standard_normal((len(starts), *shape)).astype(np.float16))
    header = Header(
        slide=SlideInfo(
            name=path.stem,
            file_bytes=1000,
            native_size=(cols * 256, rows * 256),
            size=(cols * 256, rows * 256),
            mpp_x=0.5,
            mpp_y=0.5,
            mpp_source="option",
            vendor="test",
            icc=None,
        ),
        tissue=TissueInfo(mode="otsu", threshold=12, view_mpp=8),
        encoder=Encoder(id="tiny", digest=pipeline.digest("patch_encoder"), dim=dim),
        autoencoder=Network(id="tiny", digest=pipeline.digest("vae")),
        pipeline=None,
        creator="test",
    )
    write_archive(
        path, header, where, embeddings, np.zeros(dim, np.float32), latents=latents or None
    )
    return path
