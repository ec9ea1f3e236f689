"""The magnification series of eight levels and its geometry: pure arithmetic.

mpp (micrometres per pixel) defines the scale; magnification is only a label. Level k has
mpp 0.5 * 2**k; a patch is 256 x 256 px at some level and covers 2**k x 2**k tiles.
"""

from zoomldm.errors import RegionError

TILE = 256
BASE_MPP = 0.5
NAMES = ("20x", "10x", "5x", "2.5x", "1.25x", "0.625x", "0.3125x", "0.15625x")
COUNT = len(NAMES)
COARSEST = COUNT - 1


def level_mpp(level: int) -> float:
    """Micrometres per pixel of a level.

    Examples:
        >>> level_mpp(0), level_mpp(3)
        (0.5, 4.0)
    """
    return BASE_MPP * 2**level


def parse_level(text: str) -> int:
    """Level of a label such as `5x` or `0.3125x`; `5` is read as `5x`.

    Raises:
        RegionError: no such level.

    Examples:
        >>> parse_level("5x"), parse_level("0.3125")
        (2, 6)
    """
    label = text.strip().lower().removesuffix("x") + "x"
    if label not in NAMES:
        raise RegionError(f"level {text!r} does not exist; levels are {', '.join(NAMES)}")
    return NAMES.index(label)


def raster_size(width: int, height: int, mpp_x: float, mpp_y: float) -> tuple[int, int]:
    """Width and height (px) of a slide's 0.5 mpp raster, from its native size and mpp.

    Examples:
        >>> raster_size(10_000, 8_000, 0.25, 0.25)
        (5000, 4000)
    """
    return (
        max(1, round(width * mpp_x / BASE_MPP)),
        max(1, round(height * mpp_y / BASE_MPP)),
    )


def grid_shape(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of tiles that cover a 0.5 mpp raster of this size.

    Examples:
        >>> grid_shape(5000, 4000)
        (16, 20)
    """
    return -(-height // TILE), -(-width // TILE)


def level_size(width: int, height: int, level: int) -> tuple[int, int]:
    """Width and height (px) at a level, rounded up, of a 0.5 mpp raster of this size.

    Examples:
        >>> level_size(5000, 4001, 3)
        (625, 501)
    """
    scale = 2**level
    return -(-width // scale), -(-height // scale)


def patch_tiles(level: int) -> int:
    """Side of a patch in tiles."""
    return 2**level


def check_region(
    region: tuple[int, int, int, int], width: int, height: int
) -> tuple[int, int, int, int]:
    """Return region x, y, w, h (px of the 0.5 mpp raster) if it lies inside width x height.

    Raises:
        RegionError: empty, or not completely inside.
    """
    x, y, w, h = region
    if w < 1 or h < 1 or x < 0 or y < 0 or x + w > width or y + h > height:
        raise RegionError(
            f"region {x},{y},{w},{h} is not inside the slide; expected X,Y,W,H in pixels of the "
            f"0.5 mpp raster, which is {width} x {height}"
        )
    return x, y, w, h
