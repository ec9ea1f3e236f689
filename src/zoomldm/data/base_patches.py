"""Patches of archives whose latents are the pixels of their base layer, two octaves coarser."""

from collections.abc import Sequence

import numpy as np
import torch

from zoomldm.archive import Archive
from zoomldm.data.contexts import ContextStore
from zoomldm.data.rasters import SIDE, STORED, coarser, cut
from zoomldm.errors import ArchiveError
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.networks.lowpass import LowPassAutoencoder, coarse_planes
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_signed

MOST = 8192  # patches per level


class BasePatches:
    """Patches at any tile offset of several archives, by level, for low-pass pipelines.

    Their latents contain the errors of the base layer's codec: none for a lossless one (`compress
    --for-training`); for others they vanish when latents are averaged. Base layers are held in
    memory.

    Attributes:
        patches: per level (n, 4) int: archive, number, row and column of the first tile.
        withheld: the same for patches in the spatial hold-out regions.

    Args:
        pipeline: its autoencoder encodes the latents.
        archives: opened archives with a base layer at 5x or finer.
        withheld_fraction: fraction of each archive's tissue that is withheld; 0 for none.
        most: most patches per level; chosen at random if there are more.

    Raises:
        ArchiveError: no base layer, or a coarser one.
        ConfigError: archives without tissue.
    """

    def __init__(
        self,
        pipeline: ZoomLDMPipeline,
        archives: Sequence[Archive],
        withheld_fraction: float = 0.1,
        most: int = MOST,
    ) -> None:
        assert isinstance(pipeline.vae, LowPassAutoencoder)
        self._vae, self._device = pipeline.vae, pipeline.device
        self._rasters = [_raster(archive) for archive in archives]
        own = ContextStore(pipeline, archives, withheld_fraction, most=most, hold="patches")
        self.patches = [_numbered(own.levels[k].patches) for k in range(COUNT)]
        self.withheld = [np.empty((0, 4), np.int64) for _ in range(COUNT)]
        if withheld_fraction:
            withheld = ContextStore(
                pipeline, archives, withheld_fraction, True, most=most, hold="patches"
            )
            self.withheld = [_numbered(withheld.levels[k].patches) for k in range(COUNT)]

    @torch.no_grad()
    def latents(self, level: int, patches: np.ndarray) -> np.ndarray:
        """Latents (m, C, h, w) float32 of `patches` (m, 4)."""
        pixels = np.empty((len(patches), SIDE, SIDE, 3), np.uint8)
        for place, (number, _, row, col) in enumerate(patches.tolist()):
            top, left = (tile * SIDE >> level for tile in (row, col))
            pixels[place] = cut(self._rasters[number][level], top, left, SIDE, SIDE, 255)
        planes = coarse_planes(to_signed(pixels).to(self._device))
        return self._vae.from_planes(planes).float().cpu().numpy()


def _numbered(patches: np.ndarray) -> np.ndarray:
    return np.insert(patches.astype(np.int64), 1, np.arange(len(patches)), 1)


def _raster(archive: Archive) -> tuple[np.ndarray, ...]:
    """For each level the image two octaves coarser."""
    base = archive.base
    if base is None or base.level > STORED:
        found = "no base layer" if base is None else f"a base layer at {NAMES[base.level]}"
        raise ArchiveError(
            f"{archive.path}: holds {found}; patches are taken of one at {NAMES[STORED]} or finer: "
            f"compress its slide with --base {NAMES[STORED]}"
        )
    return coarser(base.read_level(STORED, 0, 0, archive.cols * SIDE, archive.rows * SIDE))
