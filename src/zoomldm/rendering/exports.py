"""Decompression into a file: a pyramidal TIFF, a PNG or a ladder, with its provenance beside."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zoomldm.archive import Archive, open_archive
from zoomldm.errors import ConfigError, RegionError
from zoomldm.files import atomic_path, claim
from zoomldm.generation.options import RenderOptions
from zoomldm.generation.sheets import draw_ladder
from zoomldm.geometry.lattice import (
    Window,
    densest_point,
    level_window,
    patch_windows,
    pyramid_windows,
)
from zoomldm.geometry.levels import COUNT, NAMES, check_region, level_mpp, parse_level
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline, load_pipeline
from zoomldm.pipeline.compatibility import check_encoder
from zoomldm.rendering.opening import open_renderer
from zoomldm.rendering.region import window_tiles
from zoomldm.rendering.renderer import Renderer
from zoomldm.writers.pyramid import PyramidLevel, write_pyramid

PNG_PIXELS = 64_000_000
SPOOL_BYTES = 4 << 30
JPEG_QUALITY = 90

Progress = Callable[[int, int], None]
Kind = Literal["pyramid", "picture", "ladder"]


def decompress(
    archive: Path | str,
    output: Path | str,
    level: int | str | None = None,
    region: Window | None = None,
    *,
    seed: int = RenderOptions.seed,
    steps: int | None = None,
    guidance: float | None = None,
    start: int | None = None,
    precision: str = RenderOptions.precision,
    batch: int | None = None,
    method: str = RenderOptions.method,
    pipeline: str | Path | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Render an archive into a file, and its provenance into the file's name + `.json`.

    Args:
        archive: a .zldm file.
        output: `.tif` or `.tiff`: a pyramidal BigTIFF from `level` on; `.png`: one level, or with
            level `all` the ladder (one place at all levels); a folder: a .tif named after the
            archive.
        level: a label such as `5x`, a number 0..7, `all` or None.
        region: x, y, w, h in px of the 0.5 mpp raster; None for the whole slide. A ladder shows
            its centre; without a region the place with most tissue. Regions start at the level's
            pixel that holds their corner and end with the one that holds their end.
        seed: of the noise.
        steps: of the denoiser, None for the method's own; see RenderOptions.
        guidance: scale of classifier-free guidance, None for the method's own.
        start: first timestep, None for the method's own; see RenderOptions.
        precision: of the networks, `float32` or `bfloat16`; see RenderOptions.
        batch: patches per network call; see RenderOptions.
        method: `auto`, `pyramid` or `cascade`; see RenderOptions.
        pipeline: `demo`, a directory or a loaded pipeline.
        progress: called with patches generated so far and in all.

    Returns:
        What the .json holds: what the pixels depend on, which levels are real and which
        generated, patches and seconds.

    Raises:
        ArchiveError: not an archive, or made by another patch encoder than the pipeline's.
        PipelineError: no such pipeline.
        RegionError: a level that does not exist, a region outside the slide, or a .png of more
            than 64 megapixels.
        ConfigError: an option out of its range, or an ending that isn't known.
        TargetError: the output can't be written, or another process is writing it.
    """
    began = time.monotonic()
    options = RenderOptions(
        seed=seed,
        steps=steps,
        guidance=guidance,
        precision=precision,  # type: ignore[arg-type]
        batch=batch,
        start=start,
        method=method,  # type: ignore[arg-type]
    )
    target = _target(Path(output), Path(archive))
    kind, chosen = _kind(target, level)
    with ExitStack() as stack:
        source = stack.enter_context(open_archive(archive))
        bounds = check_region(region or (0, 0, *source.size), *source.size)
        windows = _windows(kind, chosen, bounds, source, region is not None)
        if kind == "picture":
            _check_picture(target, chosen, windows[chosen])
        stack.enter_context(claim(target))
        note = stack.enter_context(atomic_path(target.with_name(target.name + ".json")))
        loaded = pipeline
        if not isinstance(loaded, ZoomLDMPipeline):
            loaded = load_pipeline(str(loaded))
        check_encoder(source, loaded)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, max(done, total))

        renderer = stack.enter_context(
            open_renderer(
                source,
                loaded,
                options,
                disk=SPOOL_BYTES if kind == "pyramid" else 0,
                folder=target.parent,
                on_patch=advance,
            )
        )
        counts = renderer.count(windows)
        total = sum(count.generated for count in counts.values())
        if total:  # from the coarsest on that is not stored
            loaded.check_level(max(k for k, count in counts.items() if count.generated))
        if progress:
            progress(0, total)
        report: dict[str, Any] = {
            "archive": source.path.name,
            "slide": source.manifest.slide.name,
            "kind": kind,
            "region": list(bounds),
            **renderer.provenance(),
            "levels": [
                {
                    "level": NAMES[k],
                    "mpp": level_mpp(k),
                    "x": window[0],
                    "y": window[1],
                    "width": window[2],
                    "height": window[3],
                    "origin": "real" if renderer.is_real(k) else "generated",
                }
                for k, window in windows.items()
            ],
            "patches": {
                NAMES[k]: {"generated": n.generated, "background": n.background, "real": n.real}
                for k, n in counts.items()
            },
        }
        _write(kind, target, renderer, windows, report)
        report["output"] = target.name
        report["bytes"] = target.stat().st_size
        report["pipeline"] = loaded.name_or_path if pipeline is loaded else str(pipeline)
        report["seconds"] = round(time.monotonic() - began, 2)
        note.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _target(output: Path, archive: Path) -> Path:
    if output.is_dir():
        return output / (archive.stem + ".tif")
    if output.suffix.lower() not in (".tif", ".tiff", ".png"):
        raise ConfigError(
            f"{output}: ending {output.suffix!r} is not known; expected .tif, .png or a folder "
            "that exists"
        )
    return output


