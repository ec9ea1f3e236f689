"""Whether drawn contexts make tissue as real ones do: distances to real patches by level."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoomldm.archive import open_archive
from zoomldm.errors import ConfigError
from zoomldm.evaluation.distances import Interval, frechet_interval, kernel_draws
from zoomldm.evaluation.judge import load_judge
from zoomldm.evaluation.networks import round_trip
from zoomldm.levels import COUNT, NAMES, TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler
from zoomldm.slides import open_slide
from zoomldm.training.contexts import ContextStore

LEAST = 8  # pictures a set that distances are taken of
KINDS = {
    "reference": "(a) contexts of validation patches",
    "drawn": "(b) drawn contexts",
    "like": "(b') drawn contexts, each like a validation tile",
    "other": "(c) real patches of another case",
    "other_round_trip": "(c') the same through the autoencoder",
}


def measure_samples(
    pipeline: ZoomLDMPipeline,
    slides: Sequence[Path],
    others: Sequence[Path],
    archives: Sequence[Path],
    *,
    n: int = 128,
    levels: Sequence[int] = range(COUNT),
    options: SampleOptions | None = None,
    judge: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], dict[int, dict[str, NDArray[np.uint8]]]]:
    """Fréchet and kernel distances to real validation patches.

    Validation patches (tissue, any tile offset) are split in two halves: the pixels of one are
    what everything is compared with, the contexts of the other make (a). Features are the judge's,
    standardised by the real patches'. All sets of a level are equally large.

    Args:
        pipeline: one with an embedding diffusion.
        slides: validation slides.
        others: slides of another case, (c).
        archives: archives of all of them.
        n: pictures a set, fewer where a level has no more.
        levels: 0 to 7.
        options: of the samples.
        judge: folder of another judge than the shipped one.
        say: told what is being measured.

    Returns:
        The figures: `levels`, one row each; and the pictures by level and kind (`real` too).

    Raises:
        ConfigError: a slide without its archive.
    """
    describe = load_judge(judge)
    options = options or SampleOptions()
    rows, shown = [], {}
    with ExitStack() as stack:
        own = {}
        for path in archives:
            archive = stack.enter_context(open_archive(path))
            own[archive.manifest.slide.name] = archive
        stores = []
        for group, most in ((slides, 2 * n), (others, n)):
            missing = [p.name for p in group if p.name not in own]
            if missing or not group:
                raise ConfigError(
                    f"no archive of {', '.join(missing)}; give it with --archive"
                    if missing
                    else "validation slides and --other slides are both needed"
                )
            say(f"contexts of {', '.join(p.name for p in group)}")
            stores.append(ContextStore(pipeline, [own[p.name] for p in group], 0.0, most=most))
        for level in levels:
            sizes = len(stores[0].levels[level].patches) // 2, len(stores[1].levels[level].patches)
            count = min(n, *sizes)
            if count < LEAST:
                continue
            say(f"{NAMES[level]}: {count} pictures of each kind")
            sets = _sets(pipeline, stores, (slides, others), level, count, options)
            shown[level] = sets
            rows.append(_row(level, count, {k: describe(v) for k, v in sets.items()}))
    return {
        "digest": pipeline.digest(),
        "options": asdict(options),
        "validation": [p.name for p in slides],
        "other": [p.name for p in others],
        "kinds": KINDS,
        "levels": rows,
    }, shown


def _sets(
    pipeline: ZoomLDMPipeline,
    stores: list[ContextStore],
    slides: tuple[Sequence[Path], Sequence[Path]],
    level: int,
    count: int,
    options: SampleOptions,
) -> dict[str, NDArray[np.uint8]]:
    held = stores[0].levels[level]
    order = np.random.default_rng(level).permutation(len(held.patches))
    real, given = np.sort(order[:count]), np.sort(order[count : 2 * count])
    chosen = np.random.default_rng(level).permutation(len(stores[1].levels[level].patches))
    other = stores[1].levels[level].patches[np.sort(chosen[:count])]
    sampler = Sampler(pipeline, options)
    contexts = torch.from_numpy(held.contexts[given].astype(np.float32)).to(pipeline.device)
    rng = np.random.default_rng(level)
    tiles = np.stack([stores[0].reference(level, int(i), rng) for i in given])
    pixels = _read(slides[1], level, other)
    return {
        "real": _read(slides[0], level, held.patches[real]),
        "reference": sampler.pictures(level, contexts),
        "drawn": sampler.sample(level, count),
        "like": sampler.sample(level, count, reference=tiles),
        "other": pixels,
        "other_round_trip": round_trip(pipeline, pixels),
    }


def _read(slides: Sequence[Path], level: int, patches: NDArray) -> NDArray[np.uint8]:
    """Real pixels (n, 256, 256, 3) of patches (n, 3): slide, row and column of the first tile."""
    out = np.empty((len(patches), TILE, TILE, 3), np.uint8)
    for number, path in enumerate(slides):
        with open_slide(path) as slide:
            for place in np.flatnonzero(patches[:, 0] == number):
                row, col = patches[place, 1:].tolist()
                out[place] = slide.read(level, col * TILE >> level, row * TILE >> level, TILE, TILE)
    return out


def _row(level: int, count: int, features: Mapping[str, NDArray]) -> dict[str, Any]:
    real = features["real"]
    mean, deviation = real.mean(0), real.std(0) + 1e-6
    scaled = {k: (v - mean) / deviation for k, v in features.items()}
    real = scaled.pop("real")
    draws = kernel_draws(real, scaled)
    ours = draws["drawn"] - draws["reference"]
    margin = draws["other"] - draws["drawn"]
    return {
        "level": NAMES[level],
        "n": count,
        "kernel": {k: asdict(Interval.of(v)) for k, v in draws.items()},
        "frechet": {k: asdict(frechet_interval(real, v)) for k, v in scaled.items()},
        "drawn_minus_reference": asdict(Interval.of(ours)),
        "other_minus_drawn": asdict(Interval.of(margin)),
        "difference": asdict(Interval.of(ours - margin)),
    }


def samples_table(figures: Mapping[str, Any]) -> str:
    """The figures as Markdown: a row a level and kind, then the comparison."""

    def cell(part: Mapping[str, float], digits: int) -> str:
        return f"{part['value']:.{digits}f} ({part['low']:.{digits}f} to {part['high']:.{digits}f})"

    lines = ["| level | n | pictures | kernel distance | Fréchet distance |", "|" + "---|" * 5]
    for row in figures["levels"]:
        for kind, text in KINDS.items():
            kernel, frechet = cell(row["kernel"][kind], 3), cell(row["frechet"][kind], 1)
            lines.append(f"| {row['level']} | {row['n']} | {text} | {kernel} | {frechet} |")
    lines += [
        "",
        "| level | KD(b) - KD(a) | KD(c) - KD(b) | the first minus the second | first is smaller |",
        "|" + "---|" * 5,
    ]
    for row in figures["levels"]:
        parts = [
            cell(row[k], 3) for k in ("drawn_minus_reference", "other_minus_drawn", "difference")
        ]
        sure = "yes" if row["difference"]["high"] < 0 else "not shown"
        sure = "no" if row["difference"]["low"] > 0 else sure
        lines.append(f"| {row['level']} | {' | '.join(parts)} | {sure} |")
    return "\n".join(lines)
