"""The protocol of all output formats, and functions that they share."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import TargetError
from zoomldm.writers.image import Block, Image

MARKER = "zoomldm.json"  # provenance in a folder written by zoomldm


class Writer(Protocol):
    """One format. It contains only its settings, so that it can be sent to other processes."""

    def settings(self) -> dict[str, Any]:
        """Everything besides the image that the output's bytes depend on, plain JSON values."""
        ...

    def check(self, target: Path, image: Image) -> None:
        """Check that this format can be written to the target.

        Raises:
            TargetError: the name belongs to something not written by zoomldm.
            ConfigError: an extra is missing, or the image does not fit the format.
        """
        ...

    def begin(self, folder: Path, image: Image) -> None:
        """Lay out the folder for blocks; called again on resuming."""
        ...

    def put(
        self, folder: Path, image: Image, block: Block, pixels: Sequence[NDArray[np.uint8]]
    ) -> None:
        """Store a block's pixels, one array per part; from any process, in any order."""
        ...

    def finish(self, folder: Path, image: Image, target: Path, provenance: dict[str, Any]) -> None:
        """Assemble the output from all blocks; it appears complete or not at all.

        Args:
            folder: the folder with the blocks.
            image: the image.
            target: the output.
            provenance: where it comes from, plain JSON values.
        """
        ...


def encode_jpeg(tile: NDArray[np.uint8], quality: int, subsampling: str = "420") -> bytes:
    """Encode an image (h, w, 3) uint8 RGB as a JPEG file, stored as YCbCr."""
    data = imagecodecs.jpeg_encode(
        tile, level=quality, colorspace="rgb", outcolorspace="ycbcr", subsampling=subsampling
    )
    return bytes(data)


def check_folder(target: Path, ours: bool) -> None:
    """Refuse to replace a folder that zoomldm did not write.

    Raises:
        TargetError: no parent folder, or the name belongs to a file or another program's folder.
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
    """Whether a folder contains zoomldm's provenance."""
    return read_marker(folder) is not None


def write_marker(folder: Path, provenance: dict[str, Any]) -> None:
    """Write the provenance into a folder."""
    (folder / MARKER).write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


def same_provenance(found: Any, provenance: dict[str, Any]) -> bool:
    """Whether two provenances describe the same pixels, whichever machine rendered them."""
    machine = ("threads", "torch")
    plain = json.loads(json.dumps(provenance))
    return isinstance(found, dict) and all(
        found.get(name) == plain.get(name) for name in {*found, *plain} if name not in machine
    )


def read_marker(folder: Path) -> Any:
    """The provenance in a folder, None if there is none."""
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
