"""Super-resolution of an image of known scale, by the pyramid or by the published inversion."""

import hashlib
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zoomldm import __version__
from zoomldm.archive import Archive, open_archive
from zoomldm.archive.base import halve
from zoomldm.diffusion.inversion import InversionSettings
from zoomldm.diffusion.joint import JointSettings
from zoomldm.errors import ConfigError, TargetError
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import BASE_MPP, COUNT, NAMES, level_mpp
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline, load_pipeline
from zoomldm.rendering.renderer import RULES
from zoomldm.sampling.inversion import JOINT, Inversion
from zoomldm.sampling.output import Levels, Read, check_output, claimed, write_levels
from zoomldm.sampling.pieces import resumable_pieces
from zoomldm.sampling.upscaler import ImagePyramid, Upscaler, write_image
from zoomldm.verbs import Progress, Report, silent

FACTORS = (2, 4, 8)
_EXACT = 0.005  # fraction by which an image's scale may differ from its level's
INVERTED = 3  # coarsest level of an image for inversion
_MOST = 1 << 28  # px of an image


@dataclass(frozen=True)
class UpscaleOptions:
    """How an image is upscaled.

    Attributes:
        mpp: micrometres per pixel of the image, about 1 to 64.
        factor: 2, 4 or 8; None means the one that leads to 20x, 8 at most.
        seed: seed of the noise.
        steps: evaluations of the denoiser per window and octave.
        batch: windows per network call; None means 1 on a CPU and 32 on a GPU.
        method: `pyramid`: the image as latents, octave by octave; `inversion`: as published, find
            the embeddings under which the image is likeliest, then joint sampling under it.
        inversion: constants of the search, as published.
        joint: constants of joint sampling, as published.

    Raises:
        ConfigError: a value out of its range.
    """

    mpp: float
    factor: int | None = None
    seed: int = 0
    steps: int | None = None
    batch: int | None = None
    method: Literal["pyramid", "inversion"] = "pyramid"
    inversion: InversionSettings = field(default_factory=InversionSettings)
    joint: JointSettings = JOINT

    def __post_init__(self) -> None:
        if self.method not in ("pyramid", "inversion"):
            raise ConfigError(f"method {self.method!r}; expected pyramid or inversion")
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ConfigError(f"mpp is {self.mpp}; expected micrometres per pixel, over 0")
        if self.factor is not None and self.factor not in FACTORS:
            raise ConfigError(f"factor is {self.factor}; expected 2, 4 or 8")
        if not 1 <= self.level < COUNT:
            raise ConfigError(
                f"mpp is {self.mpp:g}; expected about {level_mpp(1):g} to "
                f"{level_mpp(COUNT - 1):g}: {level_mpp(0):g} is the finest there is"
            )
        if self.finest < 0:
            raise ConfigError(
                f"factor {self.factor} from {self.mpp:g} um/px leads below {BASE_MPP:g}, the "
                f"finest there is; expected {2**self.level} at most"
            )
        if self.method == "inversion" and self.level > INVERTED:
            raise ConfigError(
                f"mpp is {self.mpp:g}; method inversion takes images of {level_mpp(1):g} to "
                f"{level_mpp(INVERTED):g}"
            )
        self.rendering  # noqa: B018

    @property
    def level(self) -> int:
        """The level whose mpp is nearest to the image's."""
        return round(math.log2(self.mpp / BASE_MPP))

    @property
    def octaves(self) -> int:
        """Number of doublings of the side."""
        return (self.factor or min(8, 2**self.level)).bit_length() - 1

    @property
    def finest(self) -> int:
        """Level of the output."""
        return self.level - self.octaves

    @property
    def rendering(self) -> RenderOptions:
        """These options as rendering options."""
        return RenderOptions(seed=self.seed, steps=self.steps, batch=self.batch, method="pyramid")


@dataclass(frozen=True)
class UpscaleReport(Report):
    """Summary of what `upscale` generated.

    Attributes:
        image: the input.
        output: the file or folder.
        size: width and height (px) of the input at its level's scale.
        level: label of its level.
        resampled: whether its scale differed from its level's, so that it was first resampled.
        output_size: width and height (px).
        output_level: label of the output's level.
        most_off: largest difference, in 1/255, between the averaged output and the (resampled)
            input, over what was generated.
        method: `pyramid` or `inversion`.
        evaluations: evaluations of the denoiser, one window or patch each.
        tiles: images of 256 px decoded by the pyramid.
        contexts: whether a context network predicted contexts from the image.
        pipeline_digest: digest of the pipeline.
        origin: `generated`, as everything finer than the input is.
        seconds: duration.
    """

    image: str
    output: str
    size: tuple[int, int]
    level: str
    resampled: bool
    output_size: tuple[int, int]
    output_level: str
    most_off: float
    method: str
    evaluations: int
    tiles: int
    contexts: bool
    pipeline_digest: str
    origin: str
    seconds: float


