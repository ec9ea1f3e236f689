"""Pyramidal BigTIFF of JPEG tiles: plain, OME-TIFF, and the layout of Aperio's .svs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from zoomldm.files import atomic_path
from zoomldm.geometry.levels import BASE_MPP, TILE
from zoomldm.writers.image import Block, Image, coarsest_pixels, part_tiles
from zoomldm.writers.spool import keep_tiles, stored_tiles
from zoomldm.writers.writer import encode_jpeg

Flavour = Literal["plain", "ome", "aperio"]
_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_NAMESPACE = "zoomldm/provenance"


@dataclass(frozen=True)
class Tiff:
    """Pyramidal BigTIFF.

    Attributes:
        flavour: `plain`: one page per level, provenance as JSON in the first page's description;
            `ome`: OME-XML, the reduced levels as SubIFDs; `aperio`: pages and description as
            Aperio's scanners write them, with a thumbnail as second page.
        quality: JPEG quality, 1 to 100; chroma is halved on both axes (4:2:0).
    """

    flavour: Flavour = "plain"
    quality: int = 90

    def settings(self) -> dict[str, Any]:
        """See `Writer`."""
        return {"format": "tiff", **asdict(self)}

    def check(self, target: Path, image: Image) -> None:
        """See `Writer`; any file is replaced."""

    def begin(self, folder: Path, image: Image) -> None:
        """See `Writer`."""

    def put(
        self, folder: Path, image: Image, block: Block, pixels: Sequence[NDArray[np.uint8]]
    ) -> None:
        """See `Writer`."""
        tiles = (encode_jpeg(tile, self.quality) for part in pixels for tile in part_tiles(part))
        keep_tiles(folder, block, tiles)

    def finish(self, folder: Path, image: Image, target: Path, provenance: dict[str, Any]) -> None:
        """See `Writer`."""
        text = {"plain": _plain, "ome": _ome_xml, "aperio": self._aperio}[self.flavour](
            image, provenance
        )
        count = len(image.levels)
        with atomic_path(target) as part, tifffile.TiffWriter(part, bigtiff=True) as tiff:
            for number, level in enumerate(image.levels):
                reduced = number > 0
                tiff.write(
                    stored_tiles(folder, image, number),
                    shape=(level.size[1], level.size[0], 3),
                    dtype=np.uint8,
                    tile=(TILE, TILE),
                    photometric="ycbcr",
                    subsampling=(2, 2),
                    compression="jpeg",
                    subfiletype=1 if reduced and self.flavour != "aperio" else 0,
                    subifds=count - 1 if self.flavour == "ome" and not reduced else None,
                    resolution=(1e4 / level.mpp, 1e4 / level.mpp),
                    resolutionunit="CENTIMETER",
                    description=self._description(text, image, number),
                    metadata=None,
                    software=None if reduced else "zoomldm",
                )
                if self.flavour == "aperio" and not reduced:
                    self._thumbnail(tiff, folder, image, text)

    def _description(self, text: str, image: Image, number: int) -> bytes | None:
        if not number:
            return text.encode("utf-8" if self.flavour == "ome" else "ascii", "backslashreplace")
        if self.flavour != "aperio":
            return None
        wide, high = image.levels[number].size
        head, _, rest = text.partition("|")
        return f"{head} -> {wide}x{high} JPEG/YCC Q={self.quality}|{rest}".encode(
            "ascii", "backslashreplace"
        )

    def _aperio(self, image: Image, provenance: dict[str, Any]) -> str:
        """Aperio's description: a first line, the size, then `key = value` separated by bars."""
        level = image.levels[0]
        wide, high = level.size
        generated = ", ".join(part.name for part in image.levels if part.origin == "generated")
        values = {
            "AppMag": f"{20 * BASE_MPP / level.mpp:g}",
            "MPP": f"{level.mpp:g}",
            "Generated levels": generated or "none",
            "Not for diagnosis": "yes" if generated else "levels are real",
            # A bar would end the value.
            "zoomldm": json.dumps(provenance, separators=(",", ":")).replace("|", "\\u007c"),
        }
        fields = "|".join(f"{key} = {value}" for key, value in values.items())
        return (
            f"Aperio Image Library layout, written by zoomldm\r\n"
            f"{wide}x{high} [0,0 {wide}x{high}] ({TILE}x{TILE}) JPEG/YCC Q={self.quality}|{fields}"
        )

    def _thumbnail(self, tiff: tifffile.TiffWriter, folder: Path, image: Image, text: str) -> None:
        last = len(image.levels) - 1
        tiles = [imagecodecs.jpeg_decode(t) for t in stored_tiles(folder, image, last)]
        pixels = np.ascontiguousarray(coarsest_pixels(tiles, image.levels[last]))
        high, wide = pixels.shape[:2]
        head, _, rest = text.partition("|")
        tiff.write(
            iter([encode_jpeg(pixels, self.quality)]),
            shape=pixels.shape,
            dtype=np.uint8,
            rowsperstrip=high,
            photometric="ycbcr",
            subsampling=(2, 2),
            compression="jpeg",
            description=f"{head} -> {wide}x{high} - |{rest}".encode("ascii", "backslashreplace"),
            metadata=None,
        )


def _plain(image: Image, provenance: dict[str, Any]) -> str:
    return json.dumps(provenance, separators=(",", ":"))


def _ome_xml(image: Image, provenance: dict[str, Any]) -> str:
    """OME-XML of one RGB image, with its provenance as an annotation."""
    level = image.levels[0]
    wide, high = level.size
    generated = ", ".join(part.name for part in image.levels if part.origin == "generated")
    what = (
        f"Generated levels: {generated}; not for diagnosis."
        if generated
        else "All levels are real."
    )
    text = json.dumps(provenance, separators=(",", ":"))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{_OME}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_OME} {_OME}/ome.xsd" Creator="zoomldm">'
        f'<Image ID="Image:0" Name={quoteattr(str(provenance.get("archive", "zoomldm")))}>'
        f"<Description>{escape(what)}</Description>"
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{wide}" '
        f'SizeY="{high}" SizeC="3" SizeZ="1" SizeT="1" Interleaved="true" '
        f'PhysicalSizeX="{level.mpp:g}" PhysicalSizeXUnit="µm" '
        f'PhysicalSizeY="{level.mpp:g}" PhysicalSizeYUnit="µm">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels>'
        '<AnnotationRef ID="Annotation:0"/></Image>'
        "<StructuredAnnotations>"
        f'<CommentAnnotation ID="Annotation:0" Namespace="{_NAMESPACE}">'
        f"<Value>{escape(text)}</Value></CommentAnnotation>"
        "</StructuredAnnotations></OME>"
    )
