"""Attention maps of a slide: an image on the grid, and squares in GeoJSON."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zoomldm.errors import ConfigError
from zoomldm.features.reading import Coordinates
from zoomldm.mil.bags import Bags
from zoomldm.mil.metrics import midranks
from zoomldm.mil.models.attention import BagModel

_COLOURS = np.array(  # dark blue, teal, green, yellow: ordered by lightness
    [[48, 18, 92], [44, 92, 140], [34, 152, 138], [124, 206, 80], [250, 230, 40]], dtype=float
)
_LARGEST = 2048  # pixels of the image's longer side


def attention_of(model: BagModel, x: torch.Tensor) -> np.ndarray | None:
    """Compute the attention (N,) of a bag (N, D), or None for a model without attention."""
    model.eval()
    with torch.no_grad():
        attention = model(x.to(next(model.parameters()).device)).attention
    return None if attention is None else attention.double().cpu().numpy()


def ranks(attention: np.ndarray) -> np.ndarray:
    """Rank attention among the slide's instances, 0 to 1; 0.5 if all are equal."""
    if len(attention) < 2:
        return np.full(len(attention), 0.5)
    return (midranks(attention) - 1) / (len(attention) - 1)


def attention_image(attention: np.ndarray, where: Coordinates) -> Image.Image:
    """Draw attention by rank, one square per grid cell; cells without instances are white.

    If the slide's size is known, the image starts at the slide's top-left corner, and instances
    left of it or above are left out.

    Args:
        attention: (N,).
        where: coordinates of the instances.

    Raises:
        ConfigError: the grid has more than 100 million cells, so `side` is not the spacing.
    """
    cells, rank = np.floor(where.xy / where.side).astype(int), ranks(attention)
    if where.size is None:
        cells -= cells.min(0)
        columns, rows = cells.max(0) + 1
    else:
        columns, rows = (int(np.ceil(s / where.side)) for s in where.size)
        columns, rows = max(columns, cells[:, 0].max() + 1), max(rows, cells[:, 1].max() + 1)
        inside = (cells >= 0).all(1)
        cells, rank = cells[inside], rank[inside]
    if columns * rows > 1e8:
        raise ConfigError(
            f"attention map of {columns} x {rows} cells: squares of side {where.side}"
            " don't fit these coordinates"
        )
    total, count = np.zeros((rows, columns)), np.zeros((rows, columns))
    np.add.at(total, (cells[:, 1], cells[:, 0]), rank)
    np.add.at(count, (cells[:, 1], cells[:, 0]), 1)
    value = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    place = value * (len(_COLOURS) - 1)
    low = np.clip(np.floor(place).astype(int), 0, len(_COLOURS) - 2)
    fraction = (place - low)[..., None]
    colour = _COLOURS[low] * (1 - fraction) + _COLOURS[low + 1] * fraction
    colour[count == 0] = 255
    scale = max(1, min(16, _LARGEST // max(rows, columns)))
    image = Image.fromarray(colour.round().astype(np.uint8))
    return image.resize((columns * scale, rows * scale), Image.Resampling.NEAREST)


def geojson(attention: np.ndarray, where: Coordinates, slide: str) -> dict:
    """Make GeoJSON squares in the pixels of the coordinates, for QuPath and most viewers.

    Args:
        attention: (N,).
        where: coordinates of the instances.
        slide: id, stored in each square's properties.
    """
    features = []
    for (x, y), value, rank in zip(where.xy.tolist(), attention, ranks(attention), strict=True):
        right, bottom = x + where.side, y + where.side
        ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {
                    "objectType": "tile",
                    "slide": slide,
                    "measurements": {"attention": float(value), "rank": float(rank)},
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def write_maps(model: BagModel, bags: Bags, rows: np.ndarray, folder: Path) -> int:
    """Write `<slide>.png` and `<slide>.geojson` for slides with coordinates; return the count."""
    written = 0
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        where = bags.coordinates(row)
        attention = attention_of(model, bags.features[row])
        if attention is None or where is None:
            continue
        name = bags.slides[row]
        if len(where.xy) != len(attention):
            raise ConfigError(f"{bags.files[row]}: was changed while it was read; run again")
        attention_image(attention, where).save(folder / f"{name}.png")
        (folder / f"{name}.geojson").write_text(json.dumps(geojson(attention, where, name)))
        written += 1
    return written
