"""Imaginary slides: archives without an original slide, generated coarse to fine on demand."""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoomldm import __version__
from zoomldm.archive import (
    ArchiveWriter,
    Encoder,
    Generated,
    Header,
    Like,
    Network,
    SlideInfo,
    TissueInfo,
    open_archive,
)
from zoomldm.caching import Recent
from zoomldm.errors import ConfigError, PipelineError, TargetError
from zoomldm.files import claim
from zoomldm.generation.contexts import check_conditions
from zoomldm.generation.imagined import COARSE
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import BASE_MPP, COARSEST, NAMES, TILE, level_mpp
from zoomldm.networks.lowpass import planes_image
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline, load_pipeline
from zoomldm.pixels import to_pixels
from zoomldm.rendering.pyramid import Pyramid
from zoomldm.rendering.render_cache import RenderCache
from zoomldm.sampling.large_input import MOST_TILES
from zoomldm.sampling.options import ASKED
from zoomldm.sampling.pieces import Pieces, resumable_pieces
from zoomldm.sampling.reference import read_like
from zoomldm.slides.tissue import TISSUE_FRACTION, saturation_threshold
from zoomldm.verbs import Progress, Report, silent

ENDING = ".zldm"
SHOWN = COARSE + 2  # the level whose pixels are the coarse image's latents
ATTEMPTS = 16  # at a coarsest level that shows tissue
ENOUGH = 0.15  # fraction of its pixels whose saturation must be over `PALE`
PALE = 15  # saturation of glass with a faint tint from nearby tissue
_MEMORY = 256 << 20


@dataclass(frozen=True)
class SlideOptions:
    """What an imaginary slide is generated from.

    Attributes:
        size: width and height in mm; rounded up to whole tiles of 0.128 mm, a million at most.
            The coarsest generated level is the first, from 0.625x (4.1 mm a patch) on, of which
            one patch covers the slide.
        like: tissue that it should resemble, as for `read_like`: an archive, a tile's image, or
            `ARCHIVE@X,Y`.
        label: one of the embedding diffusion's labels.
        seed: another seed gives another slide.
        steps: steps of the embedding diffusion from the coarsest level to 0.625x, 1..1000.
        finer_steps: the same for finer levels, whose contexts are generated with each region.
        guidance: guidance for the levels of `steps`; None for 4 with `like` or `label`, otherwise
            1: off. Finer contexts follow from those above.
        batch: contexts and windows per network call; None for 1 on a CPU and 32 on a GPU.

    Raises:
        ConfigError: a value out of its range.
    """

    size: tuple[float, float] = (4.0, 3.0)
    like: str | None = None
    label: str | None = None
    seed: int = 0
    steps: int = 20
    finer_steps: int = 8
    guidance: float | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(side) and side > 0 for side in self.size):
            raise ConfigError(f"size {_mm(self.size)}: expected width and height in mm, over 0")
        rows, cols = self.grid
        if rows * cols > MOST_TILES:
            raise ConfigError(
                f"size {_mm(self.size)} is of {rows * cols:,} tiles; expected {MOST_TILES:,} at "
                "most, a square of 128 mm"
            )
        for name in ("steps", "finer_steps"):
            value = getattr(self, name)
            if not 1 <= value <= 1000:
                raise ConfigError(f"{name.replace('_', ' ')} is {value}; expected 1 to 1000")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise ConfigError(f"guidance is {self.guidance}; expected 0 to 100 (1 is none)")
        self.rendering  # noqa: B018

    @property
    def grid(self) -> tuple[int, int]:
        """Number of rows and columns of tiles."""
        rows, cols = (math.ceil(side * 1000 / BASE_MPP / TILE - 1e-9) for side in self.size[::-1])
        return rows, cols

    @property
    def rendering(self) -> RenderOptions:
        """Options for rendering the coarse image."""
        return RenderOptions(seed=self.seed, batch=self.batch, method="pyramid")


def _mm(size: tuple[float, float]) -> str:
    return f"{size[0]:g}x{size[1]:g} mm"


@dataclass(frozen=True)
class SlideReport(Report):
    """Summary of what `sample_slide` wrote.

    Attributes:
        output: the archive.
        size: width and height (px) of its 0.5 mpp raster.
        mm: the same in mm.
        tissue_tiles: number of tiles with tissue.
        tiles: number of all tiles.
        seed: the seed.
        steps: steps of the embedding diffusion at its coarse levels.
        finer_steps: the same at finer ones.
        guidance: guidance of the embedding diffusion at its coarse levels.
        label: the requested label, or None.
        like: origin of the tissue that it should resemble, or None.
        levels_drawn: levels that were generated with it; finer ones are generated on demand.
        pipeline_digest: digest of the pipeline.
        origin: `generated`, as all of it is.
        bytes: size of the archive.
        seconds: duration.
    """

    output: str
    size: tuple[int, int]
    mm: tuple[float, float]
    tissue_tiles: int
    tiles: int
    seed: int
    steps: int
    finer_steps: int
    guidance: float
    label: str | None
    like: Mapping[str, str | int] | None
    levels_drawn: tuple[str, ...]
    pipeline_digest: str
    origin: str
    bytes: int
    seconds: float


