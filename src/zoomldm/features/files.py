"""Files of features: TRIDENT's h5 layout, CLAM's bare tensor, a plain array."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import Archive
from zoomldm.features.sources import Description
from zoomldm.files import atomic_path
from zoomldm.geometry.levels import BASE_MPP, TILE

FORMATS = ("h5", "pt", "npy")
PRECISIONS = ("float32", "float16", "int8")
Format = Literal["h5", "pt", "npy"]
Precision = Literal["float32", "float16", "int8"]
SETTINGS = "zoomldm"  # root attribute with what the file was made from, as JSON
BASE_MAGNIFICATION = 20.0


def stored_bytes(count: int, dim: int, precision: str) -> int:
    """Bytes of (count, dim) features; in int8 each has a scale of 4 bytes besides."""
    sizes = {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 4}
    return count * sizes[precision]


def to_int8(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (N, D) in -127..127 and scales (N,) > 0 of features (N, D): value = code * scale."""
    largest = np.abs(values).max(1)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(values / scales[:, None]).astype(np.int8), scales


def write_features(
    path: Path,
    description: Description,
    archive: Archive,
    form: Format,
    precision: Precision,
    settings: Mapping[str, Any],
) -> None:
    """Write features in one of three forms; `path` appears whole or not at all.

    Args:
        path: the target.
        description: what to write.
        archive: where it comes from; gives the scale.
        form: `h5` (TRIDENT's layout), `pt` (CLAM's bare tensor) or `npy`. The last two hold no
            coordinates, and the mask of filled-up features lies beside them in `masks/`.
        precision: `int8` is for h5 alone, which has room for the scales.
        settings: what the features were made from.

    Raises:
        TargetError: the target can't be written.
    """
    values = description.values.astype(np.float16 if precision == "float16" else np.float32)
    with atomic_path(path) as temporary:
        if form == "h5":
            _write_h5(temporary, path, description, archive, precision, settings)
        elif form == "pt":
            import torch

            torch.save(torch.from_numpy(values), temporary)
        else:
            with temporary.open("wb") as file:
                np.save(file, values)
    if form != "h5" and description.mask is not None:
        folder = path.parent / "masks"
        folder.mkdir(exist_ok=True)
        with atomic_path(folder / f"{path.stem}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, description.mask)


def read_settings(path: Path) -> dict[str, Any] | None:
    """What an h5 file's features were made from; None where it says nothing of it."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return json.loads(str(file.attrs[SETTINGS]))
    except (OSError, KeyError, ValueError):
        return None


def _write_h5(
    temporary: Path,
    path: Path,
    description: Description,
    archive: Archive,
    precision: Precision,
    settings: Mapping[str, Any],
) -> None:
    import h5py

    slide = archive.manifest.slide
    scale = np.array([BASE_MPP / slide.mpp_x, BASE_MPP / slide.mpp_y])  # level-0 px per raster px
    step = description.side / TILE  # in tiles
    level = settings.get("level_index", 0)
    with h5py.File(temporary, "w") as file:
        file.attrs[SETTINGS] = json.dumps(dict(settings), sort_keys=True)
        if precision == "int8":
            codes, scales = to_int8(description.values)
            features = file.create_dataset("features", data=codes)
            file.create_dataset("scales", data=scales)
        else:
            features = file.create_dataset("features", data=description.values.astype(precision))
        coords = file.create_dataset(
            "coords", data=np.rint(description.places * scale).astype(np.int64)
        )
        if description.mask is not None:
            file.create_dataset("mask", data=description.mask)
        if settings["source"] == "tiles":
            file.create_dataset("background", data=archive.background)
        named = {"name": path.stem, "savetodir": str(path.parent)}
        features.attrs.update({**named, "encoder": settings["encoder"]})
        coords.attrs.update(
            {
                **named,
                "patch_size": round(step * TILE / 2**level),
                "patch_size_level0": round(description.side * scale[0]),
                "level0_magnification": _magnification(slide.mpp_x),
                "target_magnification": BASE_MAGNIFICATION / 2**level,
                "overlap": 0,
                "level0_width": slide.native_size[0],
                "level0_height": slide.native_size[1],
                # beyond the layout: magnification is a label, this is the scale
                "level0_mpp_x": slide.mpp_x,
                "level0_mpp_y": slide.mpp_y,
            }
        )


def _magnification(mpp: float) -> float:
    """The label, 20x times a power of two, that is nearest to a scale."""
    return BASE_MAGNIFICATION * 2.0 ** round(math.log2(BASE_MPP / mpp))
