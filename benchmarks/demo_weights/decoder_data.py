"""Crops of packed slides on the GPU, and low images that a denoiser generates from coded ones."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np
import torch
from packed import TILE, PackedSlide
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.data.coded import as_base_layer
from zoomldm.generation.octaves import (
    ALONE_NOISE,
    Known,
    codec_loss,
    make_planes,
    octave_times,
    under_parent,
)
from zoomldm.generation.options import DEFAULTS, STEPS_GENERATED
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import COUNT
from zoomldm.geometry.orientation import TURNS
from zoomldm.geometry.withheld import is_withheld
from zoomldm.networks.lowpass import coarse_planes, enlarged, planes_image, pooled
from zoomldm.networks.octave_denoiser import BASE
from zoomldm.networks.precision import full_precision
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_signed

FINE = 0.5  # fraction of exact crops that are at 20x; generated ones all are
QUALITIES = (24, 30, 36, 42, 50, 60)  # AVIF qualities at 5x that every tile is coded with
STEPS = DEFAULTS["pyramid"][0]
ALONE = 0.35  # fraction of low images generated without a base layer
ALONE_STEPS = STEPS_GENERATED
AGREE = 0.3  # how far pixels and positions can agree with images generated from a base layer
MARGIN = 16  # px at 5x around a tile that the codec also sees
STAINED = 0.6  # fraction of crops whose stain is changed
ALIGN = 8  # px; crops at 20x start at multiples of it, as the slides' own JPEG blocks do


@dataclass
class Looks:
    """Orientation and stain of crops.

    Attributes:
        orientations: (n,), 0 to 7.
        gains: (n, 3) factors of optical densities.
        offsets: (n, 3) added to the densities afterwards.
    """

    orientations: Tensor
    gains: Tensor
    offsets: Tensor

    def of(self, images: Tensor) -> Tensor:
        """Apply them to signed images (n, 3, S, S)."""
        out = torch.empty_like(images)
        for orientation in range(TURNS):
            chosen = (self.orientations == orientation).nonzero()[:, 0]
            if len(chosen):
                x = images[chosen]
                out[chosen] = torch.rot90(
                    x.flip(3) if orientation >= 4 else x, orientation % 4, (2, 3)
                )
        light = out.add(1).mul(127.5).clamp(0, 255)
        density = -((light + 1) / 256).log()
        changed = density * self.gains[:, :, None, None] + self.offsets[:, :, None, None]
        stained = ((-changed).exp() * 256 - 1).clamp(0, 255).div(127.5).sub(1)
        same = (self.gains == 1).all(1) & (self.offsets == 0).all(1)
        return torch.where(same[:, None, None, None], out, stained)

    def part(self, rows: Tensor) -> "Looks":
        """Select some of the crops."""
        return Looks(self.orientations[rows], self.gains[rows], self.offsets[rows])


def draw_looks(count: int, rng: torch.Generator, device: torch.device) -> Looks:
    """Draw all eight orientations, and for most crops a change of stain."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=rng) * (high - low) + low

    changed = (torch.rand(count, 1, generator=rng) < STAINED).float()
    gains = uniform(0.82, 1.22, count, 1) * uniform(0.93, 1.07, count, 3)
    offsets = uniform(-0.03, 0.03, count, 1) + uniform(-0.015, 0.015, count, 3)
    return Looks(
        torch.randint(TURNS, (count,), generator=rng).to(device),
        (1 + changed * (gains - 1)).to(device),
        (changed * offsets).to(device),
    )