def _kind(target: Path, level: int | str | None) -> tuple[Kind, int]:
    """What to write, and its (finest) level."""
    everything = level is None or (isinstance(level, str) and level.strip().lower() == "all")
    if isinstance(level, int) and not 0 <= level < COUNT:
        raise RegionError(f"level {level} does not exist; expected 0 to {COUNT - 1}")
    finest = 0 if everything else level if isinstance(level, int) else parse_level(str(level))
    if target.suffix.lower() != ".png":
        return "pyramid", finest
    if level is None:
        raise ConfigError(
            f"{target}: a .png holds one level; give --level {', '.join(NAMES)}, or all for a "
            "picture of one place at all of them"
        )
    return ("ladder" if everything else "picture"), finest


def _windows(
    kind: Kind, level: int, bounds: Window, source: Archive, chosen_by_user: bool
) -> dict[int, Window]:
    if kind == "pyramid":
        return pyramid_windows(bounds, level)
    if kind == "picture":
        return {level: level_window(bounds, level)}
    x, y, w, h = bounds
    point = (x + w // 2, y + h // 2) if chosen_by_user else densest_point(source.mask)
    return patch_windows(point)


def _check_picture(target: Path, level: int, window: Window) -> None:
    width, height = window[2:]
    if width * height > PNG_PIXELS:
        raise RegionError(
            f"{target}: {NAMES[level]} would be {width} x {height} px, "
            f"{width * height / 1e6:.0f} megapixels, over the {PNG_PIXELS // 10**6} that a .png "
            "may have; give a coarser --level, a smaller --region or a .tif"
        )


def _write(
    kind: Kind,
    target: Path,
    renderer: Renderer,
    windows: dict[int, Window],
    report: dict[str, Any],
) -> None:
    text = json.dumps(report, separators=(",", ":"))
    if kind == "pyramid":
        levels = [
            PyramidLevel((window[2], window[3]), level_mpp(k), window_tiles(renderer, k, window))
            for k, window in windows.items()
        ]
        write_pyramid(target, levels, description=text, quality=JPEG_QUALITY)
        return
    info = PngInfo()
    info.add_text("Software", "zoomldm")
    info.add_itxt("zoomldm", text)
    if kind == "ladder":
        # Coarsest first: each patch is then made once, with its parents at hand.
        patches = {k: renderer.read(k, *windows[k]) for k in sorted(windows, reverse=True)}
        picture, dpi = draw_ladder(patches, {k: renderer.is_real(k) for k in windows}), None
    else:
        ((level, window),) = windows.items()
        picture = Image.fromarray(np.ascontiguousarray(renderer.read(level, *window)))
        dpi = (25_400 / level_mpp(level),) * 2
    with atomic_path(target) as part:
        picture.save(part, format="PNG", pnginfo=info, **({"dpi": dpi} if dpi else {}))
