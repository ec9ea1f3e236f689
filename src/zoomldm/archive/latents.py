"""Collection of latents for an archive."""

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive.arrays import ArraySpec
from zoomldm.archive.container import ContainerWriter

LATENT_CHUNK = 4


class LatentLevel:
    """Latents of one level, written in chunks of LATENT_CHUNK patches."""

    def __init__(self, level: int, shape: tuple[int, int, int]) -> None:
        self.level = level
        self.shape = shape
        self.name = f"latents/{level}"
        self.pending: list[NDArray[np.float16]] = []
        self.offsets: list[NDArray[np.int32]] = []
        self.written = 0

    def spec(self) -> ArraySpec:
        """The spec of the array, as known so far."""
        count = self.written * LATENT_CHUNK + len(self.pending)
        first = LATENT_CHUNK if self.written else min(count, LATENT_CHUNK)
        shape, chunk = (count, *self.shape), (first, *self.shape)
        return ArraySpec(self.name, "float16", shape, chunk, zstd=False)

    def flush(self, container: ContainerWriter) -> None:
        """Write the pending patches as one chunk."""
        spec = self.spec()
        container.add(spec.chunk_name(self.written, 0, 0, 0), spec.encode(np.stack(self.pending)))
        self.written += 1
        self.pending.clear()
