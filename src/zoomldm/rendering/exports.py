"""Decompression into a file or folder, with its provenance beside it."""

import json
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zoomldm.archive import Archive, open_archive
from zoomldm.cores import cores
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
from zoomldm.remote import RemotePath, as_path
from zoomldm.rendering.annotations import (
    Frame,
    confidence_features,
    tissue_features,
    write_features,
)
from zoomldm.rendering.drawing import Drawing, RenderedSource, image_of, weigher
from zoomldm.rendering.renderer import Renderer
from zoomldm.verbs import Progress, Report, silent
from zoomldm.writers.export import export
from zoomldm.writers.registry import FOLDERS, PNG, Flavour, ending, unknown, writer_for
from zoomldm.writers.writer import Writer

PNG_PIXELS = 64_000_000
SPOOL_BYTES = 4 << 30
GEOJSON = ("tissue", "confidence")  # GeoJSON files beside an image
MEMORY = 256 << 20  # bytes of windows and tiles cached by all processes together

Kind = Literal["pyramid", "picture", "ladder"]


@dataclass(frozen=True)
class DecompressOptions(RenderOptions):
    """What is rendered and how it is written; for what determines the pixels see `RenderOptions`.

    Attributes:
        level: the finest level of a multi-level image, or the only level of a .png: a label such
            as `5x`, a number 0..7, `all` or None.
        region: x, y, w, h in px of the 0.5 mpp raster; None for the whole slide. A magnification
            series shows its centre, or without a region the place with the highest tissue
            fraction. At each level a region extends from the pixel that contains its first corner
            to the one that contains its last.
        workers: number of rendering processes, which divide the cores among them.
        tiff_flavour: None for the one implied by the file ending.
        geojson: also write the outlines of the tissue and, if 20x is rendered, the confidence of
            every tile (cosine of its stored and its regenerated embedding) for QuPath.
        memory: bytes of generated windows and tiles cached by all processes together; less costs
            time and changes no pixel.

    Raises:
        ConfigError: a value out of its range.
    """

    level: int | str | None = None
    region: Window | None = None
    workers: int = 1
    tiff_flavour: Flavour | None = None
    geojson: bool = False
    memory: int = MEMORY

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 0:
            raise ConfigError(f"memory is {self.memory}; expected bytes, 0 or more")
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; expected 1 or more")


@dataclass(frozen=True)
class DecompressReport(Report):
    """Summary of the output.

    Attributes:
        output: name of the file or folder.
        bytes: size of the output.
        files: names of the files beside it, by their content.
        pipeline: id, directory or name.
        seconds: duration.
        provenance: what determines the pixels, which levels are real or generated, patch counts.
    """

    output: str
    bytes: int
    files: dict[str, str]
    pipeline: str | None
    seconds: float
    provenance: dict[str, Any]

    def as_dict(self) -> dict[str, object]:
        """The provenance and the other fields side by side: the content of `<output>.json`."""
        found = super().as_dict()
        provenance = found.pop("provenance")
        assert isinstance(provenance, dict)
        return {**provenance, **found}


