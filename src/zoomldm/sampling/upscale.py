"""Super-resolution: an image of known scale is a base layer, from which the pyramid is drawn."""

import math
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from zoomldm import __version__
from zoomldm.archive import Archive, open_archive
from zoomldm.errors import ConfigError
from zoomldm.generation.options import RenderOptions
from zoomldm.generation.windows import Key
from zoomldm.geometry.levels import BASE_MPP, COUNT, NAMES, grid_shape, level_mpp
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline, load_pipeline
from zoomldm.rendering.latents import Latents
from zoomldm.rendering.pyramid import Pyramid
from zoomldm.sampling.made_archive import write_made
from zoomldm.sampling.output import Levels, check_output, claimed, write_levels
from zoomldm.verbs import Progress, Report, silent

FACTORS = (2, 4, 8)
_EXACT = 0.005  # share by which an image's scale may be off its level's
_HALO = 2  # px of the image around a region that are read with it
_MOST = 1 << 28  # px of an image


@dataclass(frozen=True)
class UpscaleOptions:
    """What is made of an image.

    Attributes:
        mpp: micrometres per pixel of the image, about 1 to 64.
        factor: 2, 4 or 8; None takes what leads to 20x, 8 at most.
        seed: of the noise.
        steps: evaluations of the denoiser a window and octave.
        batch: windows per network call; None takes 1 on a CPU and 32 on a GPU.

    Raises:
        ConfigError: a value out of its range.
    """

    mpp: float
    factor: int | None = None
    seed: int = 0
    steps: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
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
        self.rendering  # noqa: B018

    @property
    def level(self) -> int:
        """The level whose mpp is nearest to the image's."""
        return round(math.log2(self.mpp / BASE_MPP))

    @property
    def octaves(self) -> int:
        """Doublings of the side."""
        return (self.factor or min(8, 2**self.level)).bit_length() - 1

    @property
    def finest(self) -> int:
        """The level that comes out."""
        return self.level - self.octaves

    @property
    def rendering(self) -> RenderOptions:
        """These options as rendering takes them."""
        return RenderOptions(seed=self.seed, steps=self.steps, batch=self.batch, method="pyramid")


@dataclass(frozen=True)
class UpscaleReport(Report):
    """What `upscale` made.

    Attributes:
        image: the input.
        output: the file or folder.
        size: width and height (px) of the input, brought to its level's scale.
        level: label of its level.
        resampled: whether its scale was off its level's, so that it was resampled first.
        output_size: width and height (px).
        output_level: label of the output's level.
        most_off: the most, in 1/255, that the output averaged down differs from the (resampled)
            input, over what was drawn.
        evaluations: of the denoiser, each of one window.
        tiles: images of 256 px decoded.
        pipeline_digest: of the pipeline.
        origin: `generated`: finer than the input, all of it is.
        seconds: that it took.
    """

    image: str
    output: str
    size: tuple[int, int]
    level: str
    resampled: bool
    output_size: tuple[int, int]
    output_level: str
    most_off: float
    evaluations: int
    tiles: int
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
    """Make an image 2, 4 or 8 times as large; averaged down it is what it was, within 1/255.

    Low-pass latents of level k are pixels of level k + 2, so an image of level k *is* the latents
    of level k - 2: those are decoded, after the octaves between, which are drawn without any
    context, as one in ten were in training. Then every pixel of the input gets its mean back.

    Args:
        image: a file that Pillow opens, sRGB.
        out: its ending says the format, as of `decompress`.
        options: scale, factor, and what the noise depends on.
        pipeline: `demo`, a directory or a loaded pipeline, with a denoiser of octaves.
        progress: called with `tiles`.

    Raises:
        ConfigError: no image, an unknown ending, or a factor that leads below 0.5 mpp.
        PipelineError: a pipeline whose denoiser takes no parent.
        TargetError: the output can't be written.

    >>> from PIL import Image
    >>> Image.new("RGB", (64, 64), "pink").save("small.png")
    >>> options = zoomldm.UpscaleOptions(mpp=1)
    >>> zoomldm.upscale("small.png", "out.png", options, pipeline="tiny-octaves").output_size
    (128, 128)
    """
    began, target = time.monotonic(), Path(out)
    pixels, resampled = read_image(Path(image), options)
    loaded = pipeline if isinstance(pipeline, ZoomLDMPipeline) else load_pipeline(str(pipeline))
    check_output(target, tuple(n << options.octaves for n in pixels.shape[1::-1]))  # type: ignore
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.zldm"
        write_image(path, pixels, options.level, loaded)
        with open_archive(path) as archive:
            drawn = Upscaler(archive, loaded, options)
            levels = Levels(drawn.read, drawn.size, options.finest)
            facts: dict[str, Any] = {
                "kind": "upscaled",
                "origin": "generated",
                "image": Path(image).name,
                **asdict(options),
                "resampled": resampled,
                "input_level": NAMES[options.level],
                "levels": [asdict(level) for level in levels.image.levels],
                "timesteps": list(drawn.pyramid.latents.times),
                "pipeline_digest": loaded.digest(),
                "creator": f"zoomldm {__version__}",
            }
            with claimed(target):
                write_levels(target, levels, facts, progress or silent)
            cost = drawn.pyramid.cost
            return UpscaleReport(
                image=str(image),
                output=str(target),
                size=(pixels.shape[1], pixels.shape[0]),
                level=NAMES[options.level],
                resampled=resampled,
                output_size=drawn.size,
                output_level=NAMES[options.finest],
                most_off=round(drawn.most_off, 3),
                evaluations=cost.windows * len(drawn.pyramid.latents.times),
                tiles=cost.tiles,
                pipeline_digest=loaded.digest(),
                origin="generated",
                seconds=round(time.monotonic() - began, 2),
            )


