"""Samples as files: images, a contact sheet, and their provenance."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zoomldm.errors import ConfigError, TargetError
from zoomldm.files import atomic_path, claim
from zoomldm.generation.contexts import check_conditions
from zoomldm.generation.sheets import draw_ladder, draw_sheet
from zoomldm.geometry.levels import NAMES, level_mpp, parse_level
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline, load_pipeline
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.reference import Reference, read_reference
from zoomldm.sampling.sampler import Sampler
from zoomldm.verbs import Progress, Report, silent

SHEET = "contact-sheet.png"
INDEX = "samples.json"
_GROUP = 16  # images generated between two writes, or one batch


@dataclass(frozen=True)
class SheetOptions:
    """What is sampled into a folder.

    Attributes:
        levels: labels such as `5x`; None for all that the pipeline has. A zoom always has all.
        n: number of samples per level, or of zooms; None for 16 samples, or one zoom.
        zoom: see `Sampler.zoom`.
        like: a tile that the generated tissue should resemble, as for `read_reference`: `TILE.png`
            or `ARCHIVE@X,Y`.
        label: one of the embedding diffusion's labels.
        samples: see SampleOptions.

    Raises:
        ConfigError: no samples, a level that does not exist, or levels given for a zoom.
    """

    levels: Sequence[str] | None = None
    n: int | None = None
    zoom: bool = False
    like: str | Reference | None = None
    label: str | None = None
    samples: SampleOptions = field(default_factory=SampleOptions)

    def __post_init__(self) -> None:
        if self.zoom and self.levels is not None:
            raise ConfigError("--zoom shows all levels; leave --level out")
        if self.levels is not None and not self.levels:
            raise ConfigError("no levels to sample; expected at least one")
        for level in self.levels or ():
            parse_level(level)
        if self.count < 1:
            raise ConfigError(f"{self.n} samples; expected at least one")

    @property
    def count(self) -> int:
        """Number of samples per level, or of zooms."""
        return self.n if self.n is not None else 1 if self.zoom else 16


@dataclass(frozen=True)
class SampleReport(Report):
    """What was sampled; `samples.json` has the same content.

    Attributes:
        output: the folder.
        sheet: name of the contact sheet.
        seed: seed of the noise.
        pipeline_digest: digest of the pipeline's weights.
        options: resolved SampleOptions.
        reference: origin of the tile that the samples should resemble, or None.
        label: the requested label, or None.
        device: device that it ran on.
        threads: number of CPU threads.
        torch: version of PyTorch.
        zoom: whether the samples are zooms.
        samples: one entry per file: `file`, `level`, `mpp`, `index` and, in zooms, `quarter`.
        format: format of `samples.json`.
    """

    output: Path
    sheet: str
    seed: int
    pipeline_digest: str
    options: Mapping[str, object]
    reference: Mapping[str, object] | None
    label: str | None
    device: str
    threads: int
    torch: str
    zoom: bool
    samples: tuple[Mapping[str, object], ...]
    format: str = "zoomldm samples 1"


def write_samples(
    out: Path | str,
    options: SheetOptions | None = None,
    *,
    pipeline: str | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
) -> SampleReport:
    """Write samples of each level, or zooms, into a folder.

    Files are `5x-0003.png` and so on (`zoom-0003-5x.png`), `contact-sheet.png` and
    `samples.json`. Each is written atomically, `samples.json` last: a folder without it is
    incomplete.

    Args:
        out: the folder; created if its parent exists. Files of the same names are replaced.
        options: see SheetOptions.
        pipeline: a pipeline with an embedding diffusion: loaded, its id or its directory.
        progress: called as images are finished.

    Raises:
        TargetError: `out` can't be created, or another process is sampling into it.
        PipelineError: no embedding diffusion, or a level that the pipeline lacks.
        ConfigError: options that the pipeline doesn't support.

    Examples:
        >>> import zoomldm
        >>> quick = zoomldm.SampleOptions(steps=2, context_steps=2)
        >>> options = zoomldm.SheetOptions(levels=["20x"], n=2, samples=quick)
        >>> report = zoomldm.write_samples("samples", options, pipeline="pipeline")
        >>> [file["file"] for file in report.samples]
        ['20x-0000.png', '20x-0001.png']
    """
    options, progress, out = options or SheetOptions(), progress or silent, Path(out)
    model = load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    levels = list(range(model.levels))
    if options.levels is not None:
        levels = [parse_level(level) for level in options.levels]
    for level in () if options.zoom else levels:
        model.check_level(level)
    n = options.count
    done, total = 0, n * len(levels)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("images", done, total)

    chosen, like = options.samples, options.like
    sampler = Sampler(model, chosen, advance)
    reference = read_reference(like, model) if isinstance(like, str) else like
    given = None if reference is None else reference.embedding
    guidance = chosen.guidance_of_contexts(given is not None or options.label is not None)
    check_conditions(
        model.embedding_diffusion, guidance, given is not None, options.zoom, options.label
    )
    _make_folder(out)
    origin: dict[str, Any] = {
        "seed": chosen.seed,
        "pipeline_digest": model.digest(),
        "options": {
            **asdict(chosen),
            "steps": sampler.drawing.steps,
            "guidance": sampler.drawing.guidance,
            "batch": sampler.batch,
            "context_guidance": guidance,
        },
        "reference": None if reference is None else reference.source,
        "label": options.label,
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    parts: dict[int, list[NDArray[np.uint8]]] = {}
    rows: list[dict[str, Any]] = []
    progress("images", 0, total)
    with claim(out / INDEX, out / SHEET):
        (out / INDEX).unlink(missing_ok=True)
        for name, level, first, images, extra in _sampled(sampler, options, levels, given):
            rows += _write(out, name, level, images, first, origin, extra)
            parts.setdefault(level, []).append(images)
        whole = {level: np.concatenate(p) for level, p in parts.items()}
        if options.zoom and n == 1:
            sheet = draw_ladder({k: p[0] for k, p in whole.items()}, dict.fromkeys(whole, False))
        else:
            sheet = draw_sheet(whole)
        with atomic_path(out / SHEET) as part:
            sheet.save(part, format="PNG")
        report = SampleReport(
            output=out, sheet=SHEET, zoom=options.zoom, samples=tuple(rows), **origin
        )
        with atomic_path(out / INDEX) as part:
            part.write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
    return report


SampledGroup = tuple[str, int, int, NDArray[np.uint8], list[dict[str, Any]]]
"""Pattern of file names, level, number of the first image, images, and extra metadata of each."""


def _sampled(
    sampler: Sampler, options: SheetOptions, levels: list[int], given: NDArray | None
) -> Iterator[SampledGroup]:
    """Yield groups of images as they are sampled."""
    n, batch, label = options.count, sampler.batch, options.label
    if options.zoom:
        for first in range(0, n, batch):
            found, quarters = sampler.zoom(min(batch, n - first), first, given, label)
            for level in sorted(found, reverse=True):
                extra = (
                    [{"quarter": q.tolist()} for q in quarters[level]] if level in quarters else []
                )
                yield f"zoom-{{index:04d}}-{NAMES[level]}.png", level, first, found[level], extra
        return
    group = max(1, _GROUP // batch) * batch  # full batches, so that no image is generated twice
    for level in levels:
        for first in range(0, n, group):
            images = sampler.sample(level, min(group, n - first), first, given, label)
            yield f"{NAMES[level]}-{{index:04d}}.png", level, first, images, []


def _write(
    out: Path,
    name: str,
    level: int,
    images: NDArray[np.uint8],
    first: int,
    origin: dict[str, Any],
    extra: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    rows = []
    for place, pixels in enumerate(images):
        index = first + place
        row = {
            "file": name.format(index=index),
            "level": NAMES[level],
            "mpp": level_mpp(level),
            "index": index,
            **(extra[place] if extra else {}),
        }
        info = PngInfo()
        info.add_text("zoomldm", json.dumps({**origin, **row}))
        with atomic_path(out / row["file"]) as part:
            Image.fromarray(pixels).save(part, format="PNG", pnginfo=info)
        rows.append(row)
    return rows


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise TargetError(f"{out}: is a file; expected a folder for the samples")
    if not out.parent.is_dir():
        raise TargetError(f"{out}: folder {out.parent} does not exist; create it first")
    out.mkdir(exist_ok=True)
