"""Size and scale of the tiles in a feature file, by the tool that wrote it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import ConfigError
from zoomldm.features.reading import StoredFeatures, number, text, tile_side
from zoomldm.geometry.levels import BASE_MPP, TILE

TILE_UM = TILE * BASE_MPP
SPACING = 0.02  # tolerance of the scale, as a fraction of a tile's side

Geometry = tuple[str, float, float, str, tuple[int, int] | None]
"""Layout; side of a tile in units of the coordinates; mpp of the slide's finest level and its
source; width and height of the slide in those units, or None."""


def geometry_of(
    path: Path, stored: StoredFeatures, coords: NDArray[np.float64], mpp: float | None
) -> Geometry:
    """Determine layout, tile side and scale of a feature file.

    Args:
        path: the file, for error messages.
        stored: its content.
        coords: (N, 2) x and y of the tiles.
        mpp: micrometres per pixel of the slide's finest level; overrides the file's value.

    Raises:
        ConfigError: overlap, tiles of another size, or no scale.
    """
    root, where = stored.root, stored.where
    if "unit" in root or "tile_size_um" in root or "stamp_version" in root:
        return _stamp(path, root, mpp)
    if "target_magnification" in where or "patch_size_level0" in where:
        return _trident(path, where, mpp)
    return _clam(path, stored, coords, mpp)


def _stamp(path: Path, root: Mapping[str, Any], mpp: float | None) -> Geometry:
    unit, side = text(root.get("unit")), number(root.get("tile_size_um"))
    pixels = number(root.get("tile_size_px"))
    if unit != "um" or side is None:
        raise ConfigError(
            f"{path}: STAMP's file says unit {unit!r} and tile_size_um {side}; expected 'um' and "
            "the tiles' side"
        )
    if abs(side / TILE_UM - 1) > SPACING or (pixels is not None and pixels != TILE):
        shown = "" if pixels is None else f" in {pixels:g} px"
        raise ConfigError(
            f"{path}: tiles of {side:g} um{shown}; expected {TILE_UM:g} um in {TILE} px"
        )
    return "STAMP", side, mpp or BASE_MPP, "option" if mpp else "features: micrometres", None


def _trident(path: Path, where: Mapping[str, Any], mpp: float | None) -> Geometry:
    _no_overlap(path, where)
    side, pixels = number(where.get("patch_size_level0")), number(where.get("patch_size"))
    target = number(where.get("target_magnification"))
    level0 = number(where.get("level0_magnification"))
    if side is None and None not in (pixels, target, level0):
        side = pixels * level0 / target  # type: ignore[operator]
    if not side:
        raise ConfigError(f"{path}: coords don't say patch_size_level0; tiles have no size")
    if pixels not in (None, TILE) or target not in (None, 20):
        at = "" if target is None else f" at {target:g}x"
        raise ConfigError(f"{path}: tiles of {pixels or 0:g} px{at}; expected {TILE} px at 20x")
    given = mpp or number(where.get("level0_mpp_x"))
    if given is None and target is None:
        raise ConfigError(
            f"{path}: says neither magnification nor mpp of its tiles; pass --mpp with the "
            "micrometres per pixel of the slide"
        )
    source = "option" if mpp else "features: level0_mpp_x"
    if given is None:
        given, source = TILE_UM / side, "features: 20x taken as 0.5 mpp"
    _spacing(path, side, given)
    if exact := number(where.get("level0_mpp_x")):
        side = TILE_UM / exact  # files of this package: the stored side is rounded to whole pixels
    return "TRIDENT", side, given, source, _size(where, "level0_width", "level0_height")


def _clam(
    path: Path, stored: StoredFeatures, coords: NDArray[np.float64], mpp: float | None
) -> Geometry:
    where = stored.where
    _no_overlap(path, where)
    side = tile_side(stored, coords)
    if mpp is None:
        raise ConfigError(
            f"{path}: coords have no scale ({', '.join(where) or 'no attributes'}); pass --mpp "
            "with the micrometres per pixel of the slide"
        )
    if side is None:
        raise ConfigError(
            f"{path}: holds one tile, and coords don't say patch_size: how large it is can't be "
            "told; add the attribute patch_size (and downsample) to coords"
        )
    _spacing(path, side, mpp)
    size = None
    if int(number(where.get("patch_level")) or 0) == 0 and "level_dim" in where:
        wide, high = np.asarray(where["level_dim"]).ravel()[:2]
        size = int(wide), int(high)
    return "CLAM", side, mpp, "option", size


def _no_overlap(path: Path, where: Mapping[str, Any]) -> None:
    overlap = number(where.get("overlap")) or 0
    if overlap:
        raise ConfigError(
            f"{path}: tiles overlap by {overlap:g} px; an archive's lie edge to edge: extract "
            "features again without overlap"
        )


def _spacing(path: Path, side: float, mpp: float) -> None:
    if abs(side * mpp / TILE_UM - 1) > SPACING:
        raise ConfigError(
            f"{path}: tiles of {side:g} px at {mpp:g} mpp are {side * mpp:.1f} um wide; expected "
            f"{TILE_UM:g} um ({TILE} px at {BASE_MPP} mpp)"
        )


def _size(where: Mapping[str, Any], width: str, height: str) -> tuple[int, int] | None:
    w, h = number(where.get(width)), number(where.get(height))
    return (int(w), int(h)) if w and h else None
