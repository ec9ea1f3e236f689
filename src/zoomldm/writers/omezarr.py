"""OME-Zarr 0.5: one Zarr v3 array per level, lossless, in shards of many chunks."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from zoomldm.files import move_folder
from zoomldm.geometry.levels import TILE
from zoomldm.writers.image import SIDE, STOREY, Block, Image
from zoomldm.writers.writer import check_folder, same_provenance

_TREE = "tree"
_AXES = ("c", "y", "x")


@dataclass(frozen=True)
class OmeZarr:
    """OME-Zarr 0.5: axes c, y, x; uint8; chunks of 256 px, in shards as large as a block.

    Attributes:
        zstd: compression level; pixels are stored losslessly.
    """

    zstd: int = 3

    def settings(self) -> dict[str, Any]:
        """See `Writer`."""
        return {"format": "ome-zarr", **asdict(self)}

    def check(self, target: Path, image: Image) -> None:
        """See `Writer`."""
        check_folder(target, "zoomldm" in _attributes(target))

    def begin(self, folder: Path, image: Image) -> None:
        """See `Writer`."""
        tree = folder / _TREE
        if "ome" in _attributes(tree):
            return
        group = zarr.create_group(tree, zarr_format=3, overwrite=True)
        for number, level in enumerate(image.levels):
            side = TILE * (SIDE >> number % STOREY)
            group.create_array(
                str(number),
                shape=(3, level.size[1], level.size[0]),
                dtype="uint8",
                chunks=(3, TILE, TILE),
                shards=(3, side, side) if side > TILE else None,
                fill_value=255,
                compressors=ZstdCodec(level=self.zstd),
                dimension_names=_AXES,
            )
        # Last: its presence marks the layout as complete.
        group.attrs["ome"] = _metadata(image)

    def put(
        self, folder: Path, image: Image, block: Block, pixels: Sequence[NDArray[np.uint8]]
    ) -> None:
        """See `Writer`; shards are blocks, so that no two processes write to one."""
        for part, array in zip(block.parts, pixels, strict=True):
            y, x = part.row * TILE, part.col * TILE
            target = _opened(folder / _TREE / str(part.level))
            high, wide = array.shape[:2]
            target[:, y : y + high, x : x + wide] = array.transpose(2, 0, 1)

    def finish(self, folder: Path, image: Image, target: Path, provenance: dict[str, Any]) -> None:
        """See `Writer`; the provenance is the attribute `zoomldm` of the group."""
        tree = folder / _TREE
        # Otherwise it was moved before an interruption, and a folder left there is the old one.
        if tree.is_dir() and not same_provenance(_attributes(target).get("zoomldm"), provenance):
            for left in tree.rglob("*.partial"):  # chunks of a killed process
                left.unlink()
            zarr.open_group(tree, mode="r+").attrs["zoomldm"] = provenance
            _opened.cache_clear()
            move_folder(tree, target)


@lru_cache(maxsize=16)
def _opened(path: Path) -> zarr.Array:
    return zarr.open_array(path, mode="r+")


def _attributes(group: Path) -> dict[str, Any]:
    """Attributes of a group, empty if there is no group."""
    try:
        found = json.loads((group / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _metadata(image: Image) -> dict[str, Any]:
    """The `ome` attribute of a group, as specified by version 0.5."""
    finest = image.levels[0].mpp
    datasets = []
    for number, level in enumerate(image.levels):
        # A pixel's position is its centre; that of a coarser level lies between finer ones'.
        shift = (level.mpp - finest) / 2
        transformations: list[dict[str, Any]] = [
            {"type": "scale", "scale": [1.0, level.mpp, level.mpp]}
        ]
        if shift:
            transformations.append({"type": "translation", "translation": [0.0, shift, shift]})
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    colours = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": "zoomldm",
                "axes": [
                    {"name": "c", "type": "channel"},
                    {"name": "y", "type": "space", "unit": "micrometer"},
                    {"name": "x", "type": "space", "unit": "micrometer"},
                ],
                "datasets": datasets,
                "type": "generated, averaged or stored; see the attribute zoomldm",
            }
        ],
        "omero": {
            "channels": [
                {"label": name, "color": colour, "window": window, "active": True}
                for name, colour in colours.items()
            ],
            "rdefs": {"model": "color"},
        },
    }
