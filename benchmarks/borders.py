"""A sheet of places where borders cross: in tissue, at its edge and on white background."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
Shown = tuple[str, tuple[int, int], Picture, Picture]  # slide, corner (x, y), drawn, real

CUT = 144  # px of a place
GAP, HEAD, TICK = 10, 20, 6
STRETCH = 8  # contrast of white background is raised so many times
ROWS = 6
COLUMNS = (
    *("tissue: drawn", "real", "edge: drawn", "real"),
    *("white: drawn", f"contrast x {STRETCH}", f"real, x {STRETCH}"),
)


def crossings(
    corner: tuple[int, int], shape: tuple[int, ...], period: int
) -> list[tuple[int, int]]:
    """Places (x, y) in a region where lines of a lattice cross, far enough from its edges."""
    spans = [
        [v for v in range(-begin % period, size, period) if CUT // 2 <= v <= size - CUT // 2]
        for begin, size in zip(corner, (shape[1], shape[0]), strict=True)
    ]
    return [(x, y) for y in spans[1] for x in spans[0]]


def cut(picture: Picture, place: tuple[int, int]) -> Picture:
    """The square around a place."""
    x, y = (v - CUT // 2 for v in place)
    return picture[y : y + CUT, x : x + CUT]


def stretched(picture: Picture) -> Picture:
    """With its contrast raised, around its own median."""
    middle = np.median(picture, (0, 1))
    raised = (picture - middle) * STRETCH + np.minimum(middle, 200)
    return raised.clip(0, 255).astype(np.uint8)


def places_of(shown: Shown, period: int) -> list[tuple[int, int]]:
    """The crossing of most tissue, the one nearest to half of it, the whitest: by real pixels."""
    _, corner, rendered, real = shown
    found = crossings(corner, rendered.shape, period)
    dark = [float((cut(real, place).mean(2) < 225).mean()) for place in found]
    order = [
        max(range(len(found)), key=lambda i: dark[i]),
        min(range(len(found)), key=lambda i: abs(dark[i] - 0.5)),
        min(range(len(found)), key=lambda i: dark[i]),
    ]
    return [found[i] for i in order]


def whitest(shown: Shown, period: int) -> float:
    """How dark the whitest crossing of a region is."""
    _, corner, rendered, real = shown
    found = crossings(corner, rendered.shape, period)
    return min((float(255 - cut(real, p).mean()) for p in found), default=255.0)


def draw_borders(regions: Sequence[Shown], period: int) -> Image.Image:
    """Seven pictures a row; ticks beside each say where the two lines run.

    Args:
        regions: of 20x; those with the most background are shown, one a slide.
        period: px between the lines.
    """
    best: dict[str, Shown] = {}
    for shown in sorted(regions, key=lambda r: whitest(r, period)):
        best.setdefault(shown[0], shown)
    chosen = list(best.values())[:ROWS]
    step = CUT + GAP
    wide, high = len(COLUMNS) * step + GAP, HEAD + len(chosen) * (step + HEAD) + GAP
    sheet = Image.new("RGB", (wide, high), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, text in enumerate(COLUMNS):
        draw.text((GAP + i * step, 4), text, fill="black", font=font)
    for row, shown in enumerate(chosen):
        name, _, rendered, real = shown
        top = HEAD + GAP + row * (step + HEAD)
        tissue, edge, white = places_of(shown, period)
        cuts = [
            *(cut(rendered, tissue), cut(real, tissue), cut(rendered, edge), cut(real, edge)),
            *(cut(rendered, white), stretched(cut(rendered, white)), stretched(cut(real, white))),
        ]
        for i, pixels in enumerate(cuts):
            left = GAP + i * step
            sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left, top))
            middle = CUT // 2
            for line in (
                (left + middle, top - TICK, left + middle, top - 2),
                (left + middle, top + CUT + 1, left + middle, top + CUT + TICK - 1),
                (left - TICK, top + middle, left - 2, top + middle),
                (left + CUT + 1, top + middle, left + CUT + TICK - 2, top + middle),
            ):
                draw.line(line, fill="black")
        draw.text((GAP, top + CUT + TICK), name, fill="black", font=font)
    return sheet
