"""What a format is to the rest: one protocol, and what its files share."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import TargetError
from zoomldm.writers.image import Block, Image

MARKER = "zoomldm.json"  # provenance in a folder that we wrote


class Writer(Protocol):
    """One format. Holds its settings alone, so that it can be sent to other processes."""

    def settings(self) -> dict[str, Any]:
        """What its bytes depend on besides the image, plain JSON values."""
        ...

    def check(self, target: Path, image: Image) -> None:
        """Refuse a target that this format can't be written to, or what it lacks to write.

        Raises:
            TargetError: the name belongs to something that we did not write.
            ConfigError: an extra is missing, or the image does not fit the format.
        """
        ...

    def begin(self, folder: Path, image: Image) -> None:
        """Lay out the folder that blocks are kept in; called again on resuming."""
        ...

    def put(
        self, folder: Path, image: Image, block: Block, pixels: Sequence[NDArray[np.uint8]]
    ) -> None:
        """Keep a block's pixels, one array a part; from any process, in any order."""
        ...

    def finish(self, folder: Path, image: Image, target: Path, facts: dict[str, Any]) -> None:
        """Put the output together from all blocks; it appears whole or not at all.

        Args:
            folder: where the blocks are.
            image: the image.
            target: the output.
            facts: its provenance, plain JSON values.
        """
        ...


def encode_jpeg(tile: NDArray[np.uint8], quality: int, subsampling: str = "420") -> bytes:
    """A JPEG file of a picture (h, w, 3) uint8 RGB, stored as YCbCr."""
    data = imagecodecs.jpeg_encode(
        tile, level=quality, colorspace="rgb", outcolorspace="ycbcr", subsampling=subsampling
    )
    return bytes(data)


def check_folder(target: Path, ours: bool) -> None:
    """Refuse a folder that is to be replaced though we did not write it.

    Raises:
        TargetError: a file has the name, or a folder that is not ours.
    """
    if not target.parent.is_dir():
        raise TargetError(f"{target}: folder {target.parent} does not exist; create it first")
    if target.exists() and not target.is_dir():
        raise TargetError(f"{target}: is a file; expected a folder or a new name")
    if target.is_dir() and any(target.iterdir()) and not ours:
        raise TargetError(
            f"{target}: exists and was not written by zoomldm; remove it or give another name"
        )


def has_marker(folder: Path) -> bool:
    """Whether a folder holds our provenance."""
    return read_marker(folder) is not None


def write_marker(folder: Path, facts: dict[str, Any]) -> None:
    """Write the provenance into a folder."""
    (folder / MARKER).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def same_facts(found: Any, facts: dict[str, Any]) -> bool:
    """Whether provenance is that of the same pixels, whatever machine drew them."""
    machine = ("threads", "torch")
    plain = json.loads(json.dumps(facts))
    return isinstance(found, dict) and all(
        found.get(name) == plain.get(name) for name in {*found, *plain} if name not in machine
    )


def read_marker(folder: Path) -> Any:
    """The provenance in a folder, None where there is none."""
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
