"""The cascade: patches of an archive generated coarse to fine, each from its parent's pixels."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from zoomldm.archive import Archive
from zoomldm.caching import Recent
from zoomldm.diffusion.noise import noise
from zoomldm.diffusion.schedule import Schedule, make_schedule
from zoomldm.generation.batch import make_pixels, upsampled_quarter
from zoomldm.generation.options import RenderOptions
from zoomldm.generation.workers import side_by_side
from zoomldm.geometry.lattice import Window, grouped, tissue_by_level
from zoomldm.geometry.levels import COARSEST, COUNT, NAMES, TILE, level_size
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder
from zoomldm.rendering.real import RealLevels
from zoomldm.rendering.render_cache import RenderCache
from zoomldm.rendering.renderer import RULES, Cost, PatchCount, edits_of


class Cascade:
    """Pixels of an archive at any level, determined only by archive, pipeline and options.

    Patch (level, row, col) covers the pixels of the level from (256 row, 256 col) on, and the
    tiles from (row 2^level, col 2^level) on; its parent is (level + 1, row // 2, col // 2).

    - Levels at or above the base layer's are its stored pixels (coarser ones averaged): real.
    - A patch with tissue is generated: the matching quarter of its parent's pixels is upsampled by
      2 (bicubic), encoded, given noise up to `start` and denoised under the patch's context.
      Without a base layer patches of the coarsest level are denoised from noise.
    - A patch without any tissue was not stored: it is the parent's quarter upsampled, or white at
      the coarsest level.

    Patches lie edge to edge; in `BlendedCascade` they overlap.

    Thread-safe: one thread at a time runs the networks, and cached patches are returned without
    waiting.

    Args:
        archive: what to render.
        pipeline: the pipeline whose patch encoder made the archive.
        options: see RenderOptions.
        cache: of patches, 256 MB of memory if None.
        on_patch: called after each batch with the number of patches in it.

    Raises:
        ArchiveError: the archive was made with another patch encoder.
        ConfigError: options that don't suit the pipeline's schedule.
    """

    method: ClassVar[Literal["blended", "cascade"]] = "cascade"
    background: ClassVar[str] = "patches without tissue are their parent upsampled, not generated"

    def __init__(
        self,
        archive: Archive,
        pipeline: ZoomLDMPipeline,
        options: RenderOptions | None = None,
        cache: RenderCache | None = None,
        on_patch: Callable[[int], None] | None = None,
    ) -> None:
        check_encoder(archive, pipeline)
        self.archive = archive
        self.pipeline = pipeline
        self.options = (options or RenderOptions()).resolved(self.method)
        self.on_patch = on_patch
        self._whole = make_schedule(pipeline.scheduler, self.options.steps)
        self._part = make_schedule(pipeline.scheduler, self.options.steps, self.options.start)
        self.batch = self.options.batch_on(pipeline.device)
        self._real = RealLevels(archive)
        self._tissue = tissue_by_level(archive.mask)
        self.cache = cache or RenderCache(Recent(256 << 20))
        self._lock = threading.RLock()
        self._generated_count = 0

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
        """The work done so far; a patch generated from its parent counts as a whole one."""
        return Cost(self._generated_count, self._generated_count)

    def is_real(self, level: int) -> bool:
        """Whether the level consists of stored pixels."""
        return level >= self._real.first

    def size(self, level: int) -> tuple[int, int]:
        """Width and height (px) of the slide at a level."""
        return level_size(*self.archive.size, level)

    def shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of patches at a level."""
        rows, cols = self._tissue[level].shape
        return rows, cols

    def provenance(self) -> dict[str, Any]:
        """Everything that determines the pixels, for the metadata of an output."""
        return {
            "archive_digest": self.archive.digest,
            **edits_of(self.archive),
            "pipeline_digest": self.pipeline.digest(),
            "rules": RULES,
            **asdict(self.options),
            "sampler": self._part.name,
            "start_timestep": self._part.first,
            "timesteps_per_patch": len(self._part.timesteps),
            "levels_real": [NAMES[k] for k in range(COUNT) if self.is_real(k)],
            "levels_generated": [NAMES[k] for k in range(COUNT) if not self.is_real(k)],
            "background": self.background,
            "batch": self.batch,
            "device": self.pipeline.device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def patch(self, level: int, row: int, col: int) -> NDArray[np.uint8]:
        """One patch, (256, 256, 3) uint8 sRGB, read-only; see `patches`."""
        return self.patches(level, [(row, col)])[row, col]

    def patches(
        self, level: int, places: Iterable[tuple[int, int]]
    ) -> dict[tuple[int, int], NDArray[np.uint8]]:
        """Patches of one level by (row, col), in patches from the slide's origin.

        All of them are in memory at once. Those beyond the raster's right and bottom edges are
        whole patches too; real pixels are white there.

        Raises:
            IndexError: no such patch.
        """
        rows, cols = self.shape(level)
        wanted = list(dict.fromkeys(places))
        for row, col in wanted:
            if not (0 <= row < rows and 0 <= col < cols):
                raise IndexError(f"patch {row, col} of {NAMES[level]}; there are {rows} x {cols}")
        found, missing = self._at_hand(level, wanted)
        if missing:
            with self._lock:  # another thread may have generated them while this one waited
                others, missing = self._at_hand(level, missing)
                found |= others
                if missing:
                    found |= self._generate_missing(level, missing)
        return found

    def _at_hand(
        self, level: int, places: list[tuple[int, int]]
    ) -> tuple[dict[tuple[int, int], NDArray[np.uint8]], list[tuple[int, int]]]:
        found: dict[tuple[int, int], NDArray[np.uint8]] = {}
        missing: list[tuple[int, int]] = []
        for place in places:
            real = self.is_real(level)
            patch = self._stored(level, *place) if real else self.cache.get("patch", level, *place)
            if isinstance(patch, np.ndarray):
                found[place] = patch
            else:
                missing.append(place)
        return found, missing

    def _generate_missing(
        self, level: int, places: list[tuple[int, int]]
    ) -> dict[tuple[int, int], NDArray[np.uint8]]:
        parents = {}
        if level < COARSEST:
            parents = self.patches(level + 1, self._above(level, places))
        found: dict[tuple[int, int], NDArray[np.uint8]] = {}
        for place, patch in self._generate_from(level, places, parents):
            lasting = self._is_generated(level, place)
            self.cache.put("patch", level, *place, value=patch, lasting=lasting)
            found[place] = patch
        return found

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region in pixels of a level, (height, width, 3) uint8 sRGB; white outside."""
        out = np.full((height, width, 3), 255, np.uint8)
        full_w, full_h = self.size(level)
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, full_w), min(y + height, full_h)
        if x0 >= x1 or y0 >= y1:
            return out
        rows, cols = range(y0 // TILE, -(-y1 // TILE)), range(x0 // TILE, -(-x1 // TILE))
        for group in grouped(rows, cols):
            for (row, col), patch in self.patches(level, group).items():
                top, left = max(y0, row * TILE), max(x0, col * TILE)
                bottom, right = min(y1, (row + 1) * TILE), min(x1, (col + 1) * TILE)
                out[top - y : bottom - y, left - x : right - x] = patch[
                    top - row * TILE : bottom - row * TILE, left - col * TILE : right - col * TILE
                ]
        return out

    def count(self, windows: Mapping[int, Window]) -> dict[int, PatchCount]:
        """Patches needed by windows (x, y, w, h in px of their level), parents included."""
        counts: dict[int, PatchCount] = {}
        needed: tuple[int, int, int, int] | None = None  # row0, row1, col0, col1 in patches
        for level in range(COUNT):
            if needed is not None:
                needed = needed[0] // 2, -(-needed[1] // 2), needed[2] // 2, -(-needed[3] // 2)
            if level in windows:
                x, y, w, h = windows[level]
                own = y // TILE, -(-(y + h) // TILE), x // TILE, -(-(x + w) // TILE)
                needed = own if needed is None else _union(needed, own)
            if needed is None:
                continue
            block = self._tissue[level][needed[0] : needed[1], needed[2] : needed[3]]
            tissue = int(block.sum())
            if self.is_real(level):
                counts[level] = PatchCount(real=block.size)
                needed = None  # stored pixels have no parents
            else:
                counts[level] = PatchCount(generated=tissue, background=block.size - tissue)
        return counts

    def _stored(self, level: int, row: int, col: int) -> NDArray[np.uint8]:
        return self._real.read(level, col * TILE, row * TILE, TILE, TILE)

    def _is_generated(self, level: int, place: tuple[int, int]) -> bool:
        """Whether the denoiser generates a patch, i.e. whether any of its tiles is tissue."""
        return bool(self._tissue[level][place])

    def _above(self, level: int, places: list[tuple[int, int]]) -> Iterable[tuple[int, int]]:
        """Patches of the level above from which patches start."""
        return [(row // 2, col // 2) for row, col in places]

    def _start(
        self,
        level: int,
        place: tuple[int, int],
        parents: Mapping[tuple[int, int], NDArray[np.uint8]],
    ) -> NDArray[np.uint8]:
        """The starting image of a patch, upsampled from the level above."""
        return upsampled_quarter(parents[place[0] // 2, place[1] // 2], *place)

    def _context(self, level: int, place: tuple[int, int]) -> torch.Tensor:
        grid = self.archive.grid(level, place[0] << level, place[1] << level)
        return self.pipeline.context(grid[None], level)[0]

    def _corner(self, place: tuple[int, int]) -> tuple[int, int]:
        """First row and column of a patch, in pixels of its level."""
        return place[0] * TILE, place[1] * TILE

    def _generate_from(
        self,
        level: int,
        places: list[tuple[int, int]],
        parents: Mapping[tuple[int, int], NDArray[np.uint8]],
    ) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8]]]:
        """Generate patches from their parents (none at the coarsest level)."""
        tissue: list[tuple[int, int]] = []
        for place in places:
            if self._is_generated(level, place):
                tissue.append(place)
            elif level < COARSEST:
                yield place, self._start(level, place, parents)
            else:
                yield place, np.full((TILE, TILE, 3), 255, np.uint8)

        def generated(part: list[tuple[int, int]]) -> list[NDArray[np.uint8]]:
            starts = None
            if level < COARSEST:
                starts = [self._start(level, place, parents) for place in part]
            return self._generate(level, part, starts)

        parts = [tissue[i : i + self.batch] for i in range(0, len(tissue), self.batch)]
        batches = side_by_side(generated, parts, self.pipeline.device)
        for part, pixels in zip(parts, batches, strict=True):
            yield from zip(part, pixels, strict=True)
            self._generated_count += len(part)
            if self.on_patch:
                self.on_patch(len(part))

    @torch.no_grad()
    def _generate(
        self, level: int, places: list[tuple[int, int]], starts: list[NDArray[np.uint8]] | None
    ) -> list[NDArray[np.uint8]]:
        """Generate up to one batch of patches from upsampled parents, or from noise."""
        with self.options.autocast(self.pipeline.device):
            return self._pixels(level, places, starts)

    def _pixels(
        self, level: int, places: list[tuple[int, int]], starts: list[NDArray[np.uint8]] | None
    ) -> list[NDArray[np.uint8]]:
        pipeline = self.pipeline
        schedule = self._whole if starts is None else self._part
        context = self._filled([self._context(level, place) for place in places])
        epsilon = self._filled([self._noise(level, place, schedule) for place in places])
        images = None
        if starts is not None:
            images = self._filled([torch.from_numpy(s).permute(2, 0, 1) for s in starts])
        epsilon = epsilon.to(pipeline.device)
        guidance = self.options.guidance
        array = make_pixels(pipeline, schedule, guidance, context, epsilon, images, level)
        return [np.ascontiguousarray(array[i]) for i in range(len(places))]

    def _filled(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """One batch of exactly `batch` items, filled up with the last one."""
        return torch.stack(parts + [parts[-1]] * (self.batch - len(parts)))

    def _noise(self, level: int, place: tuple[int, int], schedule: Schedule) -> torch.Tensor:
        shape = self.pipeline.latent_shape
        y, x = (corner * shape[1] // TILE for corner in self._corner(place))
        return torch.from_numpy(noise(self.options.seed, level, schedule.first, y, x, shape))


def _union(a: Window, b: Window) -> Window:
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])