def decompress(
    archive: Path | RemotePath | str,
    output: Path | str,
    options: DecompressOptions | None = None,
    *,
    pipeline: str | Path | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
) -> DecompressReport:
    """Render an archive into a file or folder, and write its provenance to the same name + `.json`.

    Whole slides are rendered block by block in constant memory. Finished parts lie in
    `<output>.part` until the output is complete; repeating the call resumes from there.

    Args:
        archive: a .zldm file, or its URL.
        output: its ending determines the format: `.tif`, `.ome.tif` or `.svs`, a pyramidal BigTIFF
            from `level` on; `.zarr`, OME-Zarr; `.dcm`, a folder of DICOM files; `.dzi`, DeepZoom;
            `.png`: one level, or with level `all` a magnification series (one place at all
            levels). An existing folder: a .tif named after the archive.
        options: see DecompressOptions.
        pipeline: `demo`, a directory or a loaded pipeline.
        progress: called with `tiles` (of tissue) or, for a .png, `patches`.

    Raises:
        ArchiveError: not an archive, or made by another patch encoder than the pipeline's.
        PipelineError: no such pipeline.
        RegionError: a level that does not exist, a region outside the slide, or a .png of more
            than 64 megapixels.
        ConfigError: an unknown ending, options that don't go with it, or an extra that is not
            installed.
        TargetError: the output can't be written, another process is writing it, its folder was
            not created by zoomldm, or an unfinished output was begun with other options.

    Examples:
        >>> import zoomldm
        >>> options = zoomldm.DecompressOptions(level="5x", region=(0, 0, 512, 512), steps=2)
        >>> report = zoomldm.decompress("slide.zldm", "region.png", options, pipeline="pipeline")
        >>> report.output, [level["width"] for level in report.provenance["levels"]]
        ('region.png', [128])
    """
    began = time.monotonic()
    options, report = options or DecompressOptions(), progress or silent
    path = as_path(archive)
    target = target_of(Path(output), path)
    kind, chosen = _kind(target, options.level)
    writer = _writer(target, kind, options)
    with ExitStack() as stack:
        source = stack.enter_context(open_archive(path))
        bounds = check_region(options.region or (0, 0, *source.size), *source.size)
        windows = _windows(kind, chosen, bounds, source, options.region is not None)
        if kind == "picture":
            _check_image(target, chosen, windows[chosen])
        beside = target.with_name(target.name + ".json")
        own = beside, *(target.with_name(f"{target.name}.{what}.geojson") for what in GEOJSON)
        stack.enter_context(claim(target if not target.is_dir() else beside, *own))
        note = stack.enter_context(atomic_path(beside))
        loaded = pipeline
        if not isinstance(loaded, ZoomLDMPipeline):
            loaded = load_pipeline(str(loaded))
        check_encoder(source, loaded)
        done = total = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if kind != "pyramid":
                report("patches", done, max(done, total))

        drawing = Drawing(
            path,
            options,
            windows,
            loaded,
            confidence=options.geojson and 0 in windows and not source.generated,
            folder=target.parent,
            memory=options.memory // options.workers,
            disk=SPOOL_BYTES if kind == "pyramid" else 0,
            threads=_threads(options.workers),
            on_patch=advance,
        )
        opened = stack.enter_context(drawing())
        renderer = opened.renderer
        counts = renderer.count(windows)
        total = sum(count.generated for count in counts.values())
        if total:  # the coarsest generated level
            loaded.check_level(max(k for k, count in counts.items() if count.generated))
        provenance: dict[str, Any] = {
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
        files = {}
        if writer is None:
            report("patches", 0, total)
            _draw_image(kind, target, renderer, windows, provenance)
        else:
            files = _export(target, writer, drawing, opened, provenance, options, report)
        result = DecompressReport(
            output=target.name,
            bytes=_bytes(target),
            files=files,
            pipeline=loaded.name_or_path if pipeline is loaded else str(pipeline),
            seconds=round(time.monotonic() - began, 2),
            provenance=provenance,
        )
        note.write_text(json.dumps(result.as_dict(), indent=1) + "\n", encoding="utf-8")
    return result


def _export(
    target: Path,
    writer: Writer,
    drawing: Drawing,
    opened: RenderedSource,
    provenance: dict[str, Any],
    options: DecompressOptions,
    report: Progress,
) -> dict[str, str]:
    """Write a multi-level image; return the names of the files beside it, by their content."""
    windows, mask = drawing.windows, opened.archive.mask
    image = image_of(opened.renderer, windows)
    writer.check(target, image)
    # Another torch version or number of threads changes the last bits at most.
    settled = {
        name: value
        for name, value in provenance.items()
        if name not in ("archive", "slide", "levels", "patches", "threads", "torch")
    }
    settled["confidence"] = drawing.confidence
    with export(
        target,
        image,
        writer,
        drawing if options.workers > 1 else lambda: nullcontext(opened),
        settled,
        workers=options.workers,
        weigh=weigher(mask, image, windows),
        progress=lambda done, total: report("tiles", done, total),
    ) as journal:
        writer.finish(journal.folder, image, target, provenance)
        if not options.geojson:
            return {}
        finest = min(windows)
        frame, files = Frame(finest, windows[finest]), {}
        found = {"tissue": tissue_features(mask, frame)}
        if drawing.confidence:
            values = [v for notes in journal.notes.values() for v in notes.get("confidence", [])]
            found["confidence"] = confidence_features(values, frame)
        for what, features in found.items():
            path = target.with_name(f"{target.name}.{what}.geojson")
            write_features(path, features, provenance)
            files[what] = path.name
        return files


def _threads(workers: int) -> int | None:
    """Number of torch threads in each of several processes."""
    if workers == 1:
        return None
    return min(torch.get_num_threads(), max(1, cores() // workers))


def _bytes(target: Path) -> int:
    """Size in bytes of a file, or of all files in a folder."""
    if target.is_file():
        return target.stat().st_size
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def _writer(target: Path, kind: Kind, options: DecompressOptions) -> Writer | None:
    """The writer of a multi-level image; None for a .png."""
    if kind == "pyramid":
        return writer_for(target, options.tiff_flavour)
    if options.tiff_flavour or options.geojson:
        raise ConfigError(
            f"{target}: a .png takes no TIFF flavour and no GeoJSON; expected an image of levels"
        )
    return None


def target_of(output: Path, archive: Path | RemotePath, kind: str = ".tif") -> Path:
    """Output path for an archive: `output` itself, or a file of this kind in the folder `output`.

    Raises:
        ConfigError: an unknown ending.
    """
    found = ending(output)
    if output.is_dir() and found not in FOLDERS:
        return output / (archive.stem + kind)
    if found is None:
        raise ConfigError(unknown(output))
    return output


def _kind(target: Path, level: int | str | None) -> tuple[Kind, int]:
    """What to write, and its (finest) level."""
    everything = level is None or (isinstance(level, str) and level.strip().lower() == "all")
    if isinstance(level, int) and not 0 <= level < COUNT:
        raise RegionError(f"level {level} does not exist; expected 0 to {COUNT - 1}")
    finest = 0 if everything else level if isinstance(level, int) else parse_level(str(level))
    if ending(target) != PNG:
        return "pyramid", finest
    if level is None:
        raise ConfigError(
            f"{target}: a .png holds one level; give --level {', '.join(NAMES)}, or all for an "
            "image of one place at all of them"
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


def _check_image(target: Path, level: int, window: Window) -> None:
    width, height = window[2:]
    if width * height > PNG_PIXELS:
        raise RegionError(
            f"{target}: {NAMES[level]} would be {width} x {height} px, "
            f"{width * height / 1e6:.0f} megapixels, over the {PNG_PIXELS // 10**6} that a .png "
            "may have; give a coarser --level, a smaller --region or a .tif"
        )


def _draw_image(
    kind: Kind,
    target: Path,
    renderer: Renderer,
    windows: dict[int, Window],
    provenance: dict[str, Any],
) -> None:
    text = json.dumps(provenance, separators=(",", ":"))
    info = PngInfo()
    info.add_text("Software", "zoomldm")
    info.add_itxt("zoomldm", text)
    if kind == "ladder":
        # Coarsest first: each patch is then generated once, while its parents are cached.
        patches = {k: renderer.read(k, *windows[k]) for k in sorted(windows, reverse=True)}
        image, dpi = draw_ladder(patches, {k: renderer.is_real(k) for k in windows}), None
    else:
        ((level, window),) = windows.items()
        image = Image.fromarray(np.ascontiguousarray(renderer.read(level, *window)))
        dpi = (25_400 / level_mpp(level),) * 2
    with atomic_path(target) as part:
        image.save(part, format="PNG", pnginfo=info, **({"dpi": dpi} if dpi else {}))
