"""DICOM: a folder with one VL Whole Slide Microscopy Image instance per level."""

import importlib.util
import shutil
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import ConfigError
from zoomldm.files import move_folder
from zoomldm.writers.image import Block, Image, part_tiles
from zoomldm.writers.spool import keep_tiles, stored_lengths, stored_tiles
from zoomldm.writers.writer import (
    check_folder,
    encode_jpeg,
    has_marker,
    write_marker,
)

_TREE = "tree"
_NAMES = ("archive", "slide", "output")  # provenance that may contain a patient's name
_MOST = 2**32 - 2  # limit of bytes of a table of frames
_ITEM, _END = 0xE000FFFE, 0xE0DDFFFE


@dataclass(frozen=True)
class Dicom:
    """Derived, lossy (JPEG baseline) whole-slide images of one series, without patient data.

    Attributes:
        quality: JPEG quality, 1 to 100; chroma is halved along rows (4:2:2), as the photometric
            interpretation YBR_FULL_422 requires.
    """

    quality: int = 90

    def settings(self) -> dict[str, Any]:
        """See `Writer`."""
        return {"format": "dicom", **asdict(self)}

    def check(self, target: Path, image: Image) -> None:
        """See `Writer`."""
        if importlib.util.find_spec("pydicom") is None:
            raise ConfigError(
                f"{target}: DICOM needs pydicom, which is not installed: "
                "pip install 'zoomldm[dicom]'"
            )
        rows, cols = image.levels[0].grid
        if 8 * rows * cols > _MOST:
            raise ConfigError(f"{target}: {rows * cols} frames are more than a DICOM file can list")
        check_folder(target, has_marker(target))

    def begin(self, folder: Path, image: Image) -> None:
        """See `Writer`."""

    def put(
        self, folder: Path, image: Image, block: Block, pixels: Sequence[NDArray[np.uint8]]
    ) -> None:
        """See `Writer`."""
        tiles = (
            encode_jpeg(tile, self.quality, "422") for part in pixels for tile in part_tiles(part)
        )
        keep_tiles(folder, block, tiles)

    def finish(self, folder: Path, image: Image, target: Path, provenance: dict[str, Any]) -> None:
        """See `Writer`; the slide's names are left out of the provenance."""
        from zoomldm.writers.dicom_header import write_header

        deidentified = {name: value for name, value in provenance.items() if name not in _NAMES}
        tree = folder / _TREE
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        for number, level in enumerate(image.levels):
            lengths = stored_lengths(folder, image, number)
            with (tree / f"level-{number}-{level.name}.dcm").open("wb") as file:
                write_header(file, image, number, lengths, deidentified, self.settings())
                _write_frames(file, stored_tiles(folder, image, number))
        write_marker(tree, deidentified)
        move_folder(tree, target)


def _write_frames(file: BinaryIO, frames: Any) -> None:
    """Write the element Pixel Data, encapsulated (PS3.5 A.4), with an empty basic offset table."""
    file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
    file.write(struct.pack("<II", _ITEM, 0))
    for frame in frames:
        file.write(struct.pack("<II", _ITEM, len(frame) + len(frame) % 2))
        file.write(frame + b"\0" * (len(frame) % 2))
    file.write(struct.pack("<II", _END, 0))
