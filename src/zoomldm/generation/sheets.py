"""Images of many patches: the magnification series of one place, and contact sheets."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from zoomldm.geometry.levels import COUNT, NAMES, TILE, level_mpp

_MOST_LARGE = 16  # a sheet of up to this many images shows them in full size

COLUMNS = 4
_GAP = 8
_CAPTION = 28
_SHEET_GAP = 4
_SHEET_CAPTION = 24


def draw_ladder(patches: Mapping[int, NDArray[np.uint8]], real: Mapping[int, bool]) -> Image.Image:
    """Lay out eight patches in two rows of four, coarsest first, each with a caption.

    Args:
        patches: (256, 256, 3) uint8 by level.
        real: whether a level's pixels are stored; the others are generated.
    """
    rows = -(-COUNT // COLUMNS)
    cell_w, cell_h = TILE + _GAP, TILE + _CAPTION + _GAP
    sheet = Image.new("RGB", (COLUMNS * cell_w + _GAP, rows * cell_h + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, level in enumerate(sorted(patches, reverse=True)):
        x = _GAP + number % COLUMNS * cell_w
        y = _GAP + number // COLUMNS * cell_h
        sheet.paste(Image.fromarray(patches[level]), (x, y))
        origin = "real" if real[level] else "generated"
        text = f"{NAMES[level]}   {level_mpp(level):g} mpp   {origin}"
        draw.text((x, y + TILE + 5), text, fill="black", font=font)
    return sheet


def draw_sheet(images: Mapping[int, NDArray[np.uint8]]) -> Image.Image:
    """Lay out one level as a square of images, or several levels as one row each, coarsest first.

    Args:
        images: (n, 256, 256, 3) uint8 by level. If there are over 16, each is halved in size.
    """
    count = sum(len(p) for p in images.values())
    side = TILE if count <= _MOST_LARGE else TILE // 2
    most = max(len(p) for p in images.values())
    columns = math.ceil(math.sqrt(most)) if len(images) == 1 else most
    step = side + _SHEET_GAP
    heights = {k: _SHEET_CAPTION + -(-len(p) // columns) * step for k, p in images.items()}
    sheet = Image.new(
        "RGB", (columns * step + _SHEET_GAP, sum(heights.values()) + _SHEET_GAP), "white"
    )
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(15), _SHEET_GAP
    for level in sorted(images, reverse=True):
        text = f"{NAMES[level]}   {level_mpp(level):g} mpp"
        draw.text((_SHEET_GAP, top), text, fill="black", font=font)
        for i, pixels in enumerate(images[level]):
            place = (
                _SHEET_GAP + i % columns * step,
                top + _SHEET_CAPTION - _SHEET_GAP + i // columns * step,
            )
            sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX), place)
        top += heights[level]
    return sheet
