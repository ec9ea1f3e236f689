"""Slide to archive: every tissue tile becomes one embedding, and little else is stored."""

import logging
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from zoomldm import __version__
from zoomldm.archive import Archive, ArchiveWriter, open_archive, verify_archive
from zoomldm.archive.embeddings import Precision
from zoomldm.archive.image_codecs import resolve_quality
from zoomldm.archive.manifest import Encoder, Header, Network, SlideInfo, TissueInfo
from zoomldm.compression.base import add_base, choose_level
from zoomldm.compression.latents import add_latents
from zoomldm.encoders import EncoderOptions, PatchEncoder, PipelineEncoder, load_encoder
from zoomldm.errors import ArchiveError, ConfigError, SlideError, TargetError
from zoomldm.files import claim
from zoomldm.geometry.lattice import patch_offsets
from zoomldm.geometry.levels import COUNT, NAMES, TILE, parse_level
from zoomldm.geometry.orientation import TURNS
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.pipeline import ZoomLDMPipeline, load_pipeline
from zoomldm.slides import Slide, open_slide
from zoomldm.slides.tiles import read_tiles
from zoomldm.slides.tissue import VIEW_LEVEL, Tissue, TissueMode, find_tissue
from zoomldm.slides.turned import TurnedSlide
from zoomldm.verbs import Progress, Report, silent

_log = logging.getLogger(__name__)

ENDING = ".zldm"
MOST_UNREADABLE = 0.01


@dataclass(frozen=True)
class CompressOptions:
    """What is stored of a slide.

    Attributes:
        base: label of the base layer's level, or `none`; None takes 5x, or the slide's own level
            if that is coarser.
        base_codec: `avif`, `jpegxl`, `webp`, `jpeg`, or `png`, which is lossless.
        base_quality: codec quality, 1 to 100; None chooses it, like AVIF's of 24 to 60 at 5x.
        ratio: target ratio of the slide's file size to the archive's, over 1; the base layer gets
            the bytes that the embeddings leave.
        precision: of the embeddings: `compact` (in a basis computed for the slide, if that takes
            fewer bytes than int8), `int8` or `float16`; each keeps cosine 0.999.
        mpp: micrometres per pixel of the slide, if the file states none or a wrong one.
        tissue: `otsu`, or `all` for every tile.
        for_training: also store training data: a lossless base layer at 5x, which provides the
            latents of all levels; for pipelines with other latents, the latents of patches at
            every level.
        turn: reorient the slide first, 0 to 7 (see `zoomldm.geometry.orientation`), for more
            training data. The archive's name then ends in `.turnN`.
    """

    base: str | None = None
    base_codec: str = "avif"
    base_quality: int | None = None
    ratio: float = 45.0
    precision: Precision = "compact"
    mpp: float | None = None
    tissue: TissueMode = "otsu"
    for_training: bool = False
    turn: int = 0

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision {self.precision!r}; expected compact, int8 or float16")
        if self.tissue not in ("otsu", "all"):
            raise ConfigError(f"tissue {self.tissue!r}; expected otsu or all")
        resolve_quality(self.base_codec, self.base_quality)
        if self.base_quality is not None and not self.has_base:
            raise ConfigError("a base quality without a base layer; leave it out")
        if not (math.isfinite(self.ratio) and self.ratio > 1):
            raise ConfigError(f"ratio is {self.ratio:g}; expected more than 1")
        if not 0 <= self.turn < TURNS:
            raise ConfigError(f"turn is {self.turn}; expected 0 to {TURNS - 1}")
        self.base_wanted  # noqa: B018

    @property
    def has_base(self) -> bool:
        """Whether a base layer is stored at all."""
        return self.base is None or self.base.lower() != "none"

    @property
    def ratio_wanted(self) -> float | None:
        """The ratio that a quality is chosen for; None if one is given or none is needed."""
        lossless = resolve_quality(self.base_codec, None) is None
        named = not self.has_base or lossless or self.base_quality is not None
        return None if named else self.ratio

    @property
    def base_wanted(self) -> int | None:
        """The requested level, None if none is given."""
        return parse_level(self.base) if self.base is not None and self.has_base else None


@dataclass(frozen=True)
class CompressReport(Report):
    """What `compress` did.

    Attributes:
        slide: the slide's path.
        archive: the archive's path.
        tissue_tiles: tiles stored.
        unreadable: (row, column) of tissue tiles that could not be read.
        unreadable_patches: number of training patches left out because part of them can't be read,
            by level; levels without any are omitted.
        grid: rows and columns.
        bytes: size of the archive.
        source_bytes: size of the slide's file.
        raw_bytes: size of the 0.5 mpp raster at 3 bytes a pixel.
        base_bytes: size of the base layer's chunks.
        base_quality: quality of the base layer's codec; None if it is lossless or there is no base.
        cosine_min: cosine between the worst tile's embedding and its stored form.
        ratio: source_bytes / bytes.
        seconds: time taken.
        done_before: whether the archive already existed, made with the same options.
    """

    slide: str
    archive: str
    tissue_tiles: int
    unreadable: list[tuple[int, int]]
    grid: tuple[int, int]
    bytes: int
    source_bytes: int
    raw_bytes: int
    base_bytes: int
    cosine_min: float
    ratio: float
    seconds: float
    done_before: bool = False
    base_quality: int | None = None
    unreadable_patches: dict[str, int] = field(default_factory=dict)


