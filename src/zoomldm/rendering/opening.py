"""Chooses the renderer of an archive."""

import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from zoomldm.archive import Archive
from zoomldm.caching import Recent
from zoomldm.errors import ArchiveError
from zoomldm.generation.options import RenderOptions
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.pipeline import ZoomLDMPipeline, load_pipeline
from zoomldm.rendering.blended import BlendedCascade
from zoomldm.rendering.cascade import Cascade
from zoomldm.rendering.pyramid import Pyramid
from zoomldm.rendering.render_cache import RenderCache, Spool
from zoomldm.rendering.renderer import Renderer

_loading = threading.Lock()
_loaded: "weakref.WeakValueDictionary[tuple[str, str, int], ZoomLDMPipeline]" = (
    weakref.WeakValueDictionary()
)


def shared_pipeline(name: str, device: str = "cpu") -> ZoomLDMPipeline:
    """A pipeline by name, loaded once for all concurrent users.

    Raises:
        PipelineError: nothing of that name, or no such device.
    """
    index = Path(name) / "model_index.json"
    key = name, device, index.stat().st_mtime_ns if index.is_file() else 0
    with _loading:
        pipeline = _loaded.get(key)
        if pipeline is None:
            _loaded[key] = pipeline = load_pipeline(name, device)
        return pipeline


def open_renderer(
    archive: Archive,
    pipeline: ZoomLDMPipeline,
    options: RenderOptions | None = None,
    *,
    memory: int = 256 << 20,
    disk: int = 0,
    folder: Path | None = None,
    cache: RenderCache | None = None,
    on_patch: Callable[[int], None] | None = None,
) -> Renderer:
    """Open the pyramid or a cascade, blended or not, according to the options' method.

    Args:
        archive: what to render.
        pipeline: the pipeline whose patch encoder made the archive.
        options: see RenderOptions.
        memory: bytes cached in memory.
        disk: bytes that a cascade additionally caches on disk; the pyramid needs none.
        folder: where that file lies.
        cache: the cache to use, instead of memory, disk and folder.
        on_patch: called after each batch with the number of patches in it.

    Raises:
        ArchiveError: made with another patch encoder, or an imaginary slide for a cascade.
        PipelineError: `pyramid` for a pipeline whose denoiser takes no parent.
        ConfigError: options that don't suit the pipeline's schedule.
    """
    method = (options or RenderOptions()).method
    takes_parent = isinstance(pipeline.unet, OctaveDenoiser)
    if method == "pyramid" or (method == "auto" and takes_parent):
        return Pyramid(archive, pipeline, options, cache or RenderCache(Recent(memory)), on_patch)
    if archive.generated:
        raise ArchiveError(
            f"{archive.path}: is an imaginary slide, which only the pyramid draws; give "
            "method auto or pyramid, and the pipeline that it was sampled with"
        )
    spool = Spool(disk, folder) if disk else None
    cache = cache or RenderCache(Recent(memory), disk=spool)
    drawing = Cascade if method == "cascade" else BlendedCascade
    return drawing(archive, pipeline, options, cache, on_patch)
