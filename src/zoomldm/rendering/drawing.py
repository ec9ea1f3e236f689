"""An archive's renderer as the source of an image for a writer."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoomldm.archive import Archive, open_archive
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.lattice import Window
from zoomldm.geometry.levels import NAMES, TILE, level_mpp
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.remote import RemotePath
from zoomldm.rendering.opening import open_renderer
from zoomldm.rendering.renderer import Renderer
from zoomldm.writers.image import STOREY, Block, Image, Level

_ENCODED = 16  # tiles per call of the patch encoder


def image_of(renderer: Renderer, windows: Mapping[int, Window]) -> Image:
    """Levels of an image with these windows (x, y, w, h in px of their level)."""
    return Image(
        tuple(
            Level(NAMES[k], (w, h), level_mpp(k), "real" if renderer.is_real(k) else "generated")
            for k, (_, _, w, h) in windows.items()
        )
    )


@dataclass(frozen=True)
class RenderedSource:
    """Pixels of an archive's image, and how well its tiles' embeddings are reproduced.

    Attributes:
        archive: the archive to render.
        renderer: its renderer.
        windows: by level, finest first.
        pipeline: None if no confidence is requested.
    """

    archive: Archive
    renderer: Renderer
    windows: Mapping[int, Window]
    pipeline: ZoomLDMPipeline | None = None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See `Source`."""
        k = list(self.windows)[level]
        left, top, _, _ = self.windows[k]
        return self.renderer.read(k, left + x, top + y, width, height)

    def notes(self, block: Block) -> dict[str, Any]:
        """Confidence of the block's tiles, if it is requested and the block has 20x."""
        if self.pipeline is None or block.parts[0].level or 0 not in self.windows:
            return {}
        part, (left, top, wide, high) = block.parts[0], self.windows[0]
        x0, y0 = left + part.col * TILE, top + part.row * TILE
        x1 = min(x0 + part.cols * TILE, left + wide)
        y1 = min(y0 + part.rows * TILE, top + high)
        places = [
            (row, col)
            for row in range(-(-y0 // TILE), -(-y1 // TILE))
            for col in range(-(-x0 // TILE), -(-x1 // TILE))
            if _inside(row, col, self.windows[0], self.archive.size)
        ]
        return {"confidence": tile_confidence(self.archive, self.renderer, self.pipeline, places)}


def _inside(row: int, col: int, window: Window, size: tuple[int, int]) -> bool:
    """Whether the part of a tile that lies on the slide is entirely inside a window of 20x."""
    x, y, wide, high = window
    return (
        col * TILE >= x
        and row * TILE >= y
        and min((col + 1) * TILE, size[0]) <= x + wide
        and min((row + 1) * TILE, size[1]) <= y + high
    )


def tile_confidence(
    archive: Archive,
    renderer: Renderer,
    pipeline: ZoomLDMPipeline,
    places: list[tuple[int, int]],
) -> list[list[float]]:
    """How well tiles keep their description: cosine of the stored and the regenerated embedding.

    Args:
        archive: holds the stored embeddings.
        renderer: renders the tiles at 20x.
        pipeline: its patch encoder embeds the rendered tiles.
        places: (row, col) of tiles; those without tissue are left out.

    Returns:
        [row, col, cosine to 4 digits] of each tissue tile; empty for an imaginary slide.

    Raises:
        PipelineError: the pipeline has no patch encoder.
    """
    mask, found = archive.mask, []
    selected = [place for place in places if mask[place] and not archive.generated]
    for start in range(0, len(selected), _ENCODED):
        group = selected[start : start + _ENCODED]
        tiles = [renderer.read(0, col * TILE, row * TILE, TILE, TILE) for row, col in group]
        encoded = pipeline.encode_tiles(np.stack(tiles))
        stored = archive.embeddings_of(*zip(*group, strict=True))
        norms = np.linalg.norm(encoded, axis=1) * np.linalg.norm(stored, axis=1)
        cosines = (encoded * stored).sum(1) / np.maximum(norms, 1e-12)
        found += [
            [row, col, round(float(value), 4)]
            for (row, col), value in zip(group, cosines, strict=True)
        ]
    return found


@dataclass
class Drawing:
    """Opens the source of an image, in this process or in another.

    Attributes:
        archive: the file.
        options: see RenderOptions.
        windows: by level, finest first.
        confidence: whether to compute it.
        folder: where a renderer may create an unnamed temporary file.
        memory: bytes of windows and tiles that the renderer caches.
        disk: bytes of that file.
        threads: number of torch threads; None leaves it unchanged.
    """

    archive: Path | RemotePath
    options: RenderOptions
    windows: dict[int, Window]
    pipeline: ZoomLDMPipeline
    confidence: bool = False
    folder: Path | None = None
    memory: int = 256 << 20
    disk: int = 0
    threads: int | None = None
    on_patch: Callable[[int], None] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # As bytes: otherwise multiprocessing would share the tensors through files of its own.
        return {**self.__dict__, "pipeline": pickle.dumps(self.pipeline), "on_patch": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, pipeline=pickle.loads(state["pipeline"]))  # noqa: S301

    @contextmanager
    def __call__(self) -> Iterator[RenderedSource]:
        """The source."""
        if self.threads:
            torch.set_num_threads(self.threads)
        with (
            open_archive(self.archive) as archive,
            open_renderer(
                archive,
                self.pipeline,
                self.options,
                memory=self.memory,
                disk=self.disk,
                folder=self.folder,
                on_patch=self.on_patch,
            ) as renderer,
        ):
            chosen = self.pipeline if self.confidence else None
            yield RenderedSource(archive, renderer, self.windows, chosen)


def weigher(
    mask: NDArray[np.bool_], image: Image, windows: Mapping[int, Window]
) -> Callable[[Block], int]:
    """Cost of rendering a block: tissue tiles under its generated pixels, at least 1."""
    levels = list(windows)

    def weigh(block: Block) -> int:
        part = block.parts[0]
        if image.levels[part.level].origin == "real":
            return 1
        k = levels[part.level]
        x, y, _, _ = windows[k]
        rows, cols = (
            slice(((start + first * TILE) << k) // TILE, -(-((start + last * TILE) << k) // TILE))
            for start, first, last in (
                (y, part.row, part.row + part.rows),
                (x, part.col, part.col + part.cols),
            )
        )
        return max(1, int(mask[rows, cols].sum()) >> (2 * (part.level // STOREY * STOREY)))

    return weigh
