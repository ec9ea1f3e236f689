"""The .zldm format: one slide as a grid of embeddings, in a zip file that is a Zarr v3 store."""

from zoomldm.archive.base import BaseLayer
from zoomldm.archive.manifest import (
    FORMAT_VERSION,
    Base,
    Edit,
    Encoder,
    Generated,
    Grid,
    Header,
    Latents,
    Like,
    Manifest,
    Member,
    Network,
    Origin,
    Overview,
    Quantisation,
    SlideInfo,
    TissueInfo,
)
from zoomldm.archive.reader import Archive, open_archive
from zoomldm.archive.verify import verify_archive
from zoomldm.archive.writer import ArchiveWriter, write_archive

__all__ = [
    "FORMAT_VERSION",
    "Archive",
    "ArchiveWriter",
    "Base",
    "BaseLayer",
    "Edit",
    "Encoder",
    "Generated",
    "Grid",
    "Header",
    "Latents",
    "Like",
    "Manifest",
    "Member",
    "Network",
    "Origin",
    "Overview",
    "Quantisation",
    "SlideInfo",
    "TissueInfo",
    "open_archive",
    "verify_archive",
    "write_archive",
]
