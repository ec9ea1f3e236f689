"""A large image by joint sampling: a pipeline's networks, blocks of tiles, one latent map."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomldm.diffusion.joint import (
    Denoise,
    JointNetworks,
    JointSettings,
    from_velocity,
    sample_joint,
)
from zoomldm.diffusion.large_image import (
    decode_strips,
    join_tiles,
    remove_seams,
    split_tiles,
    to_bytes,
    window_embedding,
    window_starts,
)
from zoomldm.diffusion.noise import noise
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import TILE
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels
from zoomldm.sampling.pieces import Pieces

SIDES = (16, 8, 4, 2)  # tiles along a side of a guide's block
_SEAMS, _DETAIL = 4000, -1  # noise keys that no timestep uses


def guide_side(rows: int, cols: int, asked: int | None, levels: int) -> int:
    """Tiles along a side of a guide's block.

    Raises:
        ConfigError: none fits, or not the requested one.
    """
    fitting = [n for n in SIDES if rows % n == cols % n == 0 and n.bit_length() <= levels]
    if asked is None and fitting:
        return fitting[0]
    if asked in fitting:
        return asked  # type: ignore[return-value]
    found = f"{cols} x {rows} tiles"
    if asked is not None:
        raise ConfigError(
            f"guide {asked} does not fit {found}; expected one of 2, 4, 8, 16 that divides both"
        )
    raise ConfigError(
        f"an image of {found} has no guide: joint sampling takes sides of an even number of "
        f"tiles, so multiples of {2 * TILE} px"
    )


class JointSampler:
    """Samples a grid of tiles together with views of it at a lower magnification.

    Each block of n x n tiles has one guide, its view. The networks process `batch` tiles or
    windows at once, whatever the image's size. Latents of all tiles are in memory (about 50 kB a
    tile); the image is assembled strip by strip.

    Args:
        pipeline: any whose scheduler has alphas and whose denoiser predicts noise or v.
        grid: (rows, cols, D) raw embeddings.
        side: n, see `guide_side`.
        settings: constants.
        options: seed and batch.
        exact_time: see JointNetworks; None: as released for converted pipelines, else exact.
        on_tiles: called with the number of steps taken by tiles and windows.
        pieces: where finished blocks and steps are stored and found again.
        view: gives the image (1, 3, 256, 256) in [-1, 1] that the block whose first tile is at
            (row, col) must average down to; None: each block's guide is sampled.

    Attributes:
        evaluations: evaluations of the denoiser so far, one patch each.
        guides: final guide of each block, (n, 256, 256, 3) uint8.
    """

    def __init__(
        self,
        pipeline: ZoomLDMPipeline,
        grid: NDArray[np.float32],
        side: int,
        settings: JointSettings,
        options: RenderOptions,
        exact_time: bool | None = None,
        on_tiles: Callable[[int], None] | None = None,
        pieces: Pieces | None = None,
        view: Callable[[int, int], Tensor] | None = None,
    ) -> None:
        self.pipeline, self.side, self.settings = pipeline, side, settings
        self.grid = torch.from_numpy(np.array(grid, np.float32))
        self.level = side.bit_length() - 1
        pipeline.check_level(self.level)
        self.seed, self.batch = options.seed, options.batch_on(pipeline.device)
        self.view = view
        self.on_tiles, self.pieces, self.evaluations = on_tiles, pieces, 0
        self.guides: list[NDArray[np.uint8]] = []
        octaves = isinstance(pipeline.unet, OctaveDenoiser)
        alphas = pipeline.unet.alphas if octaves else pipeline.scheduler.alphas_cumprod
        kind = "v_prediction" if octaves else pipeline.scheduler.config["prediction_type"]
        if kind not in ("v_prediction", "epsilon"):
            raise PipelineError(
                f"pipeline predicts {kind}; joint sampling takes epsilon or v_prediction"
            )
        released = kind == "epsilon" and "system" in (pipeline.config["source"] or {})
        exact = not released if exact_time is None else exact_time
        if not exact and kind == "v_prediction":
            raise ConfigError("this pipeline knows times 0 to 999 only; leave exact time on")
        alphas = alphas.to(pipeline.device).float()
        decode = pipeline.vae.decode
        self.networks = JointNetworks(
            self._counted(pipeline.denoiser(0), kind, alphas),
            self._counted(pipeline.denoiser(self.level), kind, alphas),
            pipeline.encode_images,
            lambda latents: decode(latents).float(),
            alphas,
            exact,
        )
        self.cells = pipeline.latent_shape[1]

    def _counted(self, denoiser: Denoise, kind: str, alphas: Tensor) -> Denoise:
        predict_noise = from_velocity(denoiser, alphas) if kind == "v_prediction" else denoiser

        def call(latents: Tensor, time: Tensor, context: Tensor) -> Tensor:
            self.evaluations += len(latents)
            return predict_noise(latents, time, context)

        return call

    def _noise(self, level: int, step: int, row: int, col: int) -> Tensor:
        shape = self.pipeline.latent_shape
        field = noise(self.seed, level, step, row * self.cells, col * self.cells, shape)
        return torch.from_numpy(field)

    @property
    def steps(self) -> int:
        """Number of steps of tiles and windows that an image takes."""
        rows, cols = self.grid.shape[:2]
        starts = [len(window_starts(n * self.cells, self.cells, self.stride)) for n in (rows, cols)]
        seams = len(range(self.settings.seams, 0, -self.settings.stride))
        return rows * cols * len(self.settings.steps) + starts[0] * starts[1] * seams

    @property
    def stride(self) -> int:
        """Cells between windows in seam removal and decoding: a quarter of a tile."""
        return self.cells // 4

    def latents(self) -> Tensor:
        """The whole image as one map (1, C, h, w)."""
        rows, cols = self.grid.shape[:2]
        n, s = self.side, self.cells
        out = torch.empty(1, self.pipeline.latent_shape[0], rows * s, cols * s)
        for row in range(0, rows, n):
            for col in range(0, cols, n):
                tiles = self._found_block(row, col)
                out[:, :, row * s : (row + n) * s, col * s : (col + n) * s] = join_tiles(tiles, n)
        return self._joined(out) if self.settings.seams else out

    def _found_block(self, row: int, col: int) -> Tensor:
        """Tiles (n n, C, s, s) of a block; appends its guide to `guides`."""
        key, n = f"block/{row}/{col}", self.side
        held = self.pieces.get(key) if self.pieces else None
        if held is not None:
            count, guide, rest = (
                held[:8],
                held[8 : 8 + TILE * TILE * 3],
                held[8 + TILE * TILE * 3 :],
            )
            self.evaluations += int.from_bytes(count, "little")
            self.guides.append(np.frombuffer(guide, np.uint8).reshape(TILE, TILE, 3))
            self._advance(n * n * len(self.settings.steps))
            return _latents(rest, (n * n, *self.pipeline.latent_shape))
        before = self.evaluations
        tiles = self._block(row, col).cpu()
        if self.pieces:
            count = (self.evaluations - before).to_bytes(8, "little")
            values = np.ascontiguousarray(tiles.numpy(), "<f4").tobytes()
            self.pieces.put(key, count + self.guides[-1].tobytes() + values)
        return tiles

    def _advance(self, count: int) -> None:
        if self.on_tiles:
            self.on_tiles(count)

    @torch.no_grad()
    def _block(self, row: int, col: int) -> Tensor:
        n, device = self.side, self.pipeline.device
        grid = self.grid[row : row + n, col : col + n]

        def tile_noise(step: int, first: int, last: int) -> Tensor:
            places = [(row + i // n, col + i % n) for i in range(first, last)]
            return torch.stack([self._noise(0, step, *place) for place in places]).to(device)

        def guide(step: int) -> Tensor:
            return self._noise(self.level, step, row // n, col // n)[None].to(device)

        known = None if self.view is None else self.view(row, col).to(device)
        tiles, view = sample_joint(
            self.networks,
            self.pipeline.context(grid.reshape(n * n, 1, 1, -1), 0),
            self.pipeline.context(grid[None], self.level),
            tile_noise,
            guide,
            self.settings,
            self.batch,
            self.on_tiles,
            known,
        )
        shown = self.pipeline.decode_latents(view, self.level) if known is None else known
        self.guides.append(to_pixels(shown)[0])
        return tiles

    @torch.no_grad()
    def _joined(self, latents: Tensor) -> Tensor:
        settings, device, rows = self.settings, self.pipeline.device, self.grid.shape[0]
        taken, begun = self._begun(latents)
        # One noise field for the tiles, then one per step.
        steps = iter(range(_SEAMS + taken + int(begun is not None), 2 * _SEAMS))

        def contexts(places: list[tuple[int, int]]) -> Tensor:
            tokens = [window_embedding(self.grid, *place, self.cells) for place in places]
            if self.on_tiles:
                self.on_tiles(len(places))
            return self.pipeline.context(torch.stack(tokens)[:, None, None], 0)

        def fresh(shape: tuple[int, ...]) -> Tensor:
            step = next(steps)
            size = (int(latents.shape[1]), int(latents.shape[2]), int(latents.shape[3]))
            whole = torch.from_numpy(noise(self.seed, 0, step, 0, 0, size))[None]
            return (split_tiles(whole, self.cells) if shape[0] > 1 else whole).to(device)

        tiles = remove_seams(
            self.networks.fine,
            split_tiles(latents, self.cells).to(device),
            contexts,
            self.networks.alphas,
            fresh,
            rows,
            settings.seams,
            settings.stride,
            settings.extra,
            self.stride,
            self.networks.exact_time,
            self.batch,
            None if begun is None else (taken, begun.to(device)),
            self._keep_step,
        )
        return join_tiles(tiles, rows).cpu()

    def _begun(self, latents: Tensor) -> tuple[int, Tensor | None]:
        """Number of stored steps of seam removal, and the map after them."""
        steps = len(range(self.settings.seams, 0, -self.settings.stride))
        for taken in range(steps if self.pieces else 0, 0, -1):
            assert self.pieces
            held = self.pieces.get(f"seams/{taken}")
            if held is not None:
                self.evaluations = int.from_bytes(held[:8], "little")
                return taken, _latents(held[8:], tuple(latents.shape))
        return 0, None

    def _keep_step(self, taken: int, latents: Tensor) -> None:
        if self.pieces:
            values = np.ascontiguousarray(latents.cpu().numpy(), "<f4").tobytes()
            self.pieces.put(f"seams/{taken}", self.evaluations.to_bytes(8, "little") + values)
            self.pieces.drop(f"seams/{taken - 1}")

    @torch.no_grad()
    def image(self, folder: Path) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) uint8, in an unnamed file in `folder`."""
        latents = self.latents()
        rows, cols = self.grid.shape[:2]
        with tempfile.TemporaryFile(dir=folder) as file:
            shape = (rows * TILE, cols * TILE, 3)
            out = np.memmap(file, np.uint8, "w+", shape=shape)  # type: ignore[arg-type]
        top, strips = 0, decode_strips(self._decoded, latents, self.stride, self.cells, self.batch)
        truncated = not isinstance(self.pipeline.vae, LowPassAutoencoder)
        for strip in strips:
            if truncated:
                part = to_bytes(strip)[0].permute(1, 2, 0).cpu().numpy()
            else:
                part = to_pixels(strip)[0]
            out[top : top + len(part)] = part
            top += len(part)
        return out

    def _decoded(self, latents: Tensor, places: list[tuple[int, int]]) -> Tensor:
        vae, device = self.pipeline.vae, self.pipeline.device
        if not isinstance(vae, LowPassAutoencoder):
            return vae.decode(latents.to(device)).float()
        shape = (int(vae.config["noise_channels"]), self.cells, self.cells)
        fields = [noise(self.seed, 0, _DETAIL, row, col, shape) for row, col in places]
        return vae.decode(latents.to(device), torch.from_numpy(np.stack(fields)).to(device)).float()


def _latents(data: bytes, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32).reshape(shape))
