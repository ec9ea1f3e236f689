"""Editing: an archive is a grid of embeddings, so tissue can be moved and interpolated."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoomldm import __version__
from zoomldm.archive import Archive, ArchiveWriter, open_archive
from zoomldm.archive.manifest import Edit, Header, Origin, SlideInfo
from zoomldm.archive.quantise import cosines
from zoomldm.editing.base import add_spliced, spliced_base
from zoomldm.editing.places import Block, Place, block_of, embeddings_of
from zoomldm.errors import ArchiveError, ConfigError, RegionError, TargetError
from zoomldm.files import claim
from zoomldm.geometry.levels import BASE_MPP, NAMES, TILE
from zoomldm.remote import RemotePath, as_path
from zoomldm.verbs import Progress, Report, silent

ENDING = ".zldm"
MOST_STEPS = 64
MOST_SIDE = 64
_ROWS = 16  # rows of tiles read at once


@dataclass(frozen=True)
class EditOptions:
    """The edit: either `replace` with `source`, or `between` with `steps`.

    Attributes:
        replace: x, y, w, h in px of the 0.5 mpp raster, multiples of 256: tiles to be replaced.
        source: corner of the equally large block of tiles that replaces them.
        between: corners of two squares of tiles; the result is a strip that leads from one to the
            other.
        steps: squares of the strip, both ends included, 2 to 64.
        side: tiles along a square's side, 1 to 64.
        base: `auto` keeps the base layer if both archives' have the same level and codec; `none`
            drops it, so that everything is generated from embeddings.

    Raises:
        ConfigError: no edit, more than one, or a number out of its range.
    """

    replace: tuple[int, int, int, int] | None = None
    source: Place | None = None
    between: tuple[Place, Place] | None = None
    steps: int = 8
    side: int = 4
    base: Literal["auto", "none"] = "auto"

    def __post_init__(self) -> None:
        if (self.replace is None) != (self.source is None):
            raise ConfigError("to replace tissue takes both: a region, and a place to take it from")
        if (self.replace is None) == (self.between is None):
            raise ConfigError(
                "expected one thing to do: replace a region (--replace with --with), or "
                "interpolate between two places (--interpolate)"
            )
        if not 2 <= self.steps <= MOST_STEPS:
            raise ConfigError(f"steps is {self.steps}; expected 2 to {MOST_STEPS}")
        if not 1 <= self.side <= MOST_SIDE:
            raise ConfigError(f"side is {self.side}; expected 1 to {MOST_SIDE} tiles")
        if self.base not in ("auto", "none"):
            raise ConfigError(f"base {self.base!r}; expected auto or none")


@dataclass(frozen=True)
class EditReport(Report):
    """What `edit` did.

    Attributes:
        archive: the edited archive.
        output: the new archive.
        edit: the edit as recorded in its manifest: kind, region, origins, steps, base.
        size: width and height (px) of its 0.5 mpp raster.
        tissue_tiles: tissue tiles before and after.
        base_level: label of its base layer's level, None if it has no base layer.
        base_chunks: number of chunks of the base layer, and number encoded again.
        latents_dropped: whether latents for training were left out; they belong to the old grid.
        cosine_min: cosine between the worst tile's embedding and its stored form.
        cosines: for an interpolation, the mean cosine of each step's tissue tiles to those of the
            first and of the last square.
        bytes: size of the new archive.
        seconds: time taken.
    """

    archive: str
    output: str
    edit: dict[str, Any]
    size: tuple[int, int]
    tissue_tiles: tuple[int, int]
    base_level: str | None
    base_chunks: tuple[int, int]
    latents_dropped: bool
    cosine_min: float
    cosines: list[tuple[float, float]]
    bytes: int
    seconds: float


def edit(
    archive: Path | RemotePath | str,
    out: Path | str,
    options: EditOptions,
    *,
    progress: Progress | None = None,
) -> EditReport:
    """Write an archive with replaced tissue, or a strip of tissue that interpolates two places.

    Images are generated from an archive's grid, so the surroundings of a transplant are generated
    to fit it, as everywhere else. No network is needed: the result is an ordinary archive, and its
    manifest records the edit.

    Args:
        archive: a .zldm file or its URL, like the archives named in places.
        out: another file, or an existing folder.
        options: the edit.
        progress: called as chunks of the base layer are done.

    Raises:
        ArchiveError: not an archive, or archives of different patch encoders.
        RegionError: a region that does not consist of whole tiles, or is not inside.
        TargetError: the target can't be written, or is one of the archives.

    Examples:
        >>> from zoomldm.editing.places import parse_place
        >>> options = zoomldm.EditOptions(replace=(0, 0, 256, 256), source=parse_place("512,256"))
        >>> zoomldm.edit("slide.zldm", "edited.zldm", options).edit["kind"]
        'transplant'
    """
    start, path = time.monotonic(), as_path(archive)
    target = _target(Path(out), path)
    progress = progress or silent
    with ExitStack() as stack:
        edited = stack.enter_context(open_archive(path))
        places = [options.source] if options.source else list(options.between or ())
        opened = [
            edited if p.archive is None else stack.enter_context(open_archive(p.archive))
            for p in places
            if p is not None
        ]
        for other in (edited, *opened):
            _check_encoder(edited, other)
            if isinstance(other.path, Path) and target.exists() and target.samefile(other.path):
                raise TargetError(f"{target}: is read here; give another name with -o")
        stack.enter_context(claim(target))
        if options.source:
            done, chunks = _transplanted(edited, opened[0], target, options, progress)
        else:
            done, chunks = _interpolated(edited, opened, target, options), (0, 0)
    with open_archive(target) as new:
        m = new.manifest
        return EditReport(
            archive=str(path),
            output=str(target),
            edit=done.model_dump(mode="json"),
            size=new.size,
            tissue_tiles=(edited.manifest.tissue_tiles, m.tissue_tiles),
            base_level=NAMES[m.base.level] if m.base else None,
            base_chunks=chunks,
            latents_dropped=bool(edited.manifest.latents),
            cosine_min=m.quantisation.cosine_min,
            cosines=_cosines(new, options) if options.between else [],
            bytes=new.file_bytes,
            seconds=round(time.monotonic() - start, 2),
        )


def _target(out: Path, archive: Path | RemotePath) -> Path:
    if out.suffix == ENDING:
        return out
    if out.is_dir():
        return out / f"{archive.stem}.edited{ENDING}"
    raise TargetError(f"{out}: expected a name ending in {ENDING} or an existing folder")


def _check_encoder(archive: Archive, other: Archive) -> None:
    own, its = archive.manifest.encoder, other.manifest.encoder
    if (own.digest, own.dim) != (its.digest, its.dim):
        raise ArchiveError(
            f"{other.path}: was made by patch encoder {its.id!r} ({its.digest[:12]}), "
            f"{archive.path} by {own.id!r} ({own.digest[:12]}); compress both with one"
        )


def _origin(archive: Archive, place: Place) -> Origin:
    return Origin(archive=archive.path.name, digest=archive.digest, x=place.x, y=place.y)


def _header(archive: Archive, slide: SlideInfo, edits: list[Edit]) -> Header:
    m = archive.manifest
    return Header(
        slide=slide,
        tissue=m.tissue,
        encoder=m.encoder,
        autoencoder=None,
        pipeline=None,
        creator=f"zoomldm {__version__}",
        edits=edits,
    )


def _transplanted(
    archive: Archive, source: Archive, target: Path, options: EditOptions, progress: Progress
) -> tuple[Edit, tuple[int, int]]:
    assert options.replace is not None and options.source is not None
    place, window = options.source, options.replace
    block = block_of(archive, *window, what="region")
    taken = block_of(source, place.x, place.y, *window[2:], what=f"{source.path.name}@")
    base, outcome = spliced_base(archive, source)
    if options.base == "none" and base is not None:
        base, outcome = None, "dropped, as asked"
    done = Edit(kind="transplant", region=window, origins=[_origin(source, place)], base=outcome)
    mask = archive.mask
    block.of(mask)[:] = taken.of(source.mask)
    slide = archive.manifest.slide.model_copy(update={"content": None})
    header = _header(archive, slide, [*archive.manifest.edits, done])
    chunks = 0, 0
    with ArchiveWriter(
        target,
        header,
        archive.background,
        archive.manifest.quantisation.wanted,  # type: ignore
    ) as writer:
        for first in range(0, archive.rows, _ROWS):
            rows = min(_ROWS, archive.rows - first)
            strip = embeddings_of(archive, Block(first, 0, rows, archive.cols))
            low, high = max(first, block.row), min(first + rows, block.row + block.rows)
            if low < high:
                part = Block(taken.row + low - block.row, taken.col, high - low, taken.cols)
                strip[low - first : high - first, block.col : block.col + block.cols] = (
                    embeddings_of(source, part)
                )
            places = np.argwhere(mask[first : first + rows])
            writer.add_embeddings(np.add(places, (first, 0)), strip[places[:, 0], places[:, 1]])
        unreadable = [t for t in archive.manifest.unreadable if not _holds(block, *t)]
        writer.add_unreadable(np.array(unreadable, int).reshape(-1, 2))
        if base is not None:
            chunks = add_spliced(writer, archive, source, block, taken, mask, progress)
    return done, chunks


def _holds(block: Block, row: int, col: int) -> bool:
    down, right = row - block.row, col - block.col
    return 0 <= down < block.rows and 0 <= right < block.cols


def _interpolated(
    archive: Archive, opened: list[Archive], target: Path, options: EditOptions
) -> Edit:
    assert options.between is not None
    side, steps = options.side, options.steps
    ends, masks = [], []
    for place, source in zip(options.between, opened, strict=True):
        what = f"{source.path.name}@"
        block = block_of(source, place.x, place.y, side * TILE, side * TILE, what=what)
        ends.append(embeddings_of(source, block))
        masks.append(block.of(source.mask))
        if not masks[-1].any():
            raise RegionError(f"{source.path}: no tissue in {block.window}; give another place")
    width, height = steps * side * TILE, side * TILE
    done = Edit(
        kind="interpolation",
        region=(0, 0, width, height),
        origins=[_origin(a, p) for a, p in zip(opened, options.between, strict=True)],
        steps=steps,
        base="none: what lies between two places has no real pixels",
    )
    slide = SlideInfo(
        name=f"{opened[0].path.stem} to {opened[1].path.stem}",
        file_bytes=0,  # there is no slide of it
        native_size=(width, height),
        size=(width, height),
        mpp_x=BASE_MPP,
        mpp_y=BASE_MPP,
        mpp_source="interpolation",
        vendor="zoomldm",
        icc=None,
    )
    precision: Any = archive.manifest.quantisation.wanted
    header = _header(archive, slide, [done])
    with ArchiveWriter(target, header, archive.background, precision) as writer:
        for step in range(steps):
            fraction = step / (steps - 1)
            tissue = masks[0] if step == 0 else masks[1] if fraction == 1 else masks[0] | masks[1]
            places = np.argwhere(tissue)
            values = interpolated(ends[0], ends[1], fraction)[tissue]
            writer.add_embeddings(np.add(places, (0, step * side)), values)
    return done


def interpolated(
    a: NDArray[np.float32], b: NDArray[np.float32], fraction: float
) -> NDArray[np.float32]:
    """Embeddings (..., D) between a (fraction 0) and b (1), along the arc between them.

    Directions rotate by equal angles and lengths change linearly; parallel ones are interpolated
    linearly.
    """
    lengths = [np.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b)]
    one, other = (v / np.maximum(n, 1e-12) for v, n in zip((a, b), lengths, strict=True))
    angle = np.arccos(np.clip((one * other).sum(-1, keepdims=True), -1, 1))
    straight = (angle < 0.03) | (angle > np.pi - 0.03)
    sine = np.where(straight, 1.0, np.sin(angle))
    first = np.where(straight, 1 - fraction, np.sin((1 - fraction) * angle) / sine)
    second = np.where(straight, fraction, np.sin(fraction * angle) / sine)
    length = (1 - fraction) * lengths[0] + fraction * lengths[1]
    return ((first * one + second * other) * length).astype(np.float32)


def _cosines(strip: Archive, options: EditOptions) -> list[tuple[float, float]]:
    """For each step, the mean cosine of its tissue tiles to the first and the last square's."""
    side, steps = options.side, options.steps
    blocks = [Block(0, step * side, side, side) for step in range(steps)]
    first, last = (embeddings_of(strip, blocks[i]).reshape(side * side, -1) for i in (0, -1))
    found = []
    for block in blocks:
        tissue = block.of(strip.mask).ravel()
        own = embeddings_of(strip, block).reshape(side * side, -1)[tissue]
        ends = (float(cosines(own, end[tissue]).mean()) for end in (first, last))
        found.append((round(next(ends), 4), round(next(ends), 4)))
    return found
