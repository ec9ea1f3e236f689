"""The pyramid: an archive's image octave by octave, from its base layer down."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomldm.archive import Archive
from zoomldm.archive.base import halve
from zoomldm.caching import Recent
from zoomldm.diffusion.noise import noise
from zoomldm.errors import PipelineError
from zoomldm.generation.octaves import (
    PARENT_NOISE,
    Known,
    codec_loss,
    corrected,
    make_latents,
    octave_times,
    smoothed,
)
from zoomldm.generation.options import RenderOptions
from zoomldm.generation.windows import (
    CELL,
    SIDE,
    STRIDE,
    Field,
    Key,
    blended,
    keys_over,
    windows_over,
)
from zoomldm.generation.windows import window_count as count_along
from zoomldm.geometry.lattice import Window
from zoomldm.geometry.levels import COUNT, NAMES, TILE, level_size
from zoomldm.networks.lowpass import (
    LowPassAutoencoder,
    Planes,
    coarse_planes,
    enlarged,
    planes_image,
)
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT, OctaveDenoiser
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.rendering.renderer import PatchCount

RESTORED = 3  # base layers up to this many levels above 5x are freed from their codec's loss
DRAWN = 4  # level whose latents are drawn from their context where there is no base layer
HALO = 8  # cells around a tile that its decoding takes in
NEAR = 1  # tiles around tissue that are decoded; farther ones are the enlarged latents
EDGE = 4  # pixels around a region whose chroma its interpolation takes in
DETAIL = -1  # "step" of the noise that the decoder reads
WHOLE = 1 << 22  # pixels of a real level that is kept whole
GROUP = 64  # tiles asked for at once


class Pyramid:
    """Pixels of an archive at any level, as a function of archive, pipeline and options alone.

    The image of level 0 is decoded from latents, that of level 1 is it averaged, and from level 2
    on images *are* latents: those of level k - 2. A base layer at level b is the latents of level
    b - 2 up to its codec's loss, which the denoiser takes away; finer latents are made octave by
    octave, each averaging down to its parent exactly, and levels from b on are the stored pixels.
    Without a base layer the latents of 1.25x are drawn from noise under their context, of which a
    token then stands for 2 x 2 tiles, and coarser images are averages: what lies where is known
    by the tile, and need not be guessed from farther off.

    Latents are made in windows (see `zoomldm.generation.windows`) that depend on their ancestors
    alone, so that the cost of a region depends on the region and its pixels on nothing else.

    Not safe for use by several threads at once.

    Args:
        archive: what to render.
        pipeline: the one whose patch encoder made the archive; its denoiser takes a hint.
        options: see RenderOptions.
        memory: bytes of windows, and again of tiles, kept in memory.
        on_patch: called after each batch with the number of windows that it made.

    Raises:
        ArchiveError: made with another patch encoder.
        PipelineError: the pipeline has no denoiser of octaves.
    """

    def __init__(
        self,
        archive: Archive,
        pipeline: ZoomLDMPipeline,
        options: RenderOptions | None = None,
        memory: int = 256 << 20,
        on_patch: Callable[[int], None] | None = None,
    ) -> None:
        check_encoder(archive, pipeline)
        if not isinstance(pipeline.unet, OctaveDenoiser) or not isinstance(
            pipeline.vae, LowPassAutoencoder
        ):
            raise PipelineError(
                "this pipeline's denoiser takes no parent, so it can't draw a pyramid; "
                "choose method cascade"
            )
        self.archive, self.pipeline = archive, pipeline
        self.options = (options or RenderOptions()).resolved("pyramid")
        self.on_patch = on_patch
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.base = archive.base
        self.real_from = self.base.level if self.base else COUNT
        self.top = max(self.base.level - 2, 0) if self.base else DRAWN
        self.times = octave_times(self.options.steps, self.options.start)
        self.batch = self.options.batch_on(pipeline.device)
        self.made = {"windows": 0, "tiles": 0}
        self._mask = archive.mask
        self._windows: Recent[tuple[int, int, int], Field] = Recent(memory)
        self._tiles: Recent[tuple[int, int], NDArray[np.uint8]] = Recent(memory)
        self._coarse: dict[int, NDArray[np.uint8]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything made; the archive stays open."""
        self._windows.clear()
        self._tiles.clear()
        self._coarse.clear()

    def is_real(self, level: int) -> bool:
        """Whether the level is stored pixels."""
        return level >= self.real_from

    def size(self, level: int) -> tuple[int, int]:
        """Width and height (px) of the slide at a level."""
        return level_size(*self.archive.size, level)

    def provenance(self) -> dict[str, Any]:
        """What the pixels are a function of, for the metadata of an output."""
        return {
            "archive_digest": self.archive.digest,
            "pipeline_digest": self.pipeline.digest(),
            **asdict(self.options),
            "method": "pyramid",
            "sampler": "ddim",
            "timesteps": list(self.times),
            "levels_real": [NAMES[k] for k in range(COUNT) if self.is_real(k)],
            "levels_generated": [NAMES[k] for k in range(COUNT) if not self.is_real(k)],
            "background": "parts without tissue are the level above enlarged, not generated",
            "batch": self.batch,
            "device": self.pipeline.device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region in pixels of a level, (height, width, 3) uint8 sRGB; white outside."""
        out = np.full((height, width, 3), 255, np.uint8)
        full_w, full_h = self.size(level)
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, full_w), min(y + height, full_h)
        if x0 >= x1 or y0 >= y1:
            return out
        if self.is_real(level):
            part = self._real(level, x0, y0, x1, y1)
        elif level > self.top + 2:
            part = self._averaged(level, x0, y0, x1, y1)
        elif level >= 2:
            part = self._latent_image(level, x0, y0, x1, y1)
        elif level == 1:
            part = halve(self._decoded(2 * x0, 2 * y0, 2 * x1, 2 * y1), 1)
        else:
            part = self._decoded(x0, y0, x1, y1)
        out[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return out

    def count(self, windows: Mapping[int, Window]) -> dict[int, PatchCount]:
        """Windows of latents that regions (x, y, w, h in px of their level) need, by level.

        Those of a level are counted with all that finer ones need of it.
        """
        counts: dict[int, PatchCount] = {}
        needed: list[range] | None = None
        for level in range(self.top + 1):
            total = self._counts(level)
            own = [
                (k, w) for k, w in windows.items() if max(k - 2, 0) == level and not self.is_real(k)
            ]
            reach = HALO * CELL if level == 0 else EDGE
            spans = [] if needed is None else [needed]
            for k, (x, y, w, h) in own:
                whole = TILE >> k if k < 2 else 1  # decoding makes whole tiles
                # pixels of level + 2 for one of level k
                scale = min(1 << k, 4) / 4 * (1 << max(k - self.top - 2, 0))
                spans.append(
                    [
                        windows_over(
                            int(a // whole * whole * scale) - reach,
                            int(-(-(a + b) // whole) * whole * scale) + reach,
                            n,
                        )
                        for a, b, n in ((y, h, total[0]), (x, w, total[1]))
                    ]
                )
            if not spans:
                continue
            rows, cols = (
                range(min(s[i].start for s in spans), max(s[i].stop for s in spans))
                for i in range(2)
            )
            drawn = sum(self._tissue(level, (i, j)) for i in rows for j in cols)
            if drawn or level == 0:
                counts[level] = PatchCount(drawn, len(rows) * len(cols) - drawn)
            if level < self.top:
                above = self._counts(level + 1)
                needed = [
                    windows_over(r.start * STRIDE // 2, (r.stop - 1) * STRIDE // 2 + SIDE // 2, n)
                    for r, n in zip((rows, cols), above, strict=True)
                ]
        return counts

    # -- stored pixels ------------------------------------------------------------------------

    def _real(self, level: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Stored pixels, averaged down from the base layer's own level."""
        assert self.base is not None
        if level == self.base.level:
            return self.base.read(x0, y0, x1 - x0, y1 - y0)
        width, height = self.size(level)
        if width * height > WHOLE:
            return self.base.read_level(level, x0, y0, x1 - x0, y1 - y0)
        if level not in self._coarse:
            self._coarse[level] = self.base.read_level(level, 0, 0, width, height)
        return self._coarse[level][y0:y1, x0:x1]

    # -- latents ------------------------------------------------------------------------------

    def _counts(self, level: int) -> tuple[int, int]:
        """Windows along rows and columns at a level of latents."""
        width, height = level_size(*self.archive.size, level + 2)
        return count_along(height), count_along(width)

    def field(self, level: int, top: int, left: int, height: int, width: int) -> Field:
        """Planes of latents of a level over a region, in pixels of level + 2, all even.

        Beyond the slide's edge the nearest values are repeated.
        """
        counts = self._counts(level)
        keys = keys_over(top, left, height, width, counts)
        return blended(self._ensured(level, keys), top, left, height, width, counts)

    def _ensured(self, level: int, keys: Iterable[Key]) -> dict[Key, Field]:
        """Windows of a level, made where they are not at hand, with all their ancestors."""
        found: dict[Key, Field] = {}
        missing: list[Key] = []
        for key in keys:
            window = self._windows.get((level, *key))
            if window is None:
                missing.append(key)
            else:
                found[key] = window
        if not missing:
            return found
        parents: dict[Key, Field] = {}
        counts = self._counts(level + 1) if level < self.top else (0, 0)
        if level < self.top:
            needed = {
                k: None
                for i, j in missing
                for k in keys_over(i * STRIDE // 2, j * STRIDE // 2, SIDE // 2, SIDE // 2, counts)
            }
            parents = self._ensured(level + 1, needed)
        drawn = [key for key in missing if self._tissue(level, key)]
        plain = [key for key in missing if key not in set(drawn)]
        for key in plain:
            self._store(found, level, key, self._plain(level, key, parents, counts))
        for start in range(0, len(drawn), self.batch):
            part = drawn[start : start + self.batch]
            for key, window in zip(part, self._made(level, part, parents, counts), strict=True):
                self._store(found, level, key, window)
            self.made["windows"] += len(part)
            if self.on_patch:
                self.on_patch(len(part))
        return found

    def _store(self, found: dict[Key, Field], level: int, key: Key, window: Field) -> None:
        found[key] = window
        self._windows.put((level, *key), window, window.luma.nbytes + window.chroma.nbytes)

    def _tissue(self, level: int, key: Key) -> bool:
        """Whether any tile that a window overlaps is tissue."""
        spans = []
        for place in key:
            start = place * STRIDE
            spans.append(slice((start << level) // SIDE, -(-((start + SIDE) << level) // SIDE)))
        return bool(self._mask[spans[0], spans[1]].any())

    def _parent(
        self, level: int, key: Key, parents: Mapping[Key, Field], counts: tuple[int, int]
    ) -> Planes:
        half = SIDE // 2
        top, left = key[0] * STRIDE // 2, key[1] * STRIDE // 2
        return _planes(blended(parents, top, left, half, half, counts))

    def _stored(self, level: int, key: Key) -> Planes:
        """Planes of the base layer under a window."""
        assert self.base is not None
        place = key[1] * STRIDE, key[0] * STRIDE
        return coarse_planes(to_signed(self.base.read_level(level + 2, *place, SIDE, SIDE)[None]))

    def _plain(
        self, level: int, key: Key, parents: Mapping[Key, Field], counts: tuple[int, int]
    ) -> Field:
        """A window without tissue: what is known of it, or white."""
        if level < self.top:
            return _field(smoothed(self._parent(level, key, parents, counts)))
        if self.base is not None:
            return _field(self._stored(level, key))
        return _field(coarse_planes(torch.ones(1, 3, SIDE, SIDE)))

    @torch.no_grad()
    def _made(
        self,
        level: int,
        keys: list[Key],
        parents: Mapping[Key, Field],
        counts: tuple[int, int],
    ) -> list[Field]:
        """Up to one batch of windows by the denoiser."""
        device = self.pipeline.device
        above: Planes | None = None
        kind, hint, loss = NONE, None, 0.0
        if level < self.top:
            kind, loss = PARENT, PARENT_NOISE
            above = _stack([self._parent(level, key, parents, counts) for key in keys], self.batch)
            hint = self.vae.from_planes(Planes(*(p.to(device) for p in enlarged(above))))
        elif self.base is not None:
            stored = _stack([self._stored(level, key) for key in keys], self.batch)
            if level >= RESTORED:
                return [_field(Planes(*(p[i : i + 1] for p in stored))) for i in range(len(keys))]
            kind, loss = BASE, codec_loss(self.base.codec, self.base.quality)
            hint = self.vae.from_planes(Planes(*(p.to(device) for p in stored)))
        drawn = [
            torch.from_numpy(
                noise(
                    self.options.seed,
                    level,
                    self.times[0],
                    i * STRIDE // CELL,
                    j * STRIDE // CELL,
                    self.pipeline.latent_shape,
                )
            )
            for i, j in keys
        ]
        context = self._contexts(level, keys)
        known = Known(level, context, kind, hint, loss)
        with self.options.autocast(device):
            latents = make_latents(
                self.unet,
                known,
                _filled(drawn, self.batch).to(device),
                self.times,
                self.options.guidance,
            )
            planes = self.vae.to_planes(latents.float())
        planes = Planes(*(p.cpu() for p in planes))
        if above is not None:
            planes = corrected(planes, above)
        return [_field(Planes(*(p[i : i + 1] for p in planes))) for i in range(len(keys))]

    def _contexts(self, level: int, keys: list[Key]) -> Tensor:
        side, extra = 1 << level, int(level < 3)
        tokens = 8 >> level if level < 3 else 1
        grids, shifts = [], []
        for i, j in keys:
            row, col = (i * STRIDE << level) // SIDE, (j * STRIDE << level) // SIDE
            grids.append(
                torch.from_numpy(
                    self.archive.embeddings(row, row + side + extra, col, col + side + extra)
                )
            )
            shifts.append([i * STRIDE // 8 % tokens, j * STRIDE // 8 % tokens])
        shift = torch.tensor(shifts + [shifts[-1]] * (self.batch - len(shifts)))
        return self.pipeline.context(_filled(grids, self.batch), level, shift if extra else None)

    def _averaged(self, level: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Pixels of a level above the latents that are drawn: theirs, averaged."""
        finest = self.top + 2
        octaves = level - finest
        wide, high = self.size(finest)
        side = 1 << octaves
        right, bottom = min(x1 << octaves, wide), min(y1 << octaves, high)
        fine = self._latent_image(finest, x0 << octaves, y0 << octaves, right, bottom)
        short = (y1 - y0) * side - fine.shape[0], (x1 - x0) * side - fine.shape[1]
        fine = np.pad(fine, ((0, short[0]), (0, short[1]), (0, 0)), constant_values=255)
        return halve(fine, octaves)

    def _latent_image(self, level: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Pixels of a level from 5x on: they are latents of the level two octaves finer."""
        top, left = y0 // 2 * 2 - EDGE, x0 // 2 * 2 - EDGE
        height, width = -(-(y1 - top) // 2) * 2 + EDGE, -(-(x1 - left) // 2) * 2 + EDGE
        image = planes_image(_planes(self.field(level - 2, top, left, height, width)))
        pixels = to_pixels(image)[0]
        return pixels[y0 - top : y1 - top, x0 - left : x1 - left]

    # -- 20x ----------------------------------------------------------------------------------

    def _decoded(self, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Pixels of level 0; beyond the raster they are whole tiles' all the same."""
        out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        rows = range(y0 // TILE, -(-y1 // TILE))
        cols = range(x0 // TILE, -(-x1 // TILE))
        places = [(r, c) for r in rows for c in cols]
        for start in range(0, len(places), GROUP):
            for (row, col), tile in self._tiles_of(places[start : start + GROUP]).items():
                top, left = max(y0, row * TILE), max(x0, col * TILE)
                bottom, right = min(y1, (row + 1) * TILE), min(x1, (col + 1) * TILE)
                out[top - y0 : bottom - y0, left - x0 : right - x0] = tile[
                    top - row * TILE : bottom - row * TILE, left - col * TILE : right - col * TILE
                ]
        return out

    def _tiles_of(self, places: list[tuple[int, int]]) -> dict[tuple[int, int], NDArray[np.uint8]]:
        found: dict[tuple[int, int], NDArray[np.uint8]] = {}
        missing: list[tuple[int, int]] = []
        for place in places:
            tile = self._tiles.get(place)
            if tile is None:
                missing.append(place)
            else:
                found[place] = tile
        reach = SIDE + 2 * HALO * CELL
        counts = self._counts(0)
        keys = {
            key: None
            for row, col in missing
            for key in keys_over(
                row * SIDE - HALO * CELL, col * SIDE - HALO * CELL, reach, reach, counts
            )
        }
        windows = self._ensured(0, keys)
        for row, col in missing:
            field = blended(
                windows, row * SIDE - HALO * CELL, col * SIDE - HALO * CELL, reach, reach, counts
            )
            found[row, col] = tile = self._tile(row, col, _planes(field))
            self._tiles.put((row, col), tile, tile.nbytes)
        return found

    @torch.no_grad()
    def _tile(self, row: int, col: int, planes: Planes) -> NDArray[np.uint8]:
        near = self._mask[
            max(row - NEAR, 0) : row + NEAR + 1, max(col - NEAR, 0) : col + NEAR + 1
        ].any()
        if near:
            device = self.pipeline.device
            latents = self.vae.from_planes(Planes(*(p.to(device) for p in planes)))
            side = SIDE // CELL
            detail = noise(
                self.options.seed,
                0,
                DETAIL,
                row * side - HALO,
                col * side - HALO,
                (int(self.vae.config["noise_channels"]), latents.shape[2], latents.shape[3]),
            )
            with self.options.autocast(device):
                image = self.vae.decode(latents, torch.from_numpy(detail)[None].to(device))
            if not torch.isfinite(image).all():
                raise PipelineError(
                    "the decoder gave numbers that are not finite; its weights are damaged or "
                    "the precision is too low (try float32)"
                )
            self.made["tiles"] += 1
        else:
            image = torch.nn.functional.interpolate(
                planes_image(planes), scale_factor=4, mode="bicubic", align_corners=False
            )
        edge = HALO * CELL * 4
        return to_pixels(image[..., edge:-edge, edge:-edge])[0]


def _planes(field: Field) -> Planes:
    return Planes(torch.from_numpy(field.luma)[None, None], torch.from_numpy(field.chroma)[None])


def _field(planes: Planes) -> Field:
    return Field(planes.luma[0, 0].float().numpy(), planes.chroma[0].float().numpy())


def _stack(parts: list[Planes], count: int) -> Planes:
    parts = parts + [parts[-1]] * (count - len(parts))
    return Planes(*(torch.cat([p[k] for p in parts]) for k in range(2)))


def _filled(parts: list[Tensor], count: int) -> Tensor:
    """One batch of just `count`, the last part repeated."""
    return torch.stack(parts + [parts[-1]] * (count - len(parts)))