def read_image(path: Path, options: UpscaleOptions) -> tuple[NDArray[np.uint8], bool]:
    """Pixels (h, w, 3) uint8 at the scale of their level, and whether they had to be resampled.

    Raises:
        ConfigError: no image.
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
    share = options.mpp / level_mpp(options.level)
    resampled = abs(share - 1) > _EXACT
    if resampled:
        size = max(1, round(image.width * share)), max(1, round(image.height * share))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if image.width * image.height > _MOST:
        raise ConfigError(
            f"{path}: {image.width} x {image.height} px; expected up to {_MOST:,} in all"
        )
    return np.array(image), resampled


class _Given(Latents):
    """Latents of an image: the coarsest are the image as it is, the others have no context."""

    def denoised(self, level: int, key: Key) -> bool:
        return level < self.top

    def _contexts(self, level: int, keys: Iterable[Key]) -> Tensor:
        shape = self.pipeline.summarizer.context_shape
        return torch.zeros(self.batch, *shape, device=self.pipeline.device)


def write_image(
    path: Path, pixels: NDArray[np.uint8], level: int, pipeline: ZoomLDMPipeline
) -> None:
    """An archive whose base layer is an image (h, w, 3); its embeddings say nothing."""
    rows, cols = grid_shape(pixels.shape[1] << level, pixels.shape[0] << level)
    silence = np.zeros((rows, cols, pipeline.embedding_dim), np.float16)
    write_made(path, "image", pipeline, silence, (level, pixels))


class Upscaler:
    """Regions of an upscaled image, as a function of place alone.

    Args:
        archive: its base layer is the image.
        pipeline: with a denoiser of octaves.
        options: see UpscaleOptions.

    Attributes:
        size: width and height (px) of what comes out.
        pyramid: what draws it.
        most_off: see UpscaleReport.

    Raises:
        PipelineError: the pipeline has no denoiser of octaves.
    """

    def __init__(
        self, archive: Archive, pipeline: ZoomLDMPipeline, options: UpscaleOptions
    ) -> None:
        self.options, self.most_off = options, 0.0
        self.pyramid = drawn = Pyramid(archive, pipeline, options.rendering)
        drawn.latents = _Given(archive, pipeline, drawn.options, drawn.kept, drawn._lock)
        assert archive.base is not None
        self._image = archive.base
        width, height = self._image.size
        self.size = width << options.octaves, height << options.octaves

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region inside the output, (height, width, 3)."""
        factor, (full_w, full_h) = 1 << self.options.octaves, self._image.size
        x0, y0 = max(x // factor - _HALO, 0), max(y // factor - _HALO, 0)
        x1 = min(-(-(x + width) // factor) + _HALO, full_w)
        y1 = min(-(-(y + height) // factor) + _HALO, full_h)
        wanted = self._image.read(x0, y0, x1 - x0, y1 - y0)
        drawn = self.pyramid.read(
            self.options.finest,
            x0 * factor,
            y0 * factor,
            (x1 - x0) * factor,
            (y1 - y0) * factor,
        )
        out = with_means(drawn, wanted)
        off = np.abs(_means(out, factor) - wanted)[_inner(x0, x1, full_w, y0, y1, full_h)]
        self.most_off = max(self.most_off, float(off.max(initial=0)))
        left, top = x - x0 * factor, y - y0 * factor
        return np.ascontiguousarray(out[top : top + height, left : left + width])


def _inner(x0: int, x1: int, width: int, y0: int, y1: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of a region that are no halo."""
    return (
        slice(0 if y0 == 0 else _HALO, None if y1 == height else -_HALO),
        slice(0 if x0 == 0 else _HALO, None if x1 == width else -_HALO),
    )


def _means(pixels: NDArray[Any], side: int) -> NDArray[np.float64]:
    h, w = pixels.shape[:2]
    return pixels.reshape(h // side, side, w // side, side, 3).mean((1, 3), dtype=np.float64)


def with_means(drawn: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels moved by as little as makes them average down to an image, within half of 1/255.

    What is missing is added smoothly; the rest block by block, to each pixel in proportion to the
    room that it has up to white (or down to black), so that none is cut off.

    Args:
        drawn: (f h, f w, 3).
        wanted: (h, w, 3).
    """
    factor = drawn.shape[0] // wanted.shape[0]
    x = drawn.astype(np.float64)
    missing = torch.from_numpy(wanted - _means(x, factor)).permute(2, 0, 1)[None]
    smooth = F.interpolate(missing, scale_factor=factor, mode="bilinear", align_corners=False)
    x = np.clip(x + smooth[0].permute(1, 2, 0).numpy(), 0, 255)
    rest = wanted - _means(x, factor)
    room = np.where(rest > 0, 255 - _means(x, factor), _means(x, factor))
    share = np.abs(rest) / np.maximum(room, 1e-9)

    def enlarged(values: NDArray[Any]) -> NDArray[Any]:
        return values.repeat(factor, 0).repeat(factor, 1)

    x = np.where(enlarged(rest > 0), x + enlarged(share) * (255 - x), x - enlarged(share) * x)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
