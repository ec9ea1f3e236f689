"""Painted slides for the benchmarks, from the tests' generator."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from synthetic import paint_slide


def painted(folder: Path, width: int = 5000, height: int = 4000, **options: object) -> Path:
    """A painted slide at 0.5 mpp in a folder."""
    return paint_slide(folder / "painted.tif", width, height, **options)  # type: ignore[arg-type]
