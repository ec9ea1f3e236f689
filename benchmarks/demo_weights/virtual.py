"""Virtual slides: packed slides rotated, warped and restained, embedded, and held in memory.

A few thousand tiles are too few to train on. Each slide is therefore used in all eight
orientations, and also under random angles, scales (0.92 to 1.08), origins of the tile grid and
stains; every version has its own embeddings. Everything lies on one device.
"""

import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import torch
from packed import PackedSlide, read_packed
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.data.coded import as_base_layer

TILE, SIDE, TOKEN, LEVELS, FINE = 256, 64, 8, 8, 3
TURNS = 8  # versions 0 to 7 are the exact orientations
CHUNK = 512  # pixels at 5x that share a quality of the base layer
MARGIN = 32
QUALITIES = (20, 75)
BASES = 3  # levels whose latents a base layer at 5x holds
HE = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))  # Ruifrok and Johnston 2001


def stain(rng: np.random.Generator) -> np.ndarray:
    """A random linear change of optical densities (3, 3) that leaves white unchanged."""
    he = np.array(HE) + rng.normal(0, 0.02, (3, 3))
    gains = np.exp(rng.normal(0, (0.15, 0.15, 0.05)))
    return np.linalg.inv(np.array(HE)) @ np.diag(gains) @ he


@dataclass
class Slide:
    """A virtual slide.

    Attributes:
        name: name of the slide.
        source: index of the slide.
        version: below 8 an exact orientation.
        matrix: (2, 3) from its pixels (x, y) at 20x, centres at halves, to those of the slide.
        stain: (3, 3) change of optical density, or None.
        pixels: (R 64, C 64, 3) uint8 at 5x.
        lossy: the same as decoded from a base layer.
        quality: (chunks down, chunks right) quality of the base layer.
        embeddings: (R, C, D) float16.
        background: (D,) embedding of a white tile.
        mask: (R, C) bool, tissue.
        withheld: (R, C) bool, withheld tissue.
        glass: (3,) uint8, colour outside the slide.
    """

    name: str
    source: int
    version: int
    matrix: np.ndarray
    stain: np.ndarray | None
    pixels: Tensor
    lossy: Tensor
    quality: Tensor
    embeddings: Tensor
    background: Tensor
    mask: Tensor
    withheld: Tensor
    glass: Tensor


def glass(slide: PackedSlide) -> Tensor:
    """Colour (3,) uint8 of a slide's glass: the median of packed tiles beside the tissue.

    Missing tiles are filled with it. White there would teach that glass has two colours.
    """
    at = np.argwhere(slide.stored & ~slide.mask)
    if not len(at):
        return torch.full((3,), 255, dtype=torch.uint8, device=slide.mosaic.device)
    tiles = [
        slide.mosaic[r * TILE : (r + 1) * TILE : 8, c * TILE : (c + 1) * TILE : 8] for r, c in at
    ]
    return torch.stack(tiles).reshape(-1, 3).median(0).values


class Source:
    """One slide on the device, from which the pixels of its versions are read."""

    def __init__(self, slide: PackedSlide) -> None:
        self.name, self.mask, self.block = slide.name, slide.mask, slide.block
        self.mosaic, self.device = slide.mosaic, slide.mosaic.device
        self.glass = glass(slide)
        stored = torch.from_numpy(slide.stored).to(self.device)
        tiles = self.mosaic.view(*stored.shape[:1], TILE, stored.shape[1], TILE, 3)
        tiles.movedim(1, 2)[~stored] = self.glass
        self._float: Tensor | None = None

    def open(self) -> None:
        """Hold the mosaic as float as well, until `close`."""
        glass = self.glass.float().view(3, 1, 1)
        self._float = (self.mosaic.permute(2, 0, 1).float() - glass)[None].contiguous()

    def close(self) -> None:
        """Free the float mosaic of `open`."""
        self._float = None

    def read(self, matrix: np.ndarray, change: np.ndarray | None, tops: Tensor, lefts: Tensor):
        """Read tiles (n, 256, 256, 3) uint8 at pixels (tops, lefts) of a version."""
        assert self._float is not None
        n, (height, width) = len(tops), self.mosaic.shape[:2]
        line = torch.arange(TILE, device=self.device, dtype=torch.float64) + 0.5
        y = (tops.double()[:, None] + line)[:, :, None].expand(n, TILE, TILE)
        x = (lefts.double()[:, None] + line)[:, None, :].expand(n, TILE, TILE)
        m = matrix
        sx = m[0, 0] * x + m[0, 1] * y + m[0, 2]
        sy = m[1, 0] * x + m[1, 1] * y + m[1, 2]
        grid = torch.stack([sx * 2 / width - 1, sy * 2 / height - 1], -1).float()
        out = F.grid_sample(
            self._float, grid.reshape(1, n * TILE, TILE, 2), "bicubic", "zeros", False
        )
        out = (out[0] + self.glass.float().view(3, 1, 1)).reshape(3, n, TILE, TILE)
        if change is not None:
            density = -(out.clamp(1, 255) / 255).log().flatten(1)
            turned = torch.from_numpy(change).to(density).T @ density
            out = (255 * torch.exp(-turned)).reshape(3, n, TILE, TILE)
        return out.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 3, 0)


