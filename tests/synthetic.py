"""Synthetic slides: H&E-like texture at a known mpp, of any size, in constant memory.

A periodic texture of 2048 px (pink stroma, purple nuclei, white lumina) shows through islands of
an else white slide. Slides up to `WHOLE` px a side have smooth islands; larger ones are put
together from tiles encoded once, with islands of whole texture periods.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageDraw, ImageFilter

TILE = 256
PERIOD = 2048
WHOLE = 8192
_WHITE = (244, 243, 245)


def _field(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth periodic noise (size, size), about -1 to 1."""
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    image = Image.fromarray(np.tile(grid, (3, 3)))
    big = image.resize((3 * size, 3 * size), Image.Resampling.BICUBIC, reducing_gap=None)
    return np.asarray(big.crop((size, size, 2 * size, 2 * size)))


@lru_cache(maxsize=4)
def texture(mpp: float = 0.5, seed: int = 0) -> np.ndarray:
    """One period of tissue, uint8 (2048, 2048, 3); nuclei are about 7 micrometres wide."""
    rng = np.random.default_rng(seed)
    small = PERIOD // 4
    stroma = _field(rng, small, 24) * 0.5 + _field(rng, small, 96) * 0.35
    gland = _field(rng, small, 10)
    base = np.array([226, 158, 196], np.float32) + stroma[..., None] * np.array([14, 26, 16])
    base[gland > 0.55] = _WHITE
    image = Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))
    image = image.resize((PERIOD, PERIOD), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    radius = 3.5 / mpp
    count = int(2600 * (PERIOD * mpp / 1024) ** 2)
    spots = rng.uniform(0, PERIOD, (count, 2))
    for x, y in spots:
        level = gland[int(y) // 4, int(x) // 4]
        if level > 0.5 or (level < 0.1 and rng.random() < 0.6):
            continue
        a, b = radius * rng.uniform(0.6, 1.2, 2)
        dark = rng.uniform(0.75, 1.25)
        colour = tuple(int(c * dark) for c in (98, 64, 140))
        for dx in (-PERIOD, 0, PERIOD):
            for dy in (-PERIOD, 0, PERIOD):
                if -9 < x + dx < PERIOD + 9 and -9 < y + dy < PERIOD + 9:
                    draw.ellipse((x + dx - a, y + dy - b, x + dx + a, y + dy + b), fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(0.7))
    grain = rng.integers(-6, 7, (PERIOD, PERIOD, 1), np.int16)
    return np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8)


def _islands(rng: np.random.Generator, width: int, height: int, fraction: float) -> np.ndarray:
    """Smooth bool mask (height, width) of which about `fraction` is True, in several islands."""
    if fraction >= 1:
        return np.ones((height, width), bool)
    long = max(width, height)
    cells = 5
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    side = max(32, long // 8)
    noise = Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
    field = np.asarray(noise)[: -(-height * side // long), : -(-width * side // long)]
    mask = field > np.quantile(field, 1 - fraction)
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def paint_region(
    width: int, height: int, mpp: float = 0.5, tissue: float = 0.5, seed: int = 0
) -> np.ndarray:
    """A whole picture, uint8 (height, width, 3), of which about `tissue` is tissue."""
    rows, cols = -(-height // PERIOD), -(-width // PERIOD)
    picture = np.tile(texture(mpp, seed), (rows, cols, 1))[:height, :width].copy()
    picture[~_islands(np.random.default_rng(seed + 1), width, height, tissue)] = _WHITE
    return picture


def level_count(width: int, height: int) -> int:
    """Levels of a pyramid that ends at 512 px or less."""
    return 1 + max(0, math.ceil(math.log2(max(width, height) / 512)))


def paint_slide(
    path: Path,
    width: int,
    height: int,
    mpp: float = 0.5,
    levels: int | None = None,
    tissue: float = 0.5,
    seed: int = 0,
    jpeg: bool = True,
    icc: bytes | None = None,
    resolution: bool = True,
    picture: np.ndarray | None = None,
) -> Path:
    """Write a tiled pyramidal TIFF that OpenSlide opens.

    Args:
        path: the target.
        width: px.
        height: px.
        mpp: of the finest level; also sets the size of nuclei.
        levels: number of stored levels, each half of the last; None down to 512 px.
        tissue: share of the slide that is tissue, 0 to 1.
        seed: of texture and islands.
        jpeg: JPEG tiles (quality 80), else lossless.
        icc: ICC profile to embed.
        resolution: write resolution tags; without them the slide has no mpp.
        picture: paint this uint8 (height, width, 3) instead; not for sizes over `WHOLE`.
    """
    count = levels or level_count(width, height)
    if max(width, height) > WHOLE:
        pages = _giant_pages(width, height, mpp, count, tissue, seed)
        encoded = True
    else:
        if picture is None:
            picture = paint_region(width, height, mpp, tissue, seed)
        pages = _whole_pages(picture, count)
        encoded = False
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, (size, data) in enumerate(pages):
            scale = 1e4 / (mpp * 2**number)
            tiff.write(
                data,
                shape=(size[1], size[0], 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                subsampling=(2, 2) if jpeg or encoded else None,
                compression="jpeg" if jpeg or encoded else "zlib",
                compressionargs={"level": 80} if jpeg and not encoded else {},
                maxworkers=1,
                subfiletype=1 if number else 0,
                resolution=(scale, scale) if resolution else None,
                resolutionunit="CENTIMETER" if resolution else None,
                iccprofile=icc,
                metadata=None,
                software=None,
            )
    return path


def _tiles(picture: np.ndarray) -> Iterator[np.ndarray]:
    height, width = picture.shape[:2]
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            part = picture[y : y + TILE, x : x + TILE]
            pad = ((0, TILE - part.shape[0]), (0, TILE - part.shape[1]), (0, 0))
            yield np.pad(part, pad, mode="edge")


def _whole_pages(picture: np.ndarray, count: int) -> Iterator[tuple[tuple[int, int], Iterator]]:
    image = Image.fromarray(picture)
    for number in range(count):
        if number:
            image = image.reduce(2)
        yield image.size, _tiles(np.asarray(image))


def _encode(tile: np.ndarray) -> bytes:
    return imagecodecs.jpeg8_encode(
        np.ascontiguousarray(tile), level=75, colorspace="RGB", outcolorspace="YCBCR",
        subsampling="420",
    )  # fmt: skip


def _giant_pages(
    width: int, height: int, mpp: float, count: int, tissue: float, seed: int
) -> Iterator[tuple[tuple[int, int], Iterator[bytes]]]:
    rows, cols = -(-height // PERIOD), -(-width // PERIOD)
    rng = np.random.default_rng(seed + 1)
    shown = _islands(rng, cols, rows, tissue) if tissue < 1 else np.ones((rows, cols), bool)
    bank = Image.fromarray(texture(mpp, seed))
    for number in range(count):
        size = (-(-width // 2**number), -(-height // 2**number))
        side = PERIOD >> number
        period = np.asarray(bank.reduce(2**number)) if number else np.asarray(bank)
        yield size, _giant_tiles(size, _painter(shown, period, side))


def _painter(shown: np.ndarray, period: np.ndarray, side: int) -> Callable[[int, int], bytes]:
    """Encoder of tile (row, col) of a level whose texture period is `side` px."""
    blank = np.full((TILE, TILE, 3), _WHITE, np.uint8)
    cache: dict[tuple, bytes] = {(): _encode(blank)}

    def paint(row: int, col: int) -> bytes:
        if side >= TILE:  # one period holds whole tiles: encode each of them once
            per = side // TILE
            if not shown[row // per, col // per]:
                return cache[()]
            key = (row % per, col % per)
            if key not in cache:
                y, x = key[0] * TILE, key[1] * TILE
                cache[key] = _encode(period[y : y + TILE, x : x + TILE])
            return cache[key]
        per = TILE // side
        part = shown[row * per : (row + 1) * per, col * per : (col + 1) * per]
        if not part.any():
            return cache[()]
        cells = np.zeros((per, per), bool)
        cells[: part.shape[0], : part.shape[1]] = part
        visible = cells.repeat(side, 0).repeat(side, 1)[..., None]
        return _encode(np.where(visible, np.tile(period, (per, per, 1)), blank))

    return paint


def _giant_tiles(size: tuple[int, int], paint: Callable[[int, int], bytes]) -> Iterator[bytes]:
    for row in range(-(-size[1] // TILE)):
        for col in range(-(-size[0] // TILE)):
            yield paint(row, col)
