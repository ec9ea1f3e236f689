"""An archive with the interface of an OpenSlide slide: pixels are rendered on demand."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openslide import AbstractSlide, OpenSlide, OpenSlideCache, OpenSlideError, lowlevel
from PIL import Image, ImageCms

from zoomldm.archive import Archive, open_archive
from zoomldm.caching import DiskCache, Recent
from zoomldm.errors import ArchiveError, SlideError
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import BASE_MPP, COUNT, NAMES, TILE, level_size
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline
from zoomldm.remote import RemotePath, is_url
from zoomldm.rendering.opening import open_renderer, shared_pipeline
from zoomldm.rendering.render_cache import RenderCache, Rendered
from zoomldm.rendering.renderer import Cost, Renderer, source_digest

VENDOR = "zoomldm"
MEMORY = 256 << 20
DISK = 4 << 30
NOTICE = "regenerated, not for diagnosis"
IMAGINARY = "imaginary slide, wholly generated, not for diagnosis"
_THUMBNAIL = 1024  # px: largest side of the associated thumbnail


class RenderedSlideError(SlideError, OpenSlideError, ValueError):
    """A failed read; also an OpenSlideError for tools that expect one."""


class RenderedSlide(AbstractSlide):
    """An archive as a slide, with openslide-python's interface and OpenSlide's coordinates.

    Level k has 0.5 x 2^k micrometres per pixel. Real levels are the stored pixels; the others are
    rendered on demand. They depend only on archive, pipeline, options and seed: not on previous
    reads, their order or their thread.

    Thread-safe: one thread at a time runs the networks, pixels cached in memory are returned
    without waiting, and what two threads request is rendered once. It can be pickled, and reopens
    its archive when unpickled. Slides of one process that name the same pipeline share its
    weights.

    Args:
        archive: a .zldm file, its URL, or an open archive, which is not closed with the slide.
        pipeline: `demo`, a directory or a loaded pipeline.
        seed: seed of the noise; another seed gives another slide of the same description.
        device: PyTorch device for a pipeline given by name; `auto` for a GPU if there is one.
        options: see RenderOptions; `seed` replaces theirs.
        memory: bytes of pixels and latents cached in memory.
        cache_dir: folder where they are also cached on disk, None for none; slides and processes
            may share it.
        disk: maximum size of the folder in bytes.

    Raises:
        ArchiveError: not an archive, or made by another patch encoder than the pipeline's.
        PipelineError: no such pipeline.
        ConfigError: an option out of its range, or `cache_dir` without the package diskcache.
        TargetError: the folder can't be used.
    """

    def __init__(
        self,
        archive: Path | RemotePath | str | Archive,
        pipeline: str | Path | ZoomLDMPipeline = SHIPPED,
        seed: int = 0,
        *,
        device: str = "cpu",
        options: RenderOptions | None = None,
        memory: int = MEMORY,
        cache_dir: Path | str | None = None,
        disk: int = DISK,
    ) -> None:
        super().__init__()
        self._own = not isinstance(archive, Archive)
        self.archive = archive if isinstance(archive, Archive) else open_archive(archive)
        self.options = replace(options or RenderOptions(), seed=seed)
        self._named = pipeline if isinstance(pipeline, ZoomLDMPipeline) else str(pipeline)
        self._device, self._memory, self._folder, self._disk = device, memory, cache_dir, disk
        self._start()

    def _start(self) -> None:
        """Set up what a pickle leaves out."""
        named = self._named
        self.pipeline = shared_pipeline(named, self._device) if isinstance(named, str) else named
        self._renderer: Renderer | None = open_renderer(
            self.archive, self.pipeline, self.options, cache=RenderCache(Recent(self._memory))
        )
        self._properties: dict[str, str] | None = None
        if self._folder is not None:
            disk = DiskCache(self._folder, self._disk)
            self._renderer.cache.share(self._source(), disk=disk)
        self._spent = Cost()

    def __getstate__(self) -> dict[str, Any]:
        self._open()
        return {
            "archive": self.archive,
            "options": self.options,
            "_named": self._named,
            "_device": self._device,
            "_memory": self._memory,
            "_folder": self._folder,
            "_disk": self._disk,
            "_digest": self.pipeline.digest(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        AbstractSlide.__init__(self)
        digest = state.pop("_digest")
        vars(self).update(state)
        self._own = True
        self._start()
        if self.pipeline.digest() != digest:
            raise RenderedSlideError(
                f"{self.archive.path}: pipeline {self._named} is {self.pipeline.digest()[:12]} "
                f"here, it was {digest[:12]} where the slide was pickled; give both the same"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.archive.path)!r}, seed={self.options.seed})"

    @classmethod
    def detect_format(cls, filename: "lowlevel.Filename") -> str | None:
        """`zoomldm` for an archive, None for anything else."""
        try:
            open_archive(os.fsdecode(filename)).close()
        except (ArchiveError, OSError):
            return None
        return VENDOR

    def _open(self) -> Renderer:
        if self._renderer is None:
            raise RenderedSlideError(f"{self.archive.path}: was closed; open it again")
        return self._renderer

    def _source(self) -> str:
        """A digest of everything that determines the pixels."""
        return source_digest(self._open().provenance())

    def close(self) -> None:
        """Empty the cache, and close the archive if it was opened by path."""
        if self._renderer is not None:
            self._spent = self._renderer.cost
            self._renderer.close()
            self._renderer = None
            if self._own:
                self.archive.close()

    @property
    def cost(self) -> Cost:
        """Patch-equivalents of denoising and tiles decoded since the slide was opened."""
        return self._spent if self._renderer is None else self._renderer.cost

    @property
    def level_count(self) -> int:
        """The eight levels, 20x to 0.15625x."""
        return COUNT

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """Width and height (px) of each level, rounded up."""
        return tuple(level_size(*self.archive.size, level) for level in range(COUNT))

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Downsample factors: exactly 2^k, ignoring the rounding of sizes."""
        return tuple(float(2**level) for level in range(COUNT))

    @property
    def properties(self) -> Mapping[str, str]:
        """OpenSlide's usual properties, and the origin of the pixels under `zoomldm.`."""
        if self._properties is None:
            self._properties = self._described()
        return self._properties

    def _described(self) -> dict[str, str]:
        renderer, slide = self._open(), self.archive.manifest.slide
        provenance = renderer.provenance()
        notice = IMAGINARY if self.archive.generated else NOTICE
        found = {
            "openslide.vendor": VENDOR,
            "openslide.mpp-x": f"{BASE_MPP:g}",
            "openslide.mpp-y": f"{BASE_MPP:g}",
            "openslide.objective-power": NAMES[0].removesuffix("x"),
            "openslide.background-color": "FFFFFF",
            "openslide.quickhash-1": self._source(),
            "openslide.comment": f"{slide.name}: {notice}",
            "openslide.level-count": str(COUNT),
            "zoomldm.notice": notice,
            "zoomldm.slide": slide.name,
            "zoomldm.levels-real": " ".join(provenance["levels_real"]),
            "zoomldm.levels-generated": " ".join(provenance["levels_generated"]),
        }
        for level, (width, height) in enumerate(self.level_dimensions):
            name = f"openslide.level[{level}]"
            found |= {
                f"{name}.width": str(width),
                f"{name}.height": str(height),
                f"{name}.downsample": str(2**level),
                f"{name}.tile-width": str(TILE),
                f"{name}.tile-height": str(TILE),
                f"zoomldm.level[{level}].magnification": NAMES[level],
                f"zoomldm.level[{level}].pixels": (
                    "real" if renderer.is_real(level) else "generated"
                ),
            }
        for name in ("edits", "imaginary"):
            if name in provenance:
                found[f"zoomldm.{name}"] = json.dumps(provenance[name])
        shown = ("archive_digest", "pipeline_digest", "seed", "method", "steps", "guidance",
                 "start", "precision", "batch", "background")  # fmt: skip
        return found | {
            f"zoomldm.{name.replace('_', '-')}": str(provenance[name]) for name in shown
        }

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """`thumbnail`: the whole slide, of real pixels if there are any."""
        self._open()
        return _Associated(self)

    def _thumbnail(self) -> Image.Image:
        renderer = self._open()
        level = next(
            (
                level
                for level, size in enumerate(self.level_dimensions)
                if max(size) <= _THUMBNAIL and renderer.is_real(level)
            ),
            COUNT - 1,
        )
        return self.read_region((0, 0), level, self.level_dimensions[level])

    @property
    def color_profile(self) -> ImageCms.ImageCmsProfile:
        """SRGB, the colour space of all pixels; regions have no profile of their own."""
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """The coarsest level at least as fine as requested; 0 if there is none."""
        return max((k for k in range(COUNT) if 2**k <= downsample), default=0)

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        """A region as RGBA, transparent outside the slide.

        Args:
            location: x, y of its top left corner in pixels of level 0; at level k the region
                begins with the pixel that contains it.
            level: 0..7; for any other the region is transparent, as in OpenSlide.
            size: width, height in pixels of the level.

        Raises:
            RenderedSlideError: a negative size, or the slide was closed.
            ArchiveError: the archive is damaged, or was changed since it was opened.
        """
        renderer = self._open()
        (x, y), (width, height) = (int(v) for v in location), (int(v) for v in size)
        if width < 0 or height < 0:
            raise RenderedSlideError(
                f"{self.archive.path}: region of {width} x {height} px; expected 0 or more"
            )
        image = Image.new("RGBA", (width, height))
        if not 0 <= level < COUNT:
            return image
        wide, high = level_size(*self.archive.size, level)
        x, y = x >> level, y >> level
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, wide), min(y + height, high)
        if x0 < x1 and y0 < y1:
            pixels = renderer.read(level, x0, y0, x1 - x0, y1 - y0)
            image.paste(Image.fromarray(pixels), (x0 - x, y0 - y))
        return image

    def set_cache(self, cache: OpenSlideCache | Recent[Rendered]) -> None:
        """Use another memory cache instead of the slide's own.

        Args:
            cache: a `zoomldm.caching.Recent`, which several slides may share, or OpenSlide's own
                kind, of which only the capacity is used; its content belongs to OpenSlide.

        Raises:
            TypeError: another kind of object.
        """
        renderer = self._open()
        if isinstance(cache, OpenSlideCache):
            renderer.cache.share(self._source(), Recent(cache._capacity))
        elif isinstance(cache, Recent):
            renderer.cache.share(self._source(), cache)
        else:
            raise TypeError("Not a cache object")


