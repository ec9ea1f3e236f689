"""What draws an archive: the pyramid, or the paper's cascade, behind one interface."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import Archive
from zoomldm.geometry.lattice import Window
from zoomldm.rendering.kept import Kept

# What changes the last bits of a pixel at most, and what only says in words what is done.
_ASIDE = ("device", "threads", "torch", "background", "levels_real", "levels_generated")

# Part of every provenance: raised whenever the same archive, pipeline and options come to be drawn
# otherwise, so that nothing drawn before is taken for what would be drawn now.
RULES = 3


@dataclass(frozen=True)
class PatchCount:
    """Patches of one level that an image needs, by what they are."""

    generated: int = 0
    background: int = 0
    real: int = 0


@dataclass(frozen=True)
class Cost:
    """What a renderer made so far; what it kept and gave again costs nothing.

    Attributes:
        windows: patch-equivalents of denoising: windows of latents as large as a patch's, of all
            levels, that the denoiser made.
        tiles: images of 256 px decoded.
    """

    windows: int = 0
    tiles: int = 0

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.windows - other.windows, self.tiles - other.tiles)


def source_digest(provenance: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what pixels are a function of: archive, pipeline, options and seed.

    Devices, numbers of threads and versions of PyTorch are left aside: between them pixels differ
    by 1/255 at most.
    """
    facts = {name: value for name, value in provenance.items() if name not in _ASIDE}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def edits_of(archive: Archive) -> dict[str, Any]:
    """What an output's metadata say of an archive that is not as a slide gave it."""
    edits = [edit.model_dump(mode="json") for edit in archive.manifest.edits]
    found: dict[str, Any] = {"edits": edits} if edits else {}
    if facts := archive.manifest.generated:
        found["imaginary"] = {
            "seed": facts.seed,
            "label": facts.label,
            "like": facts.reference.source if facts.reference else None,
        }
    return found


class Renderer(Protocol):
    """Pixels of an archive at any level, as a function of archive, pipeline and options alone."""

    kept: Kept

    @property
    def cost(self) -> Cost:
        """What was made so far."""
        ...

    def is_real(self, level: int) -> bool:
        """Whether the level is stored pixels."""
        ...

    def size(self, level: int) -> tuple[int, int]:
        """Width and height (px) of the slide at a level."""
        ...

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region in pixels of a level, (height, width, 3) uint8 sRGB; white outside."""
        ...

    def count(self, windows: Mapping[int, Window]) -> dict[int, PatchCount]:
        """Patches that regions (x, y, w, h in px of their level) need, by level."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What the pixels are a function of, for the metadata of an output."""
        ...

    def close(self) -> None:
        """Forget everything made; the archive stays open."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
