"""The writer for an output's file name."""

from pathlib import Path
from typing import Literal

from zoomldm.errors import ConfigError
from zoomldm.writers.writer import Writer

Flavour = Literal["plain", "ome", "aperio"]
PNG = ".png"
# Longest endings first: `.ome.tif` is not just a `.tif`.
ENDINGS = (
    *(".ome.tiff", ".ome.tif", ".tiff", ".tif", ".svs"),
    *(".ome.zarr", ".zarr", ".dcm", ".dzi", PNG),
)
FOLDERS = (".zarr", ".ome.zarr", ".dcm")  # formats that are folders
KNOWN = ".tif, .ome.tif, .svs, .zarr, .dcm, .dzi, .png"
_FLAVOURS: dict[str, Flavour] = {".ome.tif": "ome", ".ome.tiff": "ome", ".svs": "aperio"}


def ending(target: Path) -> str | None:
    """The ending of a name that determines its format, None if there is none."""
    name = target.name.lower()
    return next((e for e in ENDINGS if name.endswith(e) and name != e), None)


def writer_for(target: Path, flavour: Flavour | None = None) -> Writer:
    """The writer for a name's format; a format's modules are imported on demand.

    Args:
        target: the output; its ending determines the format.
        flavour: TIFF flavour; None takes that of the ending.

    Raises:
        ConfigError: an unknown ending, or a flavour that does not match it.
    """
    found = ending(target)
    if found is None or found == PNG:
        raise ConfigError(unknown(target))
    if found in (".tif", ".tiff", ".ome.tif", ".ome.tiff", ".svs"):
        from zoomldm.writers.tiff import Tiff

        own = _FLAVOURS.get(found)
        if flavour and own and flavour != own:
            raise ConfigError(f"{target}: ending {found} is TIFF flavour {own}, not {flavour}")
        return Tiff(flavour or own or "plain")
    if flavour:
        raise ConfigError(f"{target}: a TIFF flavour is for .tif; ending {found} has none")
    if found in (".zarr", ".ome.zarr"):
        from zoomldm.writers.omezarr import OmeZarr

        return OmeZarr()
    if found == ".dcm":
        from zoomldm.writers.dicom import Dicom

        return Dicom()
    from zoomldm.writers.deepzoom import DeepZoom

    return DeepZoom()


def unknown(target: Path) -> str:
    """The error message for a name without a known ending."""
    return (
        f"{target}: ending {target.suffix!r} is not known; expected {KNOWN} or a folder that exists"
    )