def archive_path(slide: Path, out: Path, orientation: int = 0) -> Path:
    """Path of a slide's archive: `out` itself, or a file in the folder `out`.

    Raises:
        TargetError: `out` is neither a name ending in .zldm nor an existing folder.
    """
    if out.suffix == ENDING:
        return out
    if out.is_dir():
        return out / f"{slide.stem}{f'.turn{orientation}' if orientation else ''}{ENDING}"
    raise TargetError(f"{out}: expected a name ending in {ENDING} or an existing folder")


def compress(
    slide: Path | str,
    out: Path | str,
    options: CompressOptions | None = None,
    *,
    pipeline: str | ZoomLDMPipeline = "demo",
    name: str | None = None,
    encoder: str | PatchEncoder | None = None,
    encoder_options: EncoderOptions | None = None,
    progress: Progress | None = None,
) -> CompressReport:
    """Compress one slide into one archive.

    Args:
        slide: any slide that `open_slide` opens.
        out: file ending in .zldm, or an existing folder.
        options: what is stored.
        pipeline: the pipeline, its id or its directory; provides the patch encoder and, for
            training archives, the autoencoder.
        name: the pipeline's name in the archive, if `pipeline` is not a name itself.
        encoder: patch encoder to use instead of the pipeline's: a loaded one, or any argument of
            `load_encoder` (an id such as `uni`, a path, a pipeline).
        encoder_options: how it runs, unless it is already loaded.
        progress: called as tiles, patches and the base layer are done.

    Raises:
        SlideError: not a slide, no scale, no tissue, or over 1 % of its tiles unreadable.
        TargetError: the target can't be written, another process is writing it, or it is the
            archive of another slide.

    Examples:
        >>> import zoomldm
        >>> options = zoomldm.CompressOptions(base="10x", tissue="all")
        >>> report = zoomldm.compress("slide.tif", "all.zldm", options, pipeline="tiny")
        >>> report.grid, report.tissue_tiles, report.done_before
        ((4, 4), 16, False)
        >>> zoomldm.compress("slide.tif", "all.zldm", options, pipeline="tiny").done_before
        True
    """
    options = options or CompressOptions()
    slide, start = Path(slide), time.monotonic()
    target = archive_path(slide, Path(out), options.turn)
    model = load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    label = name or (pipeline if isinstance(pipeline, str) else "unnamed")
    stored = options.for_training  # whether latents are stored as such
    if options.for_training and isinstance(model.vae, LowPassAutoencoder):
        stored = False
        options = replace(options, base=NAMES[2], base_codec="png", base_quality=None)
    if encoder is None:
        source: PatchEncoder = PipelineEncoder(model, label, encoder_options)
    elif isinstance(encoder, str):
        source = load_encoder(encoder, model.device, encoder_options)
    else:
        source = encoder
    progress = progress or silent
    with claim(target), _opened(slide, options) as opened:
        networks = _networks(model, source, label, stored)
        base = choose_level(opened, options.base_wanted) if options.has_base else None
        info = _slide_info(opened, options)
        if _is_done(target, info, networks, base, options):
            return _report(opened, target, start, done_before=True)
        progress("finding tissue", 0, 1)
        tissue = find_tissue(opened, options.tissue, keep_view=base == VIEW_LEVEL)
        progress("finding tissue", 1, 1)
        header = Header(
            slide=info,
            tissue=TissueInfo(
                mode=options.tissue, threshold=tissue.threshold, view_mpp=tissue.view_mpp
            ),
            creator=f"zoomldm {__version__}",
            **networks,
        )
        white = np.full((1, TILE, TILE, 3), 255, np.uint8)
        background = source.encode_tiles(np.repeat(white, source.batch, 0))[0]
        with ArchiveWriter(target, header, background, options.precision) as writer:
            lost = _embed(opened, tissue, source, writer, progress)
            writer.add_unreadable(lost)
            if base is not None:
                codec, quality = options.base_codec, options.base_quality
                ratio = options.ratio_wanted
                add_base(opened, tissue, writer, base, codec, quality, progress, ratio)
            if stored:
                add_latents(opened, tissue.mask, model, writer, progress)
        return _report(opened, target, start)


def _opened(path: Path, options: CompressOptions) -> Slide:
    slide = open_slide(path, options.mpp)
    return TurnedSlide(slide, options.turn) if options.turn else slide


def _networks(
    model: ZoomLDMPipeline,
    source: PatchEncoder,
    name: str,
    latents: bool,
) -> dict[str, Any]:
    return {
        "encoder": Encoder(id=source.id, digest=source.digest, dim=source.embedding_dim),
        "autoencoder": Network(id=name, digest=model.digest("vae")) if latents else None,
        "pipeline": Network(id=name, digest=model.digest()) if latents else None,
    }


