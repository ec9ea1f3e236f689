"""Read features of one slide as TRIDENT, CLAM, STAMP and this package store them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomldm.errors import ConfigError

SUFFIXES = (".h5", ".pt", ".npy")
_FEATURE_NAMES = ("features", "feats", "patch_embeddings")


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of the instances of a slide.

    Attributes:
        xy: (N, 2) top-left corners, x and y, in the file's own unit: usually pixels of the slide's
            finest level, micrometres with STAMP.
        side: side of an instance's square in the same unit.
        size: (width, height) of the slide in that unit, or None if not recorded.
    """

    xy: NDArray[np.float64]
    side: float
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class StoredFeatures:
    """Content of an h5 feature file.

    Attributes:
        values: (N, D) or more dimensions; int8 codes are already multiplied by their scales.
        coords: (N, 2) or (1, N, 2), or None.
        mask: (N,) bool, False where `values` is padded, or None.
        background: (D,) embedding of the white tile, or None.
        root: attributes of the file.
        own: attributes of the features.
        where: attributes of the coordinates.
    """

    values: NDArray[Any]
    coords: NDArray[Any] | None
    mask: NDArray[np.bool_] | None
    background: NDArray[np.float32] | None
    root: Mapping[str, Any]
    own: Mapping[str, Any]
    where: Mapping[str, Any]


