"""A tile that new tissue should resemble: an image, or a place in an archive."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zoomldm.archive import open_archive
from zoomldm.errors import ArchiveError, ConfigError, PipelineError, RegionError
from zoomldm.geometry.levels import TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder
from zoomldm.remote import RemotePath, as_path


@dataclass(frozen=True)
class Reference:
    """A tile's embedding and its origin.

    Attributes:
        embedding: (D,) float32.
        source: what it was read from, for provenance.
    """

    embedding: NDArray[np.float32]
    source: dict[str, Any]


def read_reference(text: str, pipeline: ZoomLDMPipeline) -> Reference:
    """Read the argument of `--like`.

    Args:
        text: an image of one tile (256 x 256 px at 0.5 mpp), or `ARCHIVE@X,Y`: the tile that
            contains the pixel X, Y of the archive's 20x raster (0.5 mpp).
        pipeline: its patch encoder embeds the image, or made the archive.

    Raises:
        ConfigError: neither of these, or an image that is not a tile.
        RegionError: a place outside the slide, or on background.
        ArchiveError: an archive made by another patch encoder.
        PipelineError: an image for a pipeline without patch encoder.
    """
    path, at, place = text.rpartition("@")
    if at and path and not Path(text).is_file():
        return _of_archive(as_path(path), place, pipeline)
    return _of_image(Path(text), pipeline)


def read_like(text: str, pipeline: ZoomLDMPipeline) -> Reference:
    """Read the argument of a slide's `--like`: as `read_reference`, or a whole archive.

    For an archive without a place, the tissue tile is taken whose embedding has the highest
    cosine similarity to the mean of all.

    Raises:
        ConfigError, RegionError, ArchiveError, PipelineError: see `read_reference`.
    """
    path = as_path(text)
    if path.suffix != ".zldm":
        return read_reference(text, pipeline)
    with open_archive(path) as archive:
        check_encoder(archive, pipeline)
        places = np.argwhere(archive.mask)
        if not len(places):
            raise ArchiveError(f"{path}: holds no tissue tile; nothing to be like")
        values = archive.embeddings_of(places[:, 0], places[:, 1])
        mean = values.mean(0, dtype=np.float64)
        lengths = np.linalg.norm(values, axis=1)
        nearest = int(((values @ mean) / np.maximum(lengths, 1e-12)).argmax())
        row, col = places[nearest].tolist()
        source = {
            "archive": path.name,
            "archive_digest": archive.digest,
            "x": col * TILE,
            "y": row * TILE,
        }
    return Reference(values[nearest].astype(np.float32), source)


def _of_archive(path: Path | RemotePath, place: str, pipeline: ZoomLDMPipeline) -> Reference:
    try:
        x, y = (int(v) for v in place.split(","))
    except ValueError:
        raise ConfigError(
            f"{path}@{place}: no place; expected @X,Y in whole pixels at 0.5 mpp"
        ) from None
    with open_archive(path) as archive:
        check_encoder(archive, pipeline)
        row, col, (width, height) = y // TILE, x // TILE, archive.size
        if not (0 <= x < width and 0 <= y < height):
            raise RegionError(f"{path}: {x},{y} lies outside; the slide has {width} x {height} px")
        if not archive.mask[row, col]:
            rows, cols = np.nonzero(archive.mask)
            near = int(np.argmin((rows - row) ** 2 + (cols - col) ** 2)) if len(rows) else -1
            hint = (
                f"; the nearest tissue is at {cols[near] * TILE},{rows[near] * TILE}"
                if near >= 0
                else ""
            )
            raise RegionError(f"{path}: {x},{y} is background{hint}")
        embedding = archive.embeddings(row, row + 1, col, col + 1)[0, 0].astype(np.float32)
        source = {"archive": path.name, "archive_digest": archive.digest, "x": x, "y": y}
    return Reference(embedding, source)


def _of_image(path: Path, pipeline: ZoomLDMPipeline) -> Reference:
    if not path.is_file():
        raise ConfigError(f"{path}: no such image; --like takes TILE.png or ARCHIVE@X,Y")
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip values above 255
                raise ConfigError(
                    f"{path}: has more than 8 bits a channel (mode {image.mode}); expected an "
                    "8-bit image of the tile, such as PNG in RGB"
                )
            pixels = np.array(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        hint = "; for an archive give ARCHIVE@X,Y" if path.suffix == ".zldm" else ""
        raise ConfigError(f"{path}: is no image{hint}") from error
    if pipeline.patch_encoder is None:
        raise PipelineError(
            f"{path}: pipeline has no patch encoder to describe it; give ARCHIVE@X,Y instead"
        )
    if pixels.shape != (TILE, TILE, 3):
        raise ConfigError(
            f"{path}: is {pixels.shape[1]} x {pixels.shape[0]} px; expected one tile, "
            f"{TILE} x {TILE} px at 0.5 mpp"
        )
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Reference(pipeline.encode_tiles(pixels[None])[0], {"picture": path.name, "sha": digest})
