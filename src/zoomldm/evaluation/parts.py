"""Store the figures of each slide in a file, to measure a cohort in parts and merge them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import ConfigError
from zoomldm.files import atomic_path
from zoomldm.verbs import plain

_FIGURES = "figures"


def write_part(
    path: Path, figures: Mapping[str, Any], images: Mapping[str, NDArray[np.uint8]]
) -> None:
    """Write figures and images of a slide to one file (.npz).

    Raises:
        TargetError: the file can't be written.
    """
    text = json.dumps(plain(figures)).encode()
    with atomic_path(path) as part, part.open("wb") as file:
        names = {f"image {name}": image for name, image in images.items()}
        np.savez(file, **{_FIGURES: np.frombuffer(text, np.uint8)}, **names)  # type: ignore[arg-type]


def read_part(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
    """Read figures and images of a slide.

    Raises:
        ConfigError: the file can't be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images = {n.removeprefix("image "): file[n] for n in file.files if n != _FIGURES}
            return json.loads(file[_FIGURES].tobytes()), images
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path}: can't be read as figures; remove it and run again") from error


def merge_figures(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the figures of several slides: lists are joined, all else is taken from the first.

    Examples:
        >>> merge_figures([{"digest": "a", "rows": [1]}, {"digest": "a", "rows": [2, 3]}])
        {'digest': 'a', 'rows': [1, 2, 3]}
    """
    merged = dict(parts[0])
    for part in parts[1:]:
        for name, value in part.items():
            if isinstance(value, list):
                merged[name] = [*merged[name], *value]
    return merged