def placed(source: Source, version: int, rng: np.random.Generator):
    """Matrix (2, 3), rows and columns of a version of a slide."""
    rows, cols = source.mask.shape
    height, width = rows * TILE, cols * TILE
    if version < TURNS:
        quarter, flip = version % 4, version >= 4
        angle, scale = quarter * math.pi / 2, 1.0
    else:
        flip, angle = bool(rng.integers(2)), rng.uniform(0, 2 * math.pi)
        scale = rng.uniform(0.92, 1.08)
    c, s = math.cos(angle), math.sin(angle)
    if version < TURNS:
        c, s = round(c), round(s)
    linear = np.array([[c, -s], [s, c]]) * scale
    if flip:
        linear = linear @ np.diag([-1.0, 1.0])
    at = np.argwhere(source.mask)
    if version < TURNS:
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    else:
        lows = at[:, ::-1] * TILE
        corners = np.concatenate([lows + d for d in ([0, 0], [0, TILE], [TILE, 0], [TILE, TILE])])
    back = corners @ np.linalg.inv(linear).T
    low, high = back.min(0), back.max(0)
    if version >= TURNS:
        low = low - rng.uniform(0, TILE, 2)
    size = np.ceil((high - low) / TILE - 1e-6).astype(int)
    shift = linear @ low
    return np.concatenate([linear, shift[:, None]], 1), int(size[1]), int(size[0])