def open_slide(
    path: Path | RemotePath | str | Archive,
    pipeline: str | Path | ZoomLDMPipeline = SHIPPED,
    seed: int = 0,
    **settings: Any,
) -> RenderedSlide | OpenSlide:
    """Open an archive, or a slide that OpenSlide reads, behind one interface.

    Args:
        path: a .zldm file or its URL, an open archive, or a slide file.
        pipeline: for archives; see RenderedSlide.
        seed: for archives; see RenderedSlide.
        settings: for archives; further arguments of RenderedSlide.

    Returns:
        A RenderedSlide for an archive, an `openslide.OpenSlide` for a slide. For slides at an
        exact resolution, with colours converted to sRGB, see `zoomldm.slides.open_slide`.

    Raises:
        ArchiveError: not an archive, or made by another patch encoder than the pipeline's.
        PipelineError: no such pipeline.
        SlideError: neither an archive nor a slide that OpenSlide reads.

    Examples:
        >>> import zoomldm
        >>> with zoomldm.open_slide("slide.zldm", pipeline="pipeline") as slide:
        ...     slide.dimensions, slide.read_region((0, 0), 5, (16, 16)).size
        ((1000, 800), (16, 16))
    """
    if isinstance(path, Archive) or is_url(path):
        return RenderedSlide(path, pipeline, seed, **settings)
    name = str(path)
    if name.lower().endswith(".zldm") or RenderedSlide.detect_format(name):
        return RenderedSlide(name, pipeline, seed, **settings)
    try:
        return OpenSlide(name)
    except OpenSlideError as error:
        found = f"OpenSlide: {error}" if Path(name).exists() else "no such file"
        raise SlideError(
            f"{path}: neither a .zldm archive nor a slide that OpenSlide reads ({found})"
        ) from error


class _Associated(Mapping[str, Image.Image]):
    """The only associated image, rendered on demand."""

    def __init__(self, slide: RenderedSlide) -> None:
        self._slide = slide

    def __getitem__(self, key: str) -> Image.Image:
        if key != "thumbnail":
            raise KeyError(key)
        return self._slide._thumbnail()

    def __iter__(self) -> Iterator[str]:
        return iter(("thumbnail",))

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {list(self)}>"
