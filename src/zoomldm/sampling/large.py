"""Large images of tissue, by the released method or the pyramid."""

import hashlib
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoomldm import __version__
from zoomldm.archive import open_archive
from zoomldm.archive.base import halve
from zoomldm.caching import Recent
from zoomldm.diffusion.joint import JointSettings
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import TILE
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline, load_pipeline
from zoomldm.rendering.opening import open_renderer
from zoomldm.rendering.pyramid import Pyramid
from zoomldm.rendering.render_cache import RenderCache
from zoomldm.rendering.renderer import RULES
from zoomldm.sampling.joint import JointSampler, guide_side
from zoomldm.sampling.large_input import LargeInput, read_input
from zoomldm.sampling.output import PNG, Levels, check_output, claimed, ending, write_levels
from zoomldm.sampling.pieces import Pieces, resumable_pieces
from zoomldm.sampling.temporary_archive import write_temporary_archive
from zoomldm.verbs import Progress, Report, silent

METHODS = ("pyramid", "joint")
_MEMORY = 256 << 20


@dataclass(frozen=True)
class LargeOptions:
    """What a large image depends on besides its input and the pipeline.

    Attributes:
        size: width and height (px at 0.5 mpp), multiples of 256.
        method: `pyramid`: octaves from a coarse image, which is generated too; `joint`: tiles and
            their view at a lower magnification denoised side by side, as published.
        seed: seed of the noise.
        batch: patches per network call; None means 1 on a CPU and 32 on a GPU.
        guide: `joint`: tiles along a side of a view's block: 2, 4, 8 or 16; None means the largest
            that divides both sides.
        settings: `joint`: its constants, as released.
        exact_time: `joint`: give the denoiser the time of its noise, t - 1, rather than t as the
            released code does; None: exact, except for converted released pipelines.

    Raises:
        ConfigError: a value out of its range.
    """

    size: tuple[int, int]
    method: Literal["pyramid", "joint"] = "pyramid"
    seed: int = 0
    batch: int | None = None
    guide: int | None = None
    settings: JointSettings = field(default_factory=JointSettings)
    exact_time: bool | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"method {self.method!r}; expected {' or '.join(METHODS)}")
        self.rendering  # noqa: B018

    @property
    def rendering(self) -> RenderOptions:
        """Seed and batch as rendering options."""
        return RenderOptions(seed=self.seed, batch=self.batch, method="pyramid")


@dataclass(frozen=True)
class LargeReport(Report):
    """Summary of what `large` generated.

    Attributes:
        output: the file or folder.
        source: what the image was generated from.
        size: width, height (px).
        method: `pyramid` or `joint`.
        tiles: number of 20x patches.
        evaluations: evaluations of the denoiser, one patch each; for `pyramid` in this run only.
        evaluations_per_tile: the same divided by the number of tiles.
        guide: `joint`: tiles along a side of a view's block; None for the pyramid.
        agreement: `joint`: mean difference, in 1/255, of the averaged image from its views.
        settings: further settings that the pixels depend on.
        pipeline_digest: digest of the pipeline.
        origin: `generated`, as all of it is.
        seconds: duration.
    """

    output: str
    source: dict[str, Any]
    size: tuple[int, int]
    method: str
    tiles: int
    evaluations: int
    evaluations_per_tile: float
    guide: int | None
    agreement: float | None
    settings: dict[str, Any]
    pipeline_digest: str
    origin: str
    seconds: float


