"""Super-resolution by inversion, as published: find embeddings for an image, then sample."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomldm.diffusion.inversion import InversionSettings, invert_grid
from zoomldm.diffusion.joint import JointSettings
from zoomldm.diffusion.noise import noise
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_signed
from zoomldm.sampling.joint import JointSampler
from zoomldm.sampling.pieces import Pieces

JOINT = JointSettings(inner=5)  # value published for super-resolution
_START, _STEPS = 5000, 6000  # noise keys: of the grid, and (from here on) of the steps


class Inversion:
    """Upscales an image of level 1 to 3 to 20x: inversion of its patches, then joint sampling.

    Args:
        pixels: (h, w, 3) uint8; padded to patches of 256 px by repeating its edge.
        level: level of the image.
        pipeline: any pipeline that joint sampling supports.
        settings: settings of the inversion.
        joint: settings of the sampling.
        options: seed and batch.
        pieces: where finished parts are stored and found again.
        progress: called with `inverting` and `steps`.

    Attributes:
        evaluations: evaluations of the denoiser, one patch each.

    Raises:
        ConfigError, PipelineError: see JointSampler.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        level: int,
        pipeline: ZoomLDMPipeline,
        settings: InversionSettings,
        joint: JointSettings,
        options: RenderOptions,
        pieces: Pieces | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.pipeline, self.level, self.settings = pipeline, level, settings
        self.options, self.pieces, self.progress = options, pieces, progress
        self.size = pixels.shape[1] << level, pixels.shape[0] << level
        short = [-n % TILE for n in pixels.shape[:2]]
        self._image = np.pad(pixels, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
        side = 1 << level
        rows, cols = (n // TILE for n in self._image.shape[:2])
        grid = np.zeros((rows * side, cols * side, pipeline.embedding_dim), np.float32)
        self._taken = 0
        self.sampler = JointSampler(
            pipeline,
            grid,
            side,
            replace(joint),
            options,
            on_tiles=self._advance,
            pieces=pieces,
            view=self._view,
        )

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser, one patch each: of inversion and of sampling."""
        blocks = (self._image.shape[0] // TILE) * (self._image.shape[1] // TILE)
        return blocks * self.settings.steps + self.sampler.evaluations

    def _advance(self, count: int) -> None:
        self._taken += count
        if self.progress:
            self.progress("steps", self._taken, max(self._taken, self.sampler.steps))

    def _view(self, row: int, col: int) -> Tensor:
        y, x = ((n >> self.level) * TILE for n in (row, col))
        return to_signed(self._image[None, y : y + TILE, x : x + TILE])

    def grid(self) -> NDArray[np.float32]:
        """Embeddings (rows, cols, D) of all tiles, each standardised; computed unless stored."""
        side, done = 1 << self.level, 0
        rows, cols = (n // TILE for n in self._image.shape[:2])
        out = self.sampler.grid
        total = rows * cols * self.settings.steps
        for i in range(rows):
            for j in range(cols):
                place = np.s_[i * side : (i + 1) * side, j * side : (j + 1) * side]
                key, shape = f"grid/{i}/{j}", (side, side, out.shape[2])
                held = self.pieces.get(key) if self.pieces else None
                if held is not None:
                    values = np.frombuffer(held, "<f4").astype(np.float32).reshape(shape)
                    out[place] = torch.from_numpy(values)
                else:
                    out[place] = self._inverted(i, j, done, total).cpu()
                    if self.pieces:
                        self.pieces.put(key, np.ascontiguousarray(out[place], "<f4").tobytes())
                done += self.settings.steps
        return out.numpy()

    def _inverted(self, i: int, j: int, done: int, total: int) -> Tensor:
        pipeline, seed, side = self.pipeline, self.options.seed, 1 << self.level
        device, dim = pipeline.device, pipeline.embedding_dim
        image = self._view(i * side, j * side).to(device)
        level = torch.full((1,), self.level, device=device)
        shape = pipeline.latent_shape

        def step_noise(step: int) -> Tensor:
            field = noise(seed, self.level, _STEPS + step, i * shape[1], j * shape[2], shape)
            return torch.from_numpy(field)[None].to(device)

        def advance(step: int, _loss: float) -> None:
            if self.progress:
                self.progress("inverting", done + step, total)

        start = noise(seed, self.level, _START, i * side, j * side, (dim, side, side))
        networks = self.sampler.networks
        return invert_grid(
            networks.guide,
            lambda grid: pipeline.summarizer(grid, level),
            pipeline.encode_images(image),
            torch.from_numpy(start).permute(1, 2, 0).contiguous().to(device),
            step_noise,
            networks.alphas,
            self.settings,
            networks.exact_time,
            advance,
        )

    def image(self, folder: Path) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) uint8 at 20x, in an unnamed file in `folder`."""
        self.grid()
        self.sampler.evaluations = 0  # those of the guide during inversion are counted above
        return self.sampler.image(folder)[: self.size[1], : self.size[0]]
