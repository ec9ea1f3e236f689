"""The pyramid: renders an archive's image octave by octave, from its base layer down."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from zoomldm.archive import Archive
from zoomldm.archive.base import halve
from zoomldm.caching import Recent
from zoomldm.diffusion.noise import noise
from zoomldm.errors import PipelineError
from zoomldm.generation.octaves import LAST
from zoomldm.generation.options import (
    FEW_UNDER,
    STEPS_GENERATED,
    STEPS_RESTORED,
    RenderOptions,
)
from zoomldm.generation.windows import CELL, SIDE, keys_over, windows_over
from zoomldm.generation.workers import side_by_side
from zoomldm.geometry.lattice import Window
from zoomldm.geometry.levels import COUNT, NAMES, TILE, level_size
from zoomldm.networks.lowpass import LowPassAutoencoder, Planes, planes_image
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder, check_generated
from zoomldm.pixels import to_pixels
from zoomldm.rendering.latents import Latents, is_restorable
from zoomldm.rendering.real import RealLevels
from zoomldm.rendering.render_cache import RenderCache
from zoomldm.rendering.renderer import RULES, Cost, PatchCount, edits_of

HALO = 8  # cells around a tile that its details depend on noticeably; texture needs all of them
NEAR = 1  # tiles around tissue that are decoded; farther ones are the enlarged latents
EDGE = 4  # pixels around a region that its chroma interpolation depends on
DETAIL = -1  # "step" of the noise that the decoder reads
GROUP = 64  # tiles requested at once


class Pyramid:
    """Pixels of an archive at any level, determined only by archive, pipeline and options.

    The image of level 0 is decoded from latents, level 1 is its average, and from level 2 on
    images *are* latents: those of level k - 2. A base layer at level b is the latents of level
    b - 2 except for its codec's loss, which the denoiser removes. Finer latents are generated
    octave by octave, each averaging down to its parent exactly. Levels from b on are the stored
    pixels. Under a lossy base layer at 5x or finer the latents of 20x are the mean of the possible
    ones if the decoder restores: it adds the texture that they lack.

    Without a base layer the latents of 1.25x are generated from noise under their context, in
    which a token stands for 2 x 2 tiles, and coarser images are averages: the layout is known
    per tile and need not be guessed at coarser levels. Finer latents follow their parent only
    loosely there (see `under_parent`), so 1.25x, 2.5x and 5x are not exact averages of each
    other. An imaginary slide's base layer was generated with it, coarsest level first, and counts
    as generated; its levels agree as loosely.

    Latents are generated in windows (see `zoomldm.generation.windows`) that depend only on their
    ancestors. So a region's cost depends only on the region, and its pixels on nothing else.

    Thread-safe: one thread at a time runs the networks, and cached windows and tiles are returned
    without waiting.

    Args:
        archive: what to render.
        pipeline: the pipeline whose patch encoder made the archive; its denoiser takes a hint.
        options: see RenderOptions.
        cache: cache of windows and tiles, 256 MB of memory if None.
        on_patch: called after each batch with the number of windows in it.

    Raises:
        ArchiveError: the archive was made with another patch encoder.
        PipelineError: the pipeline has no octave denoiser.
    """

    def __init__(
        self,
        archive: Archive,
        pipeline: ZoomLDMPipeline,
        options: RenderOptions | None = None,
        cache: RenderCache | None = None,
        on_patch: Callable[[int], None] | None = None,
    ) -> None:
        check_encoder(archive, pipeline)
        check_generated(archive, pipeline)
        if not isinstance(pipeline.unet, OctaveDenoiser) or not isinstance(
            pipeline.vae, LowPassAutoencoder
        ):
            raise PipelineError(
                "this pipeline's denoiser takes no parent, so it can't draw a pyramid; "
                "choose method cascade"
            )
        self.archive, self.pipeline = archive, pipeline
        base = archive.base
        generates = base is None or base.level > FEW_UNDER or archive.manifest.generated is not None
        given = options or RenderOptions()
        # otherwise a prediction is no mean
        plain = given.start in (None, LAST) and given.guidance in (None, 1)
        restores = plain and pipeline.vae.restores and is_restorable(archive)
        steps = STEPS_GENERATED if generates else STEPS_RESTORED if restores else None
        self.options = given.resolved("pyramid", steps)
        self._expected = float(restores and self.options.steps == STEPS_RESTORED)
        whole = pipeline.vae.halo
        self._halo = max(HALO, whole + whole % 2) if self._expected else HALO  # blocks are 2 cells
        self._real = RealLevels(archive)
        self.cache = cache or RenderCache(Recent(256 << 20))
        self._lock = threading.RLock()
        self.latents = Latents(archive, pipeline, self.options, self.cache, self._lock, on_patch)
        self._vae, self._mask = pipeline.vae, archive.mask
        self._decodings = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Empty the cache; the archive stays open."""
        self.cache.close()
        self._real.clear()

    @property
    def cost(self) -> Cost:
        """The work done so far."""
        return Cost(sum(self.latents.generated_counts), self._decodings)

    def is_real(self, level: int) -> bool:
        """Whether the level consists of a slide's stored pixels."""
        return level >= self._real.first and not self.archive.generated

    def size(self, level: int) -> tuple[int, int]:
        """Width and height (px) of the slide at a level."""
        return level_size(*self.archive.size, level)

    def provenance(self) -> dict[str, Any]:
        """Everything that determines the pixels, for the metadata of an output."""
        return {
            "archive_digest": self.archive.digest,
            **edits_of(self.archive),
            "pipeline_digest": self.pipeline.digest(),
            "rules": RULES,
            **asdict(self.options),
            "method": "pyramid",
            "sampler": self.latents.solver,
            "timesteps": list(self.latents.times),
            "levels_real": [NAMES[k] for k in range(COUNT) if self.is_real(k)],
            "levels_generated": [NAMES[k] for k in range(COUNT) if not self.is_real(k)],
            "background": "parts without tissue are the level above enlarged"
            + ("" if self.archive.generated else ", not generated"),
            "batch": self.latents.batch,
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
        if level >= self._real.first:
            part = self._real.read(level, x0, y0, x1 - x0, y1 - y0)
        elif level > self.latents.top + 2:
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
        """Number of latent windows that regions (x, y, w, h in px of their level) need, by level.

        A level's count includes the windows that finer levels need.
        """
        counts: dict[int, PatchCount] = {}
        needed: list[range] | None = None
        top = self.latents.top
        for level in range(top + 1):
            total = self.latents.counts(level)
            own = [
                (k, w)
                for k, w in windows.items()
                if min(max(k - 2, 0), top) == level and k < self._real.first
            ]
            reach = self._halo * CELL if level == 0 else EDGE
            spans = [] if needed is None else [needed]
            for k, (x, y, w, h) in own:
                whole = TILE >> k if k < 2 else 1  # decoding works on whole tiles
                # pixels of level + 2 per pixel of level k
                scale = min(1 << k, 4) / 4 * (1 << max(k - top - 2, 0))
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
            generated_count = sum(self.latents.denoised(level, (i, j)) for i in rows for j in cols)
            if generated_count or level == 0:
                counts[level] = PatchCount(generated_count, len(rows) * len(cols) - generated_count)
            if level < top:
                needed = self.latents.parents(level, rows, cols)
        return counts

    # -- latents, and levels from 5x on ----------------------------------------------------------

    def _averaged(self, level: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Pixels of a level above the coarsest generated latents: their average."""
        finest = self.latents.top + 2
        octaves = level - finest
        wide, high = self.size(finest)
        side = 1 << octaves
        right, bottom = min(x1 << octaves, wide), min(y1 << octaves, high)
        fine = self._latent_image(finest, x0 << octaves, y0 << octaves, right, bottom)
        short = (y1 - y0) * side - fine.shape[0], (x1 - x0) * side - fine.shape[1]
        fine = np.pad(fine, ((0, short[0]), (0, short[1]), (0, 0)), constant_values=255)
        return halve(fine, octaves)

    def _latent_image(self, level: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Pixels of a level from 5x on: the latents of the level two octaves finer."""
        top, left = y0 // 2 * 2 - EDGE, x0 // 2 * 2 - EDGE
        height, width = -(-(y1 - top) // 2) * 2 + EDGE, -(-(x1 - left) // 2) * 2 + EDGE
        image = planes_image(self.latents.field(level - 2, top, left, height, width))
        pixels = to_pixels(image)[0]
        return pixels[y0 - top : y1 - top, x0 - left : x1 - left]

    # -- 20x ----------------------------------------------------------------------------------

    def _decoded(self, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Pixels of level 0; beyond the raster they are those of whole tiles."""
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
        found, missing = self._at_hand(places)
        if missing:
            with self._lock:  # another thread may have generated them while this one waited
                others, missing = self._at_hand(missing)
                found |= others | self._generate_missing(missing)
        return found

    def _at_hand(
        self, places: list[tuple[int, int]]
    ) -> tuple[dict[tuple[int, int], NDArray[np.uint8]], list[tuple[int, int]]]:
        found: dict[tuple[int, int], NDArray[np.uint8]] = {}
        missing: list[tuple[int, int]] = []
        for place in places:
            tile = self.cache.get("tile", *place)
            if isinstance(tile, np.ndarray):
                found[place] = tile
            else:
                missing.append(place)
        return found, missing

    def _generate_missing(
        self, places: list[tuple[int, int]]
    ) -> dict[tuple[int, int], NDArray[np.uint8]]:
        edge = self._halo * CELL
        reach, counts = SIDE + 2 * edge, self.latents.counts(0)
        corners = {(row, col): (row * SIDE - edge, col * SIDE - edge) for row, col in places}
        keys = {k for place in corners.values() for k in keys_over(*place, reach, reach, counts)}
        windows = self.latents.windows(0, sorted(keys))

        def tile(place: tuple[int, int]) -> NDArray[np.uint8]:
            planes = self.latents.blended(0, windows, *corners[place], reach, reach)
            return self._tile(*place, planes, self._near(*place))

        found = {}
        tiles = side_by_side(tile, places, self.pipeline.device)
        for place, pixels in zip(places, tiles, strict=True):
            near = self._near(*place)
            self._decodings += near
            found[place] = pixels
            self.cache.put("tile", *place, value=pixels, lasting=near)
        return found

    def _near(self, row: int, col: int) -> bool:
        """Whether a tile is tissue or next to it, and is therefore decoded."""
        rows = slice(max(row - NEAR, 0), row + NEAR + 1)
        return bool(self._mask[rows, max(col - NEAR, 0) : col + NEAR + 1].any())

    @torch.no_grad()
    def _tile(self, row: int, col: int, planes: Planes, near: bool) -> NDArray[np.uint8]:
        if near:
            device = self.pipeline.device
            latents = self._vae.from_planes(Planes(*(p.to(device) for p in planes)))
            side = SIDE // CELL
            detail = noise(
                self.options.seed,
                0,
                DETAIL,
                row * side - self._halo,
                col * side - self._halo,
                (int(self._vae.config["noise_channels"]), latents.shape[2], latents.shape[3]),
            )
            with self.options.autocast(device):
                given = torch.from_numpy(detail)[None].to(device)
                expected = torch.full((1,), self._expected, device=device)
                image = self._vae.decode(latents, given, expected=expected)
            if not torch.isfinite(image).all():
                raise PipelineError(
                    "the decoder gave numbers that are not finite; its weights are damaged or "
                    "the precision is too low (try float32)"
                )
        else:
            image = torch.nn.functional.interpolate(
                planes_image(planes), scale_factor=4, mode="bicubic", align_corners=False
            )
        edge = self._halo * CELL * 4
        return to_pixels(image[..., edge:-edge, edge:-edge])[0]
