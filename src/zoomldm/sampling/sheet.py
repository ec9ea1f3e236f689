"""Contact sheets of samples."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from zoomldm.levels import NAMES, TILE, level_mpp

_MOST_LARGE = 16  # pictures up to which a sheet shows them in full
_GAP = 4
_CAPTION = 24


def draw_sheet(pictures: Mapping[int, NDArray[np.uint8]]) -> Image.Image:
    """One level as a square of pictures, several as a row each, coarsest first.

    Args:
        pictures: (n, 256, 256, 3) uint8 by level. Above 16 pictures each is halved.
    """
    count = sum(len(p) for p in pictures.values())
    side = TILE if count <= _MOST_LARGE else TILE // 2
    most = max(len(p) for p in pictures.values())
    columns = math.ceil(math.sqrt(most)) if len(pictures) == 1 else most
    step = side + _GAP
    heights = {k: _CAPTION + -(-len(p) // columns) * step for k, p in pictures.items()}
    sheet = Image.new("RGB", (columns * step + _GAP, sum(heights.values()) + _GAP), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(15), _GAP
    for level in sorted(pictures, reverse=True):
        text = f"{NAMES[level]}   {level_mpp(level):g} mpp"
        draw.text((_GAP, top), text, fill="black", font=font)
        for i, pixels in enumerate(pictures[level]):
            place = _GAP + i % columns * step, top + _CAPTION - _GAP + i // columns * step
            sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX), place)
        top += heights[level]
    return sheet