class Pictures:
    """Training tissue of packed slides: tiles at 20x, and mosaics averaged down to other levels.

    Args:
        slides: slides with mosaics on the device; they are not kept.
        side: side of crops in px, a multiple of 16 up to 256.
        seed: random seed.
    """

    def __init__(self, slides: list[PackedSlide], side: int, seed: int = 0) -> None:
        self.side, self.rng = side, torch.Generator().manual_seed(seed)
        self.numbers = np.random.default_rng(seed)
        self.device = slides[0].mosaic.device
        tiles, small = [], []
        self.mosaics: list[list[Tensor]] = [[] for _ in range(COUNT)]
        self.starts: list[list[tuple[int, int, int]]] = [[] for _ in range(COUNT)]
        for number, slide in enumerate(slides):
            pyramid = padded_pyramid(slide)
            used = np.argwhere(slide.mask & ~slide.block & slide.stored)
            for row, column in used.tolist():
                y, x = row * TILE, column * TILE
                tiles.append(slide.mosaic[y : y + TILE, x : x + TILE])
                y, x = TILE + y // 4 - MARGIN, TILE + x // 4 - MARGIN
                part = pyramid[2][y : y + 64 + 2 * MARGIN, x : x + 64 + 2 * MARGIN]
                small.append(part.cpu().numpy())
            for level in range(1, COUNT):
                self.mosaics[level].append(pyramid[level])
                self.starts[level] += [(number, y, x) for y, x in _starts(slide, level)]
        self.tiles, self.small = torch.stack(tiles), np.stack(small)
        self.levels = [k for k in range(1, COUNT) if self.starts[k]]

    def exact(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw signed crops (n, 3, side, side) and their levels (n,)."""
        crops, levels = [], []
        free = TILE - self.side
        for _ in range(count):
            level = 0
            if self.levels and self.numbers.random() >= FINE:
                level = int(self.numbers.choice(self.levels))
            if level:
                number, y, x = self.starts[level][self.numbers.integers(len(self.starts[level]))]
                dy, dx = self.numbers.integers(0, free + 1, 2)
                source = self.mosaics[level][number]
                y, x = y + int(dy), x + int(dx)
            else:
                source = self.tiles[int(self.numbers.integers(len(self.tiles)))]
                y, x = (int(v) * ALIGN for v in self.numbers.integers(0, free // ALIGN + 1, 2))
            crops.append(source[y : y + self.side, x : x + self.side])
            levels.append(level)
        looks = draw_looks(count, self.rng, self.device)
        return looks.of(to_signed(torch.stack(crops))), torch.tensor(levels, device=self.device)

    def pairs(self, tiles: Tensor, looks: Looks, low: Tensor) -> tuple[Tensor, Tensor]:
        """Signed crops (n, 3, side, side) of tiles (n,) and low images (n, 3, side / 4, side / 4).

        Args:
            tiles: numbers of tiles.
            looks: of each.
            low: (n, 3, 64, 64), whole low images that look so.
        """
        images, side, crops, lows = looks.of(to_signed(self.tiles[tiles])), self.side, [], []
        starts = self.numbers.integers(0, (TILE - side) // 16 + 1, (len(tiles), 2)) * 16
        for i, (y, x) in enumerate(starts.tolist()):
            crops.append(images[i, :, y : y + side, x : x + side])
            y, x = y // 4, x // 4
            lows.append(low[i, :, y : y + side // 4, x : x + side // 4].float())
        return torch.stack(crops), torch.stack(lows)


def padded_pyramid(slide: PackedSlide) -> list[Tensor]:
    """Mosaics (h, w, 3) uint8 of all levels, with 256 px of background around each.

    Missing tiles get the colour of stored tiles without tissue.
    """
    mosaic = slide.mosaic
    beside = np.argwhere(slide.stored & ~slide.mask)[:64]
    colour = torch.full((3,), 255.0, device=mosaic.device)
    if len(beside):
        parts = [
            mosaic[r * TILE : r * TILE + TILE : 4, c * TILE : c * TILE + TILE : 4]
            for r, c in beside.tolist()
        ]
        colour = torch.stack(parts).flatten(0, 2).float().median(0).values
    found = [mosaic]
    missing = torch.from_numpy(~slide.stored).to(mosaic.device)
    x = mosaic.permute(2, 0, 1)
    for level in range(1, COUNT):
        strips = [
            F.avg_pool2d(part.float()[None], 2, ceil_mode=True)[0].round().to(torch.uint8)
            for part in x.split(1024, 1)
        ]
        x = torch.cat(strips, 1)
        if level == 1:  # filled after averaging: a quarter of the work, and of the memory
            holes = missing.repeat_interleave(128, 0).repeat_interleave(128, 1)
            x = torch.where(holes, colour.round().to(torch.uint8)[:, None, None], x)
        frame = colour.round().to(torch.uint8)[:, None, None]
        whole = frame.expand(3, x.shape[1] + 512, x.shape[2] + 512).clone()
        whole[:, 256:-256, 256:-256] = x
        found.append(whole.permute(1, 2, 0).contiguous())
    return found


def _starts(slide: PackedSlide, level: int) -> list[tuple[int, int]]:
    """First pixels, in the padded mosaic of a level, of patches to train on."""
    side, step = 2**level, max(1, 2**level // 4)
    rows, cols = (np.arange(-side // 2, n, step) for n in slide.mask.shape)
    rows, cols = (v.ravel() for v in np.meshgrid(rows, cols, indexing="ij"))
    tissue = tiles_within(slide.mask & slide.stored, rows, cols, side)
    least = 0.3 if level < 4 else 0.08
    good = tissue >= max(1, least * min(side**2, slide.mask.size))
    good &= ~is_withheld(slide.mask, slide.block, level, rows, cols)
    scale = TILE / side
    return [
        (int(256 + r * scale), int(256 + c * scale))
        for r, c in zip(rows[good], cols[good], strict=True)
    ]


def make_lows(
    pipeline: ZoomLDMPipeline,
    tiles: Tensor,
    stored: Tensor,
    quality: int,
    noise: Tensor,
    steps: int = STEPS,
) -> Tensor:
    """Denoise coded low images: (n, 3, 64, 64) signed.

    Args:
        pipeline: patch encoder, summarizer, denoiser and autoencoder on the device.
        tiles: (n, 3, 256, 256) signed, to be embedded.
        stored: (n, 3, 64, 64) signed, the codec's output.
        quality: quality of the codec.
        noise: (n, 6, 32, 32) standard normal.
        steps: evaluations of the denoiser; 1 for the first prediction.
    """
    vae = pipeline.vae
    embeddings = pipeline.patch_encoder(tiles.add(1).div(2)).float()
    context = pipeline.context(embeddings[:, None, None], 0).float()
    times = octave_times(pipeline.unet.alphas, steps)
    with full_precision(noise.device):
        hint = vae.from_planes(coarse_planes(stored))
    known = Known(0, context, BASE, hint, codec_loss("avif", quality))
    planes = make_planes(pipeline.unet, vae, known, noise, times)
    with full_precision(noise.device):
        return planes_image(planes)


@torch.no_grad()
def draw_lows(pipeline: ZoomLDMPipeline, tiles: Tensor, noise: Tensor, parent: bool) -> Tensor:
    """Generate low images without a base layer: (n, 3, 64, 64) signed.

    Args:
        pipeline: see `make_lows`.
        tiles: (n, 3, 256, 256) signed, to be embedded.
        noise: (n, 6, 32, 32) standard normal.
        parent: whether to give the tiles' own parent, with the noise of generated parents.
    """
    vae = pipeline.vae
    embeddings = pipeline.patch_encoder(tiles.add(1).div(2)).float()
    known = Known(0, pipeline.context(embeddings[:, None, None], 0))
    if parent:
        above = enlarged(pooled(coarse_planes(F.avg_pool2d(tiles, 4))))
        known = under_parent(0, known.context, vae.from_planes(above), noise, ALONE_NOISE)
    times = octave_times(pipeline.unet.alphas, ALONE_STEPS)
    return planes_image(make_planes(pipeline.unet, vae, known, noise, times))


def coded_tile(around: np.ndarray) -> np.ndarray:
    """Code a tile (64 + margins, ..., 3) as base layers of each quality: (k, 64, 64, 3)."""
    inner = slice(MARGIN, -MARGIN)
    return np.stack([as_base_layer(around, q, speed=6)[inner, inner] for q in QUALITIES])


class GeneratedPool:
    """Generated low images of tiles in all orientations and stains, replaced gradually.

    Args:
        pictures: the tiles.
        pipeline: generates them; its autoencoder must not be the one that is trained.
        folder: folder in which newer `unet` and `summarizer` appear, or None.
        size: number of low images in the pool.
        chunk: number generated at once.
        workers: processes that code tiles in the background.
    """

    def __init__(
        self,
        pictures: Pictures,
        pipeline: ZoomLDMPipeline,
        folder: Path | None = None,
        size: int = 8192,
        chunk: int = 256,
        workers: int = 5,
    ) -> None:
        self.pictures, self.pipeline, self.folder = pictures, pipeline, folder
        self.chunk, self.size = chunk, size
        device, n = pictures.device, len(pictures.tiles)
        self.coded = torch.zeros(len(QUALITIES), n, 64, 64, 3, dtype=torch.uint8)
        self.ready: list[list[int]] = [[] for _ in QUALITIES]
        self.low = torch.empty(size, 3, 64, 64, device=device, dtype=torch.float16)
        self.tile = torch.zeros(size, dtype=torch.long, device=device)
        self.agree = torch.zeros(size, device=device)
        zeros = torch.zeros(size, 3, device=device)
        self.looks = Looks(torch.zeros(size, dtype=torch.long, device=device), zeros, zeros.clone())
        self.filled = self.next = 0
        self.times: tuple[float, ...] = ()
        self.newer = 0
        Thread(target=self._code, args=(workers,), daemon=True).start()

    def _code(self, workers: int) -> None:
        order = np.random.default_rng(0).permutation(len(self.pictures.tiles)).tolist()
        small = self.pictures.small
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            done = pool.map(coded_tile, (small[i] for i in order), chunksize=16)
            for i, found in zip(order, done, strict=True):
                self.coded[:, i] = torch.from_numpy(found)
                for ready in self.ready:
                    ready.append(i)

    def look_for_newer(self) -> None:
        """Load a newer denoiser and summarizer from the folder, if there are any."""
        if self.folder is None:
            return
        files = [
            self.folder / k / "diffusion_pytorch_model.safetensors" for k in ("unet", "summarizer")
        ]
        try:
            times = tuple(f.stat().st_mtime for f in files)
            if times == self.times:
                return
            unet = type(self.pipeline.unet).from_pretrained(files[0].parent)
            summarizer = type(self.pipeline.summarizer).from_pretrained(files[1].parent)
        except Exception as error:  # probably being written: try again next time
            print(f"octave: not yet ({type(error).__name__})", flush=True)
            return
        self.times = times
        device = self.pictures.device
        for name, network in (("unet", unet), ("summarizer", summarizer)):
            nn.Module.to(network, device)
            setattr(self.pipeline, name, network.eval().requires_grad_(False))
        self.newer += 1
        print(f"octave: newer weights taken ({self.newer})", flush=True)

    @torch.no_grad()
    def refresh(self) -> None:
        """Generate one chunk."""
        pictures, device = self.pictures, self.pictures.device
        which = int(pictures.numbers.integers(len(QUALITIES)))
        ready = len(self.ready[which])
        if not ready:
            return
        picks = pictures.numbers.integers(0, ready, self.chunk).tolist()
        tile = torch.tensor([self.ready[which][i] for i in picks])
        looks = draw_looks(self.chunk, pictures.rng, device)
        coded, tile = self.coded[which, tile], tile.to(device)
        images = looks.of(to_signed(pictures.tiles[tile]))
        noise = torch.randn(self.chunk, 6, 32, 32, device=device)
        chance, agree = float(pictures.numbers.random()), AGREE
        if chance < ALONE:
            parent = chance < ALONE / 2
            low, agree = draw_lows(self.pipeline, images, noise, parent), 0.0
        else:
            stored = looks.of(to_signed(coded.to(device)))
            low = make_lows(self.pipeline, images, stored, QUALITIES[which], noise)
        rows = (torch.arange(self.chunk, device=device) + self.next) % self.size
        self.low[rows], self.tile[rows], self.agree[rows] = low.half(), tile, agree
        self.looks.orientations[rows] = looks.orientations
        self.looks.gains[rows], self.looks.offsets[rows] = looks.gains, looks.offsets
        self.next = (self.next + self.chunk) % self.size
        self.filled = min(self.size, self.filled + self.chunk)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Signed crops (n, 3, side, side), low images (n, 3, side / 4, side / 4), agreement.

        Agreement (n,) is 0 if the low image is of another place than the crop.
        """
        rows = torch.from_numpy(self.pictures.numbers.integers(0, self.filled, count))
        rows = rows.to(self.low.device)
        images, low = self.pictures.pairs(self.tile[rows], self.looks.part(rows), self.low[rows])
        return images, low, self.agree[rows]


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yield slices of up to `size` that cover `count`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