def sample_slide(
    out: Path | str,
    options: SlideOptions | None = None,
    *,
    pipeline: str | Path | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
) -> SlideReport:
    """Write an imaginary slide: an archive that opens like any other, and has no embeddings.

    Contexts are generated window by window, each under its parent's. Those down to 0.625x are
    generated now, with the latents under them. These form the coarse image of 64 um a pixel, which
    is stored as the base layer and determines where tissue is. The rest is generated on reading,
    as a function of archive, pipeline and position.

    If one patch of the coarsest level covers the slide, up to 16 are generated, until one shows
    tissue on 15 % of it; otherwise the one with the most is taken. An interrupted run resumes.

    Args:
        out: a name ending in .zldm.
        options: see SlideOptions.
        pipeline: has an octave denoiser, this project's embedding diffusion and six levels.
        progress: called with `looking for tissue` and attempts, `coarse image` and windows.

    Raises:
        ConfigError: unsupported conditions of the embedding diffusion, or only background.
        PipelineError: the pipeline lacks a required network.
        TargetError: the archive can't be written.

    Examples:
        >>> import zoomldm
        >>> options = zoomldm.SlideOptions(size=(0.5, 0.3), steps=1)
        >>> zoomldm.sample_slide("new.zldm", options, pipeline="tiny-octaves").size
        (1024, 768)
    """
    began, target, report = time.monotonic(), Path(out), progress or silent
    options = options or SlideOptions()
    if target.suffix != ENDING:
        raise TargetError(f"{target}: expected a name ending in {ENDING}")
    loaded = pipeline if isinstance(pipeline, ZoomLDMPipeline) else load_pipeline(str(pipeline))
    spec = _spec(options, loaded)
    with claim(target):
        whole = {
            **spec.model_dump(mode="json"),
            "size": list(options.grid),
            "pipeline": loaded.digest(),
            "batch": options.rendering.batch_on(loaded.device),
        }
        with resumable_pieces(target, whole) as pieces:
            spec = _with_tissue(spec, options, loaded, report)
            with _coarse_image(spec, options, loaded, pieces, report) as pyramid:
                shown = pyramid.read(SHOWN, 0, 0, *pyramid.size(SHOWN))
            mask, threshold = tissue_of(shown, options.grid)
            if mask.any():
                header = _header(target.stem, spec, options, loaded, threshold)
                _write(target, header, mask, shown)
    if not mask.any():
        raise ConfigError(
            f"{target}: seed {options.seed} gave nothing but background; give another --seed, or "
            "a larger --size"
        )
    with open_archive(target) as archive:
        rows, cols = options.grid
        return SlideReport(
            output=str(target),
            size=archive.size,
            mm=tuple(round(n * BASE_MPP / 1000, 3) for n in archive.size),  # type: ignore
            tissue_tiles=archive.manifest.tissue_tiles,
            tiles=rows * cols,
            seed=spec.seed,
            steps=spec.steps,
            finer_steps=spec.finer_steps,
            guidance=spec.guidance,
            label=spec.label,
            like=spec.reference.source if spec.reference else None,
            levels_drawn=NAMES[COARSE : spec.coarsest + 1],
            pipeline_digest=loaded.digest(),
            origin="generated",
            bytes=archive.file_bytes,
            seconds=round(time.monotonic() - began, 2),
        )


def _spec(options: SlideOptions, pipeline: ZoomLDMPipeline) -> Generated:
    if not isinstance(pipeline.unet, OctaveDenoiser):
        raise PipelineError(
            "this pipeline's denoiser takes no parent; an imaginary slide needs one of octaves"
        )
    if pipeline.levels <= COARSE:
        raise PipelineError(
            f"this pipeline knows {pipeline.levels} levels; an imaginary slide needs "
            f"{COARSE + 1}, to {NAMES[COARSE]}"
        )
    asked = options.like is not None or options.label is not None
    guidance = options.guidance
    if guidance is None:
        guidance = ASKED if asked else 1.0
    check_conditions(
        pipeline.embedding_diffusion, guidance, options.like is not None, True, options.label
    )
    like = None
    if options.like is not None:
        found = read_like(options.like, pipeline)
        like = Like(source=found.source, embedding=[float(v) for v in found.embedding])
    coarsest = max(COARSE, (max(options.grid) - 1).bit_length())  # one patch of it covers the slide
    return Generated(
        seed=options.seed,
        attempt=0,
        coarsest=min(coarsest, COARSEST, pipeline.levels - 1),
        steps=options.steps,
        finer_steps=options.finer_steps,
        solver="dpm-solver++",
        guidance=guidance,
        label=options.label,
        reference=like,
        summarizer=pipeline.digest("summarizer"),
        embedding_diffusion=pipeline.digest("embedding_diffusion"),
    )