def _slide_info(slide: Slide, options: CompressOptions) -> SlideInfo:
    return SlideInfo(
        name=slide.path.name,
        file_bytes=slide.file_bytes,
        native_size=slide.native_size,
        size=slide.size,
        mpp_x=slide.mpp_x,
        mpp_y=slide.mpp_y,
        mpp_source=slide.mpp_source,
        vendor=slide.vendor,
        icc=slide.icc,
        turn=options.turn,
        content=slide.content(),
    )


def _is_done(
    target: Path,
    slide: SlideInfo,
    networks: dict[str, Any],
    base: int | None,
    options: CompressOptions,
) -> bool:
    """Whether the target is a sound archive of this slide, made with these options.

    Raises:
        TargetError: it is one of another slide.
    """
    if not target.is_file():
        return False
    try:
        with open_archive(target) as archive:
            m = archive.manifest
    except ArchiveError:
        return False
    if m.edits or m.generated:
        kind = "an edited archive" if m.edits else "an imaginary slide"
        raise TargetError(f"{target}: is {kind}; give another name with -o, or remove it")
    # Archives before version 1.2 can't tell slides of equal size apart: they are made again.
    known = m.slide.content is not None
    another = m.slide.content != slide.content
    if another if known else m.slide.file_bytes not in (0, slide.file_bytes):
        raise TargetError(
            f"{target}: is the archive of another slide of that name ({m.slide.file_bytes} bytes, "
            f"{m.slide.native_size[0]} x {m.slide.native_size[1]} px); give another name with -o, "
            "or remove it"
        )
    ratio = options.ratio_wanted
    quality = None if ratio else resolve_quality(options.base_codec, options.base_quality)
    wanted = (base, options.base_codec, quality, ratio) if base is not None else None
    stored = None
    if m.base:
        found = None if m.base.ratio else m.base.quality
        stored = m.base.level, m.base.codec, found, m.base.ratio
    same = (
        m.slide == slide
        and m.encoder.digest == networks["encoder"].digest
        and m.tissue.mode == options.tissue
        and m.quantisation.wanted == options.precision
        and stored == wanted
        and m.overview is None
        and m.autoencoder == networks["autoencoder"]
    )
    return same and not verify_archive(target)


def _report(slide: Slide, target: Path, start: float, done_before: bool = False) -> CompressReport:
    with open_archive(target) as archive:
        m = archive.manifest
        lost = _patches_left_out(archive)
    size = target.stat().st_size
    return CompressReport(
        slide=str(slide.path),
        archive=str(target),
        tissue_tiles=m.tissue_tiles,
        unreadable=[(int(r), int(c)) for r, c in m.unreadable],
        grid=(m.grid.rows, m.grid.cols),
        bytes=size,
        source_bytes=slide.file_bytes,
        raw_bytes=slide.size[0] * slide.size[1] * 3,
        base_bytes=m.base_bytes,
        base_quality=m.base.quality if m.base else None,
        cosine_min=m.quantisation.cosine_min,
        ratio=slide.file_bytes / size,
        seconds=time.monotonic() - start,
        done_before=done_before,
        unreadable_patches=lost,
    )


def _patches_left_out(archive: Archive) -> dict[str, int]:
    """Number of training patches missing from an archive, by level."""
    m = archive.manifest
    if m.autoencoder is None:
        return {}
    mask = archive.mask.copy()
    for row, col in m.unreadable:
        mask[row, col] = True
    held = {part.level: part.count for part in m.latents}
    lost = {k: len(patch_offsets(mask, k)) - held.get(k, 0) for k in range(COUNT)}
    found = {NAMES[k]: n for k, n in lost.items() if n > 0}
    if found:
        counts = ", ".join(f"{n} at {level}" for level, n in found.items())
        _log.warning("%s: training patches left out, unreadable: %s", archive.path, counts)
    return found


def _embed(
    slide: Slide, tissue: Tissue, source: PatchEncoder, writer: ArchiveWriter, progress: Progress
) -> list[tuple[int, int]]:
    """Embed all tissue tiles and return those that could not be read."""
    lost: list[tuple[int, int]] = []
    total, done = tissue.tiles, 0
    positions: list[tuple[int, int]] = []
    # The last batch is padded, so that a result never depends on the rest of its batch.
    tiles = np.empty((source.batch, TILE, TILE, 3), np.uint8)

    def flush() -> None:
        if positions:
            writer.add_embeddings(positions, source.encode_tiles(tiles)[: len(positions)])
            positions.clear()

    for position, pixels in read_tiles(slide, tissue.mask, source.batch):
        done += 1
        if pixels is None:
            lost.append(position)
            if len(lost) > MOST_UNREADABLE * total:
                raise SlideError(
                    f"{slide.path}: over {MOST_UNREADABLE:.0%} of its {total} tissue tiles can't "
                    f"be read (the last at row {position[0]}, column {position[1]}); "
                    "the file is damaged"
                )
            continue
        tiles[len(positions)] = pixels
        positions.append(position)
        if len(positions) == source.batch:
            flush()
            progress("embedding tiles", done, total)
    flush()
    progress("embedding tiles", total, total)
    return lost
