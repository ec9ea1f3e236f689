"""DeepZoom: a .dzi beside a folder of JPEG tiles, as OpenSeadragon reads them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from zoomldm.files import atomic_path, move_folder
from zoomldm.geometry.levels import TILE
from zoomldm.writers.image import Block, Image, coarsest_pixels, part_tiles
from zoomldm.writers.writer import (
    check_folder,
    encode_jpeg,
    has_marker,
    read_marker,
    same_provenance,
    write_marker,
)

_TREE = "tree"


def tile_folder(target: Path) -> Path:
    """The folder of tiles that belongs to a .dzi."""
    return target.with_name(f"{target.stem}_files")


@dataclass(frozen=True)
class DeepZoom:
    """Tiles of 256 px without overlap in `NAME_files`, and `NAME.dzi`.

    Attributes:
        quality: JPEG quality, 1 to 100; chroma is halved on both axes (4:2:0).
    """

    quality: int = 90

    def settings(self) -> dict[str, Any]:
        """See `Writer`."""
        return {"format": "deepzoom", **asdict(self)}

    def check(self, target: Path, image: Image) -> None:
        """See `Writer`."""
        check_folder(tile_folder(target), has_marker(tile_folder(target)))

    def begin(self, folder: Path, image: Image) -> None:
        """See `Writer`."""
        for number in range(len(image.levels)):
            (folder / _TREE / str(_top(image) - number)).mkdir(parents=True, exist_ok=True)

    def put(
        self, folder: Path, image: Image, block: Block, pixels: Sequence[NDArray[np.uint8]]
    ) -> None:
        """See `Writer`."""
        for part, array in zip(block.parts, pixels, strict=True):
            place = folder / _TREE / str(_top(image) - part.level)
            for number, tile in enumerate(part_tiles(array, pad=False)):
                row, col = divmod(number, part.cols)
                name = f"{part.col + col}_{part.row + row}.jpeg"
                (place / name).write_bytes(encode_jpeg(tile, self.quality))

    def finish(self, folder: Path, image: Image, target: Path, provenance: dict[str, Any]) -> None:
        """See `Writer`; levels coarser than the image's are computed by halving its last."""
        tree, last = folder / _TREE, len(image.levels) - 1
        # Otherwise it was moved before an interruption, and a folder left there is the old one.
        if tree.is_dir() and not same_provenance(read_marker(tile_folder(target)), provenance):
            self._coarser(tree, image, last)
            write_marker(tree, provenance)
            move_folder(tree, tile_folder(target))
        wide, high = image.levels[0].size
        with atomic_path(target) as part:
            part.write_text(
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpeg" '
                f'Overlap="0" TileSize="{TILE}"><Size Width="{wide}" Height="{high}"/></Image>\n',
                encoding="utf-8",
            )

    def _coarser(self, tree: Path, image: Image, last: int) -> None:
        level, number = image.levels[last], _top(image) - last
        rows, cols = level.grid
        tiles = [
            imagecodecs.jpeg_decode((tree / str(number) / f"{col}_{row}.jpeg").read_bytes())
            for row in range(rows)
            for col in range(cols)
        ]
        shown = PILImage.fromarray(np.ascontiguousarray(coarsest_pixels(tiles, level)))
        for coarser in range(number - 1, -1, -1):
            shown = shown.reduce(2)
            array, place = np.asarray(shown), tree / str(coarser)
            place.mkdir(exist_ok=True)
            for n, tile in enumerate(part_tiles(array, pad=False)):
                row, col = divmod(n, -(-shown.width // TILE))
                (place / f"{col}_{row}.jpeg").write_bytes(encode_jpeg(tile, self.quality))


def _top(image: Image) -> int:
    """DeepZoom's number of the finest level: halved that many times, it is one pixel."""
    return math.ceil(math.log2(max(image.levels[0].size)))
