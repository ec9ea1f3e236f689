"""GeoJSON overlays of a slide: attention of a MIL run, tissue, annotations."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoomldm.errors import ConfigError

MOST_BYTES = 64 << 20
MOST_FEATURES = 200_000
_SHAPES = {
    "Point": 0,
    "MultiPoint": 1,
    "LineString": 1,
    "MultiLineString": 2,
    "Polygon": 2,
    "MultiPolygon": 3,
}


@dataclass(frozen=True)
class Overlay:
    """Checked content of a GeoJSON file.

    Attributes:
        name: name of the file.
        count: number of features.
        text: the part that a page draws, as JSON: geometries, names and measurements.
    """

    name: str
    count: int
    text: str


def read_overlay(path: Path) -> Overlay:
    """Read a GeoJSON file in pixels of the 0.5 mpp raster, as `zoomldm mil` and QuPath write it.

    Raises:
        ConfigError: not GeoJSON, too large, or with coordinates that are not finite numbers.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ConfigError(
                f"{path}: is {size / 1e6:.0f} MB; an overlay may have up to {MOST_BYTES >> 20} MiB"
            )
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); expected GeoJSON") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not JSON; expected GeoJSON") from error
    features = _features(value)
    if features is None:
        raise ConfigError(f"{path}: is not GeoJSON; expected a FeatureCollection of features")
    if len(features) > MOST_FEATURES:
        raise ConfigError(
            f"{path}: has {len(features)} features; an overlay may have up to {MOST_FEATURES}"
        )
    geometries = []
    for number, feature in enumerate(features):
        geometry = feature.get("geometry") if isinstance(feature, dict) else None
        if geometry is None:
            continue
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if kind not in _SHAPES or not _numbers(geometry.get("coordinates"), _SHAPES[kind]):
            raise ConfigError(
                f"{path}: feature {number} is not a {', '.join(_SHAPES)} of finite numbers; "
                "give coordinates in pixels of the 0.5 mpp raster"
            )
        geometries.append(
            {
                "type": kind,
                "coordinates": geometry["coordinates"],
                **_properties(feature.get("properties")),
            }
        )
    return Overlay(
        path.name, len(geometries), json.dumps({"features": geometries}, separators=(",", ":"))
    )


def _features(value: Any) -> list[Any] | None:
    if isinstance(value, list):  # QuPath may write a plain list
        return value
    if not isinstance(value, dict):
        return None
    if value.get("type") == "Feature":
        return [value]
    features = value.get("features")
    return features if isinstance(features, list) else None


def _numbers(value: Any, depth: int) -> bool:
    """Return whether a value holds positions of two or more numbers at this nesting depth."""
    if not isinstance(value, list):
        return False
    if depth:
        return all(_numbers(part, depth - 1) for part in value)
    return len(value) >= 2 and all(
        isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n)
        for n in value[:2]
    )


def _properties(value: Any) -> dict[str, Any]:
    """Return name and value of a feature, if it has them."""
    if not isinstance(value, dict):
        return {}
    found: dict[str, Any] = {}
    measured = value.get("measurements")
    if isinstance(measured, dict):
        number = measured.get("rank", next(iter(measured.values()), None))
        if isinstance(number, int | float) and math.isfinite(number):
            found["value"] = number
    kind = value.get("classification")
    name = kind.get("name") if isinstance(kind, dict) else value.get("name")
    if isinstance(name, str):
        found["name"] = name[:200]
    return found