def read_stored(path: Path) -> StoredFeatures:
    """Read an h5 feature file as it is.

    Raises:
        ConfigError: unreadable, no features, or an invalid mask.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            name = next((n for n in _FEATURE_NAMES if n in file), None)
            if name is None:
                raise ConfigError(f"{path}: has {sorted(file)}, expected a dataset 'features'")
            values = np.asarray(file[name])
            if "scales" in file:  # int8 codes with a scale per instance
                values = values * np.asarray(file["scales"])[:, None]
            mask = file.get("mask")
            coords = file["coords"] if "coords" in file else None  # noqa: SIM401
            white = file.get("background")
            return StoredFeatures(
                values=values,
                coords=None if coords is None else np.asarray(coords),
                mask=None if mask is None else as_mask(np.asarray(mask), f"{path}: mask").ravel(),
                background=None if white is None else np.asarray(white, np.float32),
                root=dict(file.attrs),
                own=dict(file[name].attrs),
                where={} if coords is None else dict(coords.attrs),
            )
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0][:200]
        raise ConfigError(f"{path}: not readable as h5 features ({reason})") from error


def read_features(path: Path) -> tuple[Tensor, Coordinates | None]:
    """Read one slide's features.

    Args:
        path: `.h5` with `features` (or `feats`, `patch_embeddings`), optional `coords` and
            optional boolean `mask` (layouts of TRIDENT, CLAM and STAMP); `.pt` with a bare
            tensor; or `.npy`. The last two may have a mask in `masks/<name>.npy` beside them,
            and int8 in h5 its `scales`. A leading dimension of 1 is dropped, a single vector is a
            bag of one, and dimensions between the first and last count as instances.

    Returns:
        (N, D) float32, and the coordinates or None.

    Raises:
        ConfigError: unreadable, or not an array of numbers.
    """
    coordinates = None
    if path.suffix == ".h5":
        array, coordinates = _from_h5(path)
        values = torch.as_tensor(array)
    else:
        values = _from_array(path)
    if not (values.is_floating_point() or values.dtype == torch.int8) or values.ndim == 0:
        raise ConfigError(f"{path}: found {values.dtype}, expected an array of floats (N, D)")
    if values.ndim == 1:
        values = values[None]
    return values.reshape(-1, values.shape[-1]).float(), coordinates


def _from_array(path: Path) -> Tensor:
    mask = path.parent / "masks" / f"{path.stem}.npy"
    try:
        if path.suffix == ".pt":
            values = torch.load(path, map_location="cpu", weights_only=True)
        else:
            values = np.load(path, allow_pickle=False)
        values = torch.as_tensor(values)
        keep = np.load(mask, allow_pickle=False) if mask.is_file() else None
    except Exception as error:
        reason = str(error).split("\n")[0][:200]
        raise ConfigError(f"{path}: not readable as features ({reason})") from error
    if keep is None:
        return values
    keep = as_mask(keep, str(mask)).ravel()
    if values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if len(keep) != len(values):
        raise ConfigError(f"{path}: {len(values)} instances but a mask of {len(keep)}")
    return values[torch.from_numpy(keep)]


def _from_h5(path: Path) -> tuple[NDArray[Any], Coordinates | None]:
    stored = read_stored(path)
    values, keep = stored.values, stored.mask
    if values.dtype.kind not in "fi" or values.ndim == 0:
        raise ConfigError(f"{path}: found {values.dtype}, expected an array of floats (N, D)")
    if values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 1:
        return values, None
    count = math.prod(values.shape[:-1])
    if keep is not None:
        if len(keep) != count:
            raise ConfigError(f"{path}: {count} instances but a mask of {len(keep)}")
        values = values.reshape(count, -1)[keep]
    if stored.coords is None:
        return values, None
    xy = two_axes(path, stored.coords, "coords")
    if len(xy) != count:
        raise ConfigError(f"{path}: {count} instances but {len(xy)} coordinates")
    if not np.isfinite(xy).all():
        raise ConfigError(f"{path}: coords hold NaN or infinity")
    side = tile_side(stored, xy) or 1.0
    if keep is not None:
        xy = xy[keep]
    width, height = (number(stored.where.get(f"level0_{s}")) for s in ("width", "height"))
    size = (int(width), int(height)) if width and height else None
    return values, Coordinates(xy, side, size)


def tile_side(stored: StoredFeatures, xy: NDArray[np.float64]) -> float | None:
    """Determine the side of a tile in the unit of its coordinates.

    Values in the file come first: TRIDENT's `patch_size_level0`, STAMP's `tile_size_um`, or
    `patch_size` times the factor from the tiles' level to the finest (TRIDENT's magnifications,
    CLAM's `downsample`). Otherwise the side is the distance between neighbours.

    Args:
        stored: the file.
        xy: (N, 2) its coordinates.

    Returns:
        The side, or None if the file does not give it and the tiles have no neighbours.
    """
    where = stored.where
    if (side := number(where.get("patch_size_level0"))) is not None:
        return side
    if (side := number(stored.root.get("tile_size_um"))) is not None:
        return side
    side, target = number(where.get("patch_size")), number(where.get("target_magnification"))
    level0 = number(where.get("level0_magnification"))
    if side is not None and target and level0:
        return side * level0 / target
    down = number(where.get("downsample"))
    if side is not None and (down or not number(where.get("patch_level"))):
        return side * (down or 1.0)
    return _spacing(xy)


def _spacing(xy: NDArray[np.float64]) -> float | None:
    """Return the most common distance between neighbours in a row or a column."""
    steps = []
    for axis in (0, 1):
        ordered = xy[np.lexsort((xy[:, axis], xy[:, 1 - axis]))]
        ahead = np.diff(ordered, axis=0)
        steps.append(ahead[(ahead[:, 1 - axis] == 0) & (ahead[:, axis] > 0), axis])
    found = np.concatenate(steps)
    if not len(found):  # no two in a line
        found = np.concatenate([np.diff(np.unique(xy[:, axis])) for axis in (0, 1)])
        return float(found.min()) if len(found) else None
    values, counts = np.unique(found, return_counts=True)
    return float(values[counts.argmax()])


def as_mask(values: NDArray[Any], where: str) -> NDArray[np.bool_]:
    """Convert a mask of any stored type to booleans.

    With integers, `~mask` and `array[mask]` silently mean something else than with booleans.

    Args:
        values: any shape; booleans, or numbers that are all 0 or 1.
        where: place named in the error.

    Raises:
        ConfigError: other values.
    """
    if values.dtype == bool:
        return values
    if values.dtype.kind not in "iuf":
        raise ConfigError(f"{where}: found {values.dtype}, expected booleans, or 0 and 1")
    odd = values[(values != 0) & (values != 1)]
    if odd.size:
        raise ConfigError(f"{where}: found {odd.flat[0]}, expected booleans, or 0 and 1")
    return values.astype(bool)


def two_axes(path: Path, array: NDArray[Any], what: str) -> NDArray[Any]:
    """Return (N, D) features or (N, 2) float64 coordinates, without a leading dimension of 1.

    Raises:
        ConfigError: another shape, or coordinates that are not numbers.
    """
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or (what == "coords" and array.shape[1] < 2):
        raise ConfigError(f"{path}: {what} of shape {array.shape}; expected one row per tile")
    if what == "features":
        return array
    if array.dtype.kind not in "iuf":
        raise ConfigError(f"{path}: coords of {array.dtype}; expected numbers")
    return array[:, :2].astype(np.float64)


def number(value: Any) -> float | None:
    """Return the first number of an attribute; None if missing (TRIDENT writes that as text)."""
    try:
        found = float(np.asarray(value).ravel()[0])
    except (TypeError, ValueError, IndexError):
        return None
    return found if math.isfinite(found) else None


def text(value: Any) -> str:
    """Return an attribute as text; h5py may give bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