def upscale(
    image: Path | str,
    out: Path | str,
    options: UpscaleOptions,
    *,
    pipeline: str | Path | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
) -> UpscaleReport:
    """Enlarge an image 2, 4 or 8 times; averaged down, it equals the input within 1/255.

    By the pyramid: low-pass latents of level k are pixels of level k + 2, so an image of level k
    *is* the latents of level k - 2. The octaves between are generated, then the latents are
    decoded. Contexts are predicted by the pipeline's context network from what is known. Without
    such a network there are no contexts, as for one in ten samples in training. By inversion: see
    `Inversion`. Finally every pixel of the input gets its mean back. An interrupted run by
    inversion resumes when it is started again.

    Args:
        image: a file that Pillow opens, sRGB.
        out: its ending determines the format, as in `decompress`.
        options: scale, factor, and what the noise depends on.
        pipeline: `demo`, a directory or a loaded pipeline; `pyramid` needs an octave denoiser.
        progress: called with `tiles`, and by inversion with `inverting` and `steps`.

    Raises:
        ConfigError: not an image, an unknown ending, or a factor that leads below 0.5 mpp.
        PipelineError: a pipeline whose denoiser takes no parent.
        TargetError: the output can't be written, or is the input image.

    Examples:
        >>> from PIL import Image
        >>> Image.new("RGB", (64, 64), "pink").save("small.png")
        >>> options = zoomldm.UpscaleOptions(mpp=1)
        >>> zoomldm.upscale("small.png", "out.png", options, pipeline="tiny-octaves").output_size
        (128, 128)
    """
    began, target = time.monotonic(), Path(out)
    pixels, resampled = read_image(Path(image), options)
    if target.exists() and target.samefile(image):
        raise TargetError(f"{target}: is read here; give another name with -o")
    loaded = pipeline if isinstance(pipeline, ZoomLDMPipeline) else load_pipeline(str(pipeline))
    check_output(target, tuple(n << options.octaves for n in pixels.shape[1::-1]))  # type: ignore
    provenance: dict[str, Any] = {
        "kind": "upscaled",
        "origin": "generated",
        "image": Path(image).name,
        **_metadata(options),
        "resampled": resampled,
        "input_level": NAMES[options.level],
        "pipeline_digest": loaded.digest(),
        "rules": RULES,
        "creator": f"zoomldm {__version__}",
    }
    draw = _pyramid if options.method == "pyramid" else _inversion
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.zldm"
        write_image(path, pixels, options.level, loaded)
        with open_archive(path) as archive, claimed(target):
            assert archive.base is not None

            def written(read: Read, more: dict[str, Any]) -> Upscaler:
                assert archive.base is not None
                upscaler = Upscaler(archive.base, 1 << options.octaves, read)
                levels = Levels(upscaler.read, upscaler.size, options.finest)
                shown = [asdict(level) for level in levels.image.levels]
                whole = {**provenance, **more, "levels": shown}
                write_levels(target, levels, whole, progress or silent)
                return upscaler

            done = draw(archive, target, options, loaded, provenance, progress or silent, written)
    return UpscaleReport(
        image=str(image),
        output=str(target),
        size=(pixels.shape[1], pixels.shape[0]),
        level=NAMES[options.level],
        resampled=resampled,
        output_size=done.image.size,
        output_level=NAMES[options.finest],
        most_off=round(done.image.most_off, 3),
        method=options.method,
        evaluations=done.evaluations,
        tiles=done.tiles,
        contexts=done.contexts,
        pipeline_digest=loaded.digest(),
        origin="generated",
        seconds=round(time.monotonic() - began, 2),
    )


def _metadata(options: UpscaleOptions) -> dict[str, Any]:
    """Options for an output's metadata, without those of the other method."""
    found = asdict(options)
    if options.method == "pyramid":
        del found["inversion"], found["joint"]
    return found


@dataclass(frozen=True)
class _Done:
    image: Upscaler
    evaluations: int
    tiles: int = 0
    contexts: bool = False


Written = Callable[[Read, dict[str, Any]], Upscaler]


def _pyramid(
    archive: Archive,
    _target: Path,
    options: UpscaleOptions,
    pipeline: ZoomLDMPipeline,
    _provenance: dict[str, Any],
    _progress: Progress,
    written: Written,
) -> _Done:
    renderer = ImagePyramid(archive, pipeline, options.rendering, options.finest)
    times = renderer.pyramid.latents.times
    image = written(renderer.read, {"timesteps": list(times)})
    cost = renderer.pyramid.cost
    read = pipeline.context_network is not None and cost.windows > 0
    return _Done(image, cost.windows * len(times), cost.tiles, read)


def _inversion(
    archive: Archive,
    target: Path,
    options: UpscaleOptions,
    pipeline: ZoomLDMPipeline,
    provenance: dict[str, Any],
    progress: Progress,
    written: Written,
) -> _Done:
    assert archive.base is not None
    pixels = archive.base.read(0, 0, *archive.base.size)
    begun = {**provenance, "pixels": hashlib.sha256(pixels.tobytes()).hexdigest()}
    with resumable_pieces(target, begun) as pieces:
        inversion = Inversion(
            pixels,
            options.level,
            pipeline,
            options.inversion,
            options.joint,
            options.rendering,
            pieces,
            progress,
        )
        whole, finest = inversion.image(target.parent), options.finest

        def read(x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
            rows = slice(y << finest, (y + height) << finest)
            cols = slice(x << finest, (x + width) << finest)
            return halve(np.ascontiguousarray(whole[rows, cols]), finest)

        more = {
            "batch": inversion.sampler.batch,
            "exact_time": inversion.sampler.networks.exact_time,
        }
        return _Done(written(read, more), inversion.evaluations)


def read_image(path: Path, options: UpscaleOptions) -> tuple[NDArray[np.uint8], bool]:
    """Pixels (h, w, 3) uint8 at the scale of their level, and whether they had to be resampled.

    Raises:
        ConfigError: not an image.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such image")
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ConfigError(
            f"{path}: is no image that can be read ({error}); of an archive, write one with "
            "`zoomldm decompress --level` first"
        ) from error
    ratio = options.mpp / level_mpp(options.level)
    resampled = abs(ratio - 1) > _EXACT
    if resampled:
        size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if image.width * image.height > _MOST:
        raise ConfigError(
            f"{path}: {image.width} x {image.height} px; expected up to {_MOST:,} in all"
        )
    return np.array(image), resampled