def covered(flags: np.ndarray, matrix: np.ndarray, rows: int, cols: int, points: int) -> np.ndarray:
    """Fraction of each tile of a version that lies in flagged tiles of the slide."""
    line = (np.arange(points) + 0.5) / points
    y = (np.arange(rows)[:, None] + line).reshape(-1) * TILE
    x = (np.arange(cols)[:, None] + line).reshape(-1) * TILE
    x, y = np.meshgrid(x, y)
    sx = np.floor((matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / TILE).astype(int)
    sy = np.floor((matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / TILE).astype(int)
    inside = (sx >= 0) & (sy >= 0) & (sx < flags.shape[1]) & (sy < flags.shape[0])
    found = np.zeros(x.shape, bool)
    found[inside] = flags[sy[inside], sx[inside]]
    return found.reshape(rows, points, cols, points).mean((1, 3))


def base_chunk(around: np.ndarray, quality: int, first: int) -> np.ndarray:
    """Code a chunk with its margin as the slide's own JPEG and then as a base layer."""
    around = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(around, level=first))
    return as_base_layer(around, quality, MARGIN)


@torch.no_grad()
def make(
    source: Source,
    number: int,
    version: int,
    seed: int,
    encoder: nn.Module,
    pool: Executor | None,
) -> tuple[Slide, list[tuple[slice, slice, Future]]]:
    """Make a version of an opened slide; also returns the base-layer chunks still being encoded."""
    rng = np.random.default_rng([seed, number, version])
    matrix, rows, cols = placed(source, version, rng)
    change = stain(rng) if version >= TURNS and rng.random() < 0.8 else None
    padded = np.pad(source.mask, 1)
    r, c = source.mask.shape
    near = np.any([padded[i : i + r, j : j + c] for i in range(3) for j in range(3)], 0)
    points = 1 if version < TURNS else 8
    mask = covered(source.mask, matrix, rows, cols, points) > 0.2
    withheld = covered(source.block, matrix, rows, cols, points) > 0
    there = np.argwhere((covered(near, matrix, rows, cols, points) > 0) | mask)
    device = source.device
    background = encoder(torch.ones(1, 3, TILE, TILE, device=device))[0].half()  # as in archives
    embeddings = background.expand(rows, cols, -1).clone()
    pixels = source.glass.expand(rows, SIDE, cols, SIDE, 3).clone()
    places = torch.from_numpy(there).to(device)
    inside = torch.from_numpy(mask).to(device)
    for part in places.split(64):
        tiles = source.read(matrix, change, part[:, 0] * TILE, part[:, 1] * TILE)
        signed = tiles.permute(0, 3, 1, 2).float()
        low = F.avg_pool2d(signed, TILE // SIDE).round().to(torch.uint8).permute(0, 2, 3, 1)
        pixels[part[:, 0], :, part[:, 1]] = low
        keep = inside[part[:, 0], part[:, 1]]
        if keep.any():
            chosen = part[keep]
            embeddings[chosen[:, 0], chosen[:, 1]] = encoder(signed[keep] / 255).half()
    pixels = pixels.view(rows * SIDE, cols * SIDE, 3)
    chunks = -(-pixels.shape[0] // CHUNK), -(-pixels.shape[1] // CHUNK)
    quality = rng.integers(QUALITIES[0], QUALITIES[1] + 1, chunks)
    first = rng.integers(70, 93, chunks)
    jobs = []
    if pool is not None:
        own = np.pad(pixels.cpu().numpy(), ((MARGIN,) * 2, (MARGIN,) * 2, (0, 0)), mode="edge")
        for i, j in np.ndindex(*chunks):
            around = own[i * CHUNK : (i + 1) * CHUNK + 2 * MARGIN][
                :, j * CHUNK : (j + 1) * CHUNK + 2 * MARGIN
            ]
            if (around == around[0, 0]).all():
                continue
            where = (slice(i * CHUNK, (i + 1) * CHUNK), slice(j * CHUNK, (j + 1) * CHUNK))
            job = pool.submit(base_chunk, around, int(quality[i, j]), int(first[i, j]))
            jobs.append((*where, job))
    slide = Slide(
        source.name,
        number,
        version,
        matrix,
        change,
        pixels,
        pixels.clone() if pool is not None else pixels,
        torch.from_numpy(quality).to(device),
        embeddings,
        background,
        inside,
        torch.from_numpy(withheld).to(device),
        source.glass,
    )
    return slide, jobs


def make_all(
    sources: Sequence[Source],
    versions: Sequence[int],
    encoder: nn.Module,
    seed: int = 0,
    codec: bool = True,
    workers: int | None = None,
) -> list[Slide]:
    """Make all versions of all slides; base layers are coded in separate processes."""
    slides: list[Slide] = []
    # Threads would wait for each other: much of a base layer's work is NumPy on small arrays.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting: list[tuple[Slide, list]] = []
        for number, source in enumerate(sources):
            source.open()
            for version in versions:
                slide, jobs = make(source, number, version, seed, encoder, pool if codec else None)
                slides.append(slide)
                waiting.append((slide, jobs))
            source.close()
        for slide, jobs in waiting:
            for down, across, job in jobs:
                slide.lossy[down, across] = torch.from_numpy(job.result()).to(slide.lossy.device)
    return slides


def load_sources(folder: Path, device, only: int | None = None) -> list[Source]:
    """Load all packed slides of a folder, or the first `only` of them."""
    return [Source(slide) for slide in read_packed(folder, device)[:only]]


def embeddings_of(slides: Sequence[Slide]) -> list[dict]:
    """The input from which the embedding diffusion's contexts are computed."""
    return [
        {
            "name": s.name,
            "source": s.source,
            "version": s.version,
            "embeddings": s.embeddings.cpu(),
            "background": s.background.cpu(),
            "mask": s.mask.cpu(),
            "withheld": s.withheld.cpu(),
        }
        for s in slides
    ]
