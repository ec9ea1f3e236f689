"""The interface of all slide readers, and the error of a failed read."""

from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from zoomldm.errors import SlideError


class SlideReadError(SlideError):
    """One region could not be read; the slide stays usable for other regions."""


class ScaleCandidate(NamedTuple):
    """An mpp that a slide states, with the name of its source."""

    source: str
    mpp_x: float
    mpp_y: float


class Backend(Protocol):
    """A slide file opened for reading its stored levels; level 0 is the finest.

    `level_sizes` lists each level's (width, height) in px. `icc` is the ICC profile of the pixels.
    `scales` lists the mpp values that the file states, best first, unchecked.
    """

    name: str
    vendor: str
    level_sizes: list[tuple[int, int]]
    icc: bytes | None
    scales: list[ScaleCandidate]
    properties: dict[str, str]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """Read a region inside the level, in px of that level; RGB or RGBA.

        Raises:
            SlideReadError: the region can't be read.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def one_line(text: object, limit: int = 160) -> str:
    """Collapse white space in a text and cut it to `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def unreadable(path: Path, level: int, region: tuple[int, int, int, int], why: object) -> str:
    """The one-line message of a SlideReadError."""
    x, y, width, height = region
    return (
        f"{path}: {width} x {height} px at ({x}, {y}) of stored level {level} can't be read "
        f"({one_line(why)}); the file is damaged there"
    )
