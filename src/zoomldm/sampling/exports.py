"""Samples as files: pictures, a contact sheet, and what they were made of."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zoomldm.errors import ConfigError, TargetError
from zoomldm.generation.sheets import draw_ladder, draw_sheet
from zoomldm.geometry.levels import NAMES, level_mpp
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.sampling.contexts import check_conditions
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.reference import Reference
from zoomldm.sampling.sampler import Sampler

Advance = Callable[[str, int, int], None]
SHEET = "contact-sheet.png"
_GROUP = 16  # pictures made between two writes, or one batch


def write_samples(
    pipeline: ZoomLDMPipeline,
    out: Path,
    levels: Sequence[int],
    n: int,
    options: SampleOptions | None = None,
    reference: Reference | None = None,
    *,
    label: str | None = None,
    zoom: bool = False,
    advance: Advance = lambda what, done, total: None,
) -> dict[str, Any]:
    """Write n samples of each level, or n zooms, into a folder.

    Files are `5x-0003.png` and so on (`zoom-0003-5x.png`), `contact-sheet.png` and `samples.json`.

    Args:
        pipeline: one with an embedding diffusion.
        out: the folder; made if its parent exists. Files of the same names are replaced.
        levels: 0 to 7; a zoom has all of them, whatever is given.
        n: samples a level, or zooms.
        options: see SampleOptions.
        reference: a tile like which the tissue is to be.
        label: one of the embedding diffusion's labels.
        zoom: see `Sampler.zoom`.
        advance: told of progress: what, done, total.

    Returns:
        What `samples.json` holds.

    Raises:
        TargetError: `out` can't be made.
        ConfigError: nothing to sample, or options that the pipeline can't follow.
    """
    if not zoom:
        for level in levels:
            pipeline.check_level(level)
    count = pipeline.levels if zoom else len(levels)
    if n < 1 or not count:
        raise ConfigError(f"{n} samples of {count} levels; expected at least one")
    done, total = 0, n * count

    def made(count: int) -> None:
        nonlocal done
        done += count
        advance("pictures", done, total)

    options = options or SampleOptions()
    sampler = Sampler(pipeline, options, made)
    given = None if reference is None else reference.embedding
    guidance = options.guidance_of_contexts(given is not None or label is not None)
    check_conditions(pipeline.embedding_diffusion, guidance, given is not None, zoom, label)
    _make_folder(out)
    facts = {
        "seed": options.seed,
        "pipeline_digest": pipeline.digest(),
        "options": {**asdict(options), "batch": sampler.batch, "context_guidance": guidance},
        "reference": None if reference is None else reference.source,
        "label": label,
        "device": pipeline.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    group = max(1, _GROUP // sampler.batch) * sampler.batch  # whole batches: none is made twice
    parts: dict[int, list[NDArray[np.uint8]]] = {}
    rows: list[dict[str, Any]] = []
    advance("pictures", 0, total)
    if zoom:
        for first in range(0, n, sampler.batch):
            found, quarters = sampler.zoom(min(sampler.batch, n - first), first, given, label)
            for level in sorted(found, reverse=True):
                extra = (
                    [{"quarter": q.tolist()} for q in quarters[level]] if level in quarters else []
                )
                name = f"zoom-{{index:04d}}-{NAMES[level]}.png"
                rows += _write(out, name, level, found[level], first, facts, extra)
                parts.setdefault(level, []).append(found[level])
    else:
        for level in levels:
            for first in range(0, n, group):
                pictures = sampler.sample(level, min(group, n - first), first, given, label)
                name = f"{NAMES[level]}-{{index:04d}}.png"
                rows += _write(out, name, level, pictures, first, facts, [])
                parts.setdefault(level, []).append(pictures)
    whole = {level: np.concatenate(p) for level, p in parts.items()}
    if zoom and n == 1:
        sheet = draw_ladder({k: p[0] for k, p in whole.items()}, dict.fromkeys(whole, False))
    else:
        sheet = draw_sheet(whole)
    sheet.save(out / SHEET)
    report = {"format": "zoomldm samples 1", **facts, "zoom": zoom, "sheet": SHEET, "samples": rows}
    (out / "samples.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _write(
    out: Path,
    name: str,
    level: int,
    pictures: NDArray[np.uint8],
    first: int,
    facts: dict[str, Any],
    extra: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    rows = []
    for place, pixels in enumerate(pictures):
        index = first + place
        row = {
            "file": name.format(index=index),
            "level": NAMES[level],
            "mpp": level_mpp(level),
            "index": index,
            **(extra[place] if extra else {}),
        }
        info = PngInfo()
        info.add_text("zoomldm", json.dumps({**facts, **row}))
        Image.fromarray(pixels).save(out / row["file"], pnginfo=info)
        rows.append(row)
    return rows


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise TargetError(f"{out}: is a file; expected a folder for the samples")
    if not out.parent.is_dir():
        raise TargetError(f"{out}: folder {out.parent} does not exist; create it first")
    out.mkdir(exist_ok=True)