def _header(
    name: str,
    spec: Generated,
    options: SlideOptions,
    pipeline: ZoomLDMPipeline,
    threshold: float,
) -> Header:
    rows, cols = options.grid
    size = cols * TILE, rows * TILE
    known = pipeline.patch_encoder is not None
    return Header(
        slide=SlideInfo(
            name=f"{name} (imaginary)",
            file_bytes=0,  # there is no original slide
            native_size=size,
            size=size,
            mpp_x=BASE_MPP,
            mpp_y=BASE_MPP,
            mpp_source="imaginary slide",
            vendor="zoomldm",
            icc=None,
        ),
        tissue=TissueInfo(mode="otsu", threshold=threshold, view_mpp=level_mpp(SHOWN)),
        encoder=Encoder(
            id="own",
            digest=pipeline.digest("patch_encoder") if known else "none",
            dim=pipeline.embedding_dim,
        ),
        autoencoder=None,
        pipeline=Network(id=str(pipeline.name_or_path or "own"), digest=pipeline.digest()),
        creator=f"zoomldm {__version__}",
        generated=spec,
    )


def _write(
    path: Path, header: Header, mask: NDArray[np.bool_], base: NDArray[np.uint8] | None
) -> None:
    background = np.zeros(header.encoder.dim, np.float32)
    with ArchiveWriter(path, header, background, "float16") as writer:
        writer.mark_tissue(mask)
        if base is not None:
            writer.add_base(SHOWN, base, "png")


@contextmanager
def _coarse_image(
    spec: Generated,
    options: SlideOptions,
    pipeline: ZoomLDMPipeline,
    pieces: Pieces | None = None,
    progress: Progress = silent,
) -> Iterator[Pyramid]:
    """The slide as a pyramid that begins at its coarsest level, with tissue everywhere."""
    rows, cols = options.grid
    header = _header("coarse", spec, options, pipeline, 0.0)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("coarse image", done, max(done, total))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coarse.zldm"
        _write(path, header, np.ones((rows, cols), bool), None)
        cache = RenderCache(Recent(_MEMORY), pieces)
        with (
            open_archive(path) as archive,
            Pyramid(archive, pipeline, options.rendering, cache, advance) as pyramid,
        ):
            counts = [pyramid.latents.counts(k) for k in range(COARSE, pyramid.latents.top + 1)]
            total = sum(a * b for a, b in counts)
            yield pyramid


def _with_tissue(
    spec: Generated, options: SlideOptions, pipeline: ZoomLDMPipeline, progress: Progress
) -> Generated:
    """The first attempt whose coarsest level shows enough tissue, else the one showing the most.

    A patch of a coarse level is mostly glass; a scanner, too, looks for tissue before it scans. A
    slide of several coarsest patches is taken as it comes.
    """
    best, most = spec, -1.0
    for attempt in range(ATTEMPTS):
        tried = spec.model_copy(update={"attempt": attempt})
        with _coarse_image(tried, options, pipeline) as pyramid:
            top = pyramid.latents.top
            if pyramid.latents.counts(top) != (1, 1):
                return spec
            width, height = (-(-n * TILE // (8 << top)) * 2 for n in options.grid[::-1])
            planes = pyramid.latents.field(top, 0, 0, height, width)
        tissue_fraction = float((saturation_of(to_pixels(planes_image(planes))[0]) > PALE).mean())
        progress("looking for tissue", attempt + 1, ATTEMPTS)
        if tissue_fraction > most:
            best, most = tried, tissue_fraction
        if tissue_fraction >= ENOUGH:
            break
    return best


def saturation_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Largest minus smallest of R, G and B."""
    return pixels.max(-1) - pixels.min(-1)


def tissue_of(shown: NDArray[np.uint8], grid: tuple[int, int]) -> tuple[NDArray[np.bool_], float]:
    """Which tiles are tissue in the coarse image, and the saturation threshold; see `find_tissue`.

    Args:
        shown: (h, w, 3) at `SHOWN`.
        grid: rows and columns of tiles.
    """
    saturation = saturation_of(shown)
    threshold = saturation_threshold(np.bincount(saturation.ravel(), minlength=256))
    side = max(1, TILE >> SHOWN)
    rows, cols = grid
    passing = np.zeros((rows * side, cols * side), bool)
    high, width = min(len(saturation), rows * side), min(saturation.shape[1], cols * side)
    passing[:high, :width] = saturation[:high, :width] > threshold
    tissue_fraction = passing.reshape(rows, side, cols, side).mean((1, 3))
    return tissue_fraction >= TISSUE_FRACTION, threshold