def large(
    source: Path | str,
    out: Path | str,
    options: LargeOptions,
    *,
    pipeline: str | Path | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
) -> LargeReport:
    """Generate a large image at 20x from a grid of embeddings; its provenance is written beside it.

    An interrupted run resumes when it is started again.

    Args:
        source: an archive (with `@X,Y` for a corner), an image of one tile, or a .npy grid; see
            `read_input`.
        out: its ending determines the format, as in `decompress`.
        options: size, method and the method's settings.
        pipeline: `demo`, a directory or a loaded pipeline; `joint` takes released ones too.
        progress: called with `steps` and `tiles`.

    Raises:
        ConfigError: a size that is no multiple of 256 or of over a million tiles, an unknown
            ending, or an unsupported input.
        RegionError: a region outside the archive, or a .png of over 64 megapixels.
        PipelineError: `pyramid` for a pipeline whose denoiser takes no parent.
        ArchiveError: an archive made by another patch encoder.
        TargetError: the output can't be written.

    Examples:
        >>> from zoomldm.diffusion.joint import JointSettings
        >>> quick = JointSettings(start=50, inner=0, seams=0)
        >>> options = zoomldm.LargeOptions(size=(512, 512), method="joint", settings=quick)
        >>> zoomldm.large("slide.zldm", "large.png", options, pipeline="pipeline").tiles
        4
    """
    began, target, report = time.monotonic(), Path(out), progress or silent
    loaded = pipeline if isinstance(pipeline, ZoomLDMPipeline) else load_pipeline(str(pipeline))
    if options.method == "pyramid" and not isinstance(loaded.unet, OctaveDenoiser):
        raise PipelineError(
            "this pipeline's denoiser takes no parent, so it can't draw a pyramid; choose method "
            "joint"
        )
    check_output(target, options.size)
    given = read_input(str(source), options.size, loaded)
    draw = _pyramid if options.method == "pyramid" else _joint
    begun = {
        **_provenance(given, options, loaded),
        "grid": hashlib.sha256(np.ascontiguousarray(given.grid).tobytes()).hexdigest(),
        "settings": asdict(options),
        "batch": options.rendering.batch_on(loaded.device),
    }
    with claimed(target), resumable_pieces(target, begun) as pieces:
        found = draw(given, target, options, loaded, report, pieces)
    tiles = options.size[0] * options.size[1] // TILE**2
    return LargeReport(
        output=str(target),
        source=given.source,
        size=options.size,
        method=options.method,
        tiles=tiles,
        evaluations=found["evaluations"],
        evaluations_per_tile=round(found["evaluations"] / tiles, 2),
        guide=found.get("guide"),
        agreement=found.get("agreement"),
        settings=found["settings"],
        pipeline_digest=loaded.digest(),
        origin="generated",
        seconds=round(time.monotonic() - began, 2),
    )


def _provenance(
    given: LargeInput, options: LargeOptions, pipeline: ZoomLDMPipeline
) -> dict[str, Any]:
    return {
        "kind": "large",
        "origin": "generated",
        "source": given.source,
        "size": list(options.size),
        "method": options.method,
        "seed": options.seed,
        "pipeline_digest": pipeline.digest(),
        "rules": RULES,
        "creator": f"zoomldm {__version__}",
    }


def _pyramid(
    given: LargeInput,
    target: Path,
    options: LargeOptions,
    pipeline: ZoomLDMPipeline,
    progress: Progress,
    pieces: Pieces,
) -> dict[str, Any]:
    # The export stores finished tiles for resuming; a .png, written in one go, needs pieces.
    cache = RenderCache(Recent(_MEMORY), pieces if ending(target) == PNG else None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.zldm"
        write_temporary_archive(path, "grid", pipeline, given.grid)
        with (
            open_archive(path) as archive,
            open_renderer(archive, pipeline, options.rendering, cache=cache) as pyramid,
        ):
            assert isinstance(pyramid, Pyramid)
            settings = asdict(pyramid.options)
            provenance = {**_provenance(given, options, pipeline), "settings": settings}
            levels = Levels(lambda *place: pyramid.read(0, *place), options.size, 0)
            write_levels(target, levels, provenance, progress)
            count = pyramid.cost.windows * len(pyramid.latents.times)
            both = 1 if pyramid.options.guidance == 1 else 2
    return {"evaluations": count * both, "settings": settings}


def _joint(
    given: LargeInput,
    target: Path,
    options: LargeOptions,
    pipeline: ZoomLDMPipeline,
    progress: Progress,
    pieces: Pieces,
) -> dict[str, Any]:
    rows, cols = given.grid.shape[:2]
    side = guide_side(rows, cols, options.guide, pipeline.levels)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("steps", done, max(done, sampler.steps))

    sampler = JointSampler(
        pipeline,
        given.grid,
        side,
        options.settings,
        options.rendering,
        options.exact_time,
        advance,
        pieces,
    )
    pixels = sampler.image(target.parent)
    settings = {
        **asdict(options.settings),
        "guide": side,
        "exact_time": sampler.networks.exact_time,
        "batch": sampler.batch,
    }
    agreement = _agreement(pixels, sampler.guides, side)
    provenance = {
        **_provenance(given, options, pipeline),
        "settings": settings,
        "agreement": agreement,
    }
    levels = Levels(
        lambda x, y, w, h: np.ascontiguousarray(pixels[y : y + h, x : x + w]), options.size, 0
    )
    write_levels(target, levels, provenance, progress)
    return {
        "evaluations": sampler.evaluations,
        "settings": settings,
        "guide": side,
        "agreement": agreement,
    }


def _agreement(pixels: np.ndarray, guides: list[np.ndarray], side: int) -> float:
    """Mean difference, in 1/255, between averaged blocks and their guides."""
    span, level = side * TILE, side.bit_length() - 1
    places = [
        (y, x) for y in range(0, pixels.shape[0], span) for x in range(0, pixels.shape[1], span)
    ]
    differences = [
        np.abs(halve(np.asarray(pixels[y : y + span, x : x + span]), level).astype(int) - guide)
        for (y, x), guide in zip(places, guides, strict=True)
    ]
    return round(float(np.mean(differences)), 3)
