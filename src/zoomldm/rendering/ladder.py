"""The ladder: one place of a slide at all eight magnifications, as one picture."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from zoomldm.levels import COUNT, NAMES, TILE, level_mpp

COLUMNS = 4
_GAP = 8
_CAPTION = 28


def draw_ladder(patches: Mapping[int, NDArray[np.uint8]], real: Mapping[int, bool]) -> Image.Image:
    """Lay eight patches out in two rows of four, coarsest first, each with a caption.

    Args:
        patches: (256, 256, 3) uint8 by level.
        real: whether a level's pixels are stored ones; the rest is generated.
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
