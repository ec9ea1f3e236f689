"""Feature files: TRIDENT's h5 layout, CLAM's bare tensor, a plain array."""

import json
import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import Archive
from zoomldm.features.sources import Features
from zoomldm.files import atomic_path
from zoomldm.geometry.levels import BASE_MPP, TILE
from zoomldm.geometry.orientation import straight_corners

FORMATS = ("h5", "pt", "npy")
PRECISIONS = ("float32", "float16", "int8")
Format = Literal["h5", "pt", "npy"]
Precision = Literal["float32", "float16", "int8"]
SETTINGS = "zoomldm"  # root attribute with what the file was made from, as JSON
BASE_MAGNIFICATION = 20.0


def stored_bytes(count: int, dim: int, precision: str) -> int:
    """Bytes of (count, dim) features; in int8 each feature also has a scale of 4 bytes."""
    sizes = {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 4}
    return count * sizes[precision]


def to_int8(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise (N, D) to codes (N, D) in -127..127 and scales (N,) > 0: value = code * scale."""
    largest = np.abs(values).max(1)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(values / scales[:, None]).astype(np.int8), scales


def write_features(
    path: Path,
    description: Features,
    archive: Archive,
    form: Format,
    precision: Precision,
    settings: Mapping[str, Any],
) -> None:
    """Write features in one of three formats; `path` appears whole or not at all.

    Args:
        path: the target.
        description: the features.
        archive: archive of the features; provides the scale.
        form: `h5` (TRIDENT's layout), `pt` (CLAM's bare tensor) or `npy`. The last two hold no
            coordinates; the mask of padded features is written beside them in `masks/`.
        precision: `int8` is for h5 only, which has room for the scales.
        settings: what the features were made from.

    Raises:
        TargetError: the target can't be written.
    """
    if form == "h5":
        data = _h5(path, description, archive, precision, settings)
    else:
        values = description.values.astype(np.float16 if precision == "float16" else np.float32)
        data = _pt(values) if form == "pt" else _npy(values)
    _write(path, data)
    if form != "h5" and description.mask is not None:
        folder = path.parent / "masks"
        folder.mkdir(exist_ok=True)
        _write(folder / f"{path.stem}.npy", _npy(description.mask))


def _write(path: Path, data: BytesIO) -> None:
    """Write what libraries wrote to memory: on a full disk, HDF5 ends in a segmentation fault."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.getbuffer())


def _npy(values: NDArray[Any]) -> BytesIO:
    data = BytesIO()
    np.save(data, values)
    return data


def _pt(values: NDArray[Any]) -> BytesIO:
    import torch

    data = BytesIO()
    torch.save(torch.from_numpy(values), data)
    return data


def read_settings(path: Path) -> dict[str, Any] | None:
    """Read what the features of an h5 file were made from; None if it is not recorded."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return json.loads(str(file.attrs[SETTINGS]))
    except (OSError, KeyError, ValueError):
        return None


def _h5(
    path: Path,
    description: Features,
    archive: Archive,
    precision: Precision,
    settings: Mapping[str, Any],
) -> BytesIO:
    import h5py

    slide, places = archive.manifest.slide, description.places
    (mpp_x, mpp_y), native = (slide.mpp_x, slide.mpp_y), slide.native_size
    if archive.turn:  # coordinates refer to the slide as it is oriented in its file
        places = straight_corners(places, description.side, slide.size, archive.turn)
        if description.mask is not None:
            places = np.where(description.mask[:, None], places, 0)
        if archive.turn % 2:
            (mpp_x, mpp_y), native = (mpp_y, mpp_x), native[::-1]
    scale = np.array([BASE_MPP / mpp_x, BASE_MPP / mpp_y])  # level-0 px per raster px
    step = description.side / TILE  # in tiles
    level = settings.get("level_index", 0)
    data = BytesIO()
    with h5py.File(data, "w") as file:
        file.attrs[SETTINGS] = json.dumps(dict(settings), sort_keys=True)
        if precision == "int8":
            codes, scales = to_int8(description.values)
            features = file.create_dataset("features", data=codes)
            file.create_dataset("scales", data=scales)
        else:
            features = file.create_dataset("features", data=description.values.astype(precision))
        coords = file.create_dataset("coords", data=np.rint(places * scale).astype(np.int64))
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
                "level0_magnification": _magnification(mpp_x),
                "target_magnification": BASE_MAGNIFICATION / 2**level,
                "overlap": 0,
                "level0_width": native[0],
                "level0_height": native[1],
                # not in TRIDENT's layout: magnification is only a label, this is the scale
                "level0_mpp_x": mpp_x,
                "level0_mpp_y": mpp_y,
            }
        )
    return data


def _magnification(mpp: float) -> float:
    """Return the label (20x times a power of two) nearest to a scale."""
    return BASE_MAGNIFICATION * 2.0 ** round(math.log2(BASE_MPP / mpp))
