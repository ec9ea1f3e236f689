"""Compare tissue generated from sampled and from real contexts: distances to real patches."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zoomldm.archive import open_archive
from zoomldm.data.contexts import ContextStore
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.evaluation.distances import Interval, frechet_interval, kid_draws
from zoomldm.evaluation.judge import load_judge
from zoomldm.geometry.levels import COUNT, NAMES, TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler
from zoomldm.slides import open_slide
from zoomldm.tables import as_markdown
from zoomldm.verbs import Progress, silent

LEAST = 8  # images that a set needs for distances
SEPARATE = 4  # from this level on, patches of a slide overlap so much that n means little
KINDS = {
    "reference": "(a) contexts of validation patches",
    "drawn": "(b) drawn contexts",
    "like": "(b') drawn contexts, each like a validation tile",
}


def measure_samples(
    pipeline: ZoomLDMPipeline,
    slides: Sequence[Path],
    others: Mapping[str, Sequence[Path]],
    archives: Sequence[Path],
    *,
    n: int = 128,
    levels: Sequence[int] = range(COUNT),
    options: SampleOptions | None = None,
    judge: Path | None = None,
    progress: Progress = silent,
) -> tuple[dict[str, Any], dict[int, dict[str, NDArray[np.uint8]]]]:
    """Measure Fréchet distance and KID of generated patches to real validation patches.

    Validation patches (tissue, any tile offset) are split in two halves. All sets are compared
    with the pixels of the first half; the contexts of the second half generate set (a). Sampled
    contexts generate set (b). Each other case gives a set (c) of real patches. Features come from
    the evaluation feature extractor (judge), standardised by those of the real patches. All sets
    of a level have the same size; a level where any set has fewer than eight images is left out.

    Args:
        pipeline: one with an embedding diffusion.
        slides: validation slides.
        others: slides of other cases, by case.
        archives: archives of all these slides.
        n: images per set; fewer where a level has fewer.
        levels: 0 to 7.
        options: sampling options.
        judge: folder of a judge to use instead of the shipped one.
        progress: called as work goes on.

    Returns:
        The figures (`levels`: one row each), and the images by level and kind (including `real`).

    Raises:
        ConfigError: a slide has no archive, or there is nothing or too little to compare with.
        ArchiveError: an archive has another patch encoder or does not fit its slide.
    """
    if n < LEAST:
        raise ConfigError(f"n is {n}; distances need at least {LEAST} images of each kind")
    describe = load_judge(judge, pipeline.device)
    options = options or SampleOptions()
    if not slides or not others:
        raise ConfigError("validation slides and slides of another case are both needed")
    rows, shown = [], {}
    with ExitStack() as stack:
        own = {}
        for path in archives:
            archive = stack.enter_context(open_archive(path))
            if not archive.turn:
                own[archive.manifest.slide.name] = archive

        def patches(
            group: Sequence[Path], most: int, hold: Literal["patches", "contexts"]
        ) -> ContextStore:
            missing = [p.name for p in group if p.name not in own]
            if missing:
                raise ConfigError(f"no archive of {', '.join(missing)}; give it with --archive")
            found = [own[p.name] for p in group]
            for archive in found:
                check_encoder(archive, pipeline)
            return ContextStore(pipeline, found, 0.0, most=most, hold=hold)

        held = patches(slides, 2 * n, "contexts")
        rest = {case: patches(group, n, "patches") for case, group in others.items()}
        for done, level in enumerate(levels):
            progress("levels", done, len(levels))
            sizes = [len(s.levels[level].patches) for s in rest.values()]
            count = min(n, len(held.levels[level].patches) // 2, *sizes)
            if count < LEAST:
                continue
            sets = _image_sets(pipeline, held, slides, level, count, options)
            real = {
                case: _read(store, others[case], level, _some(store, level, count))
                for case, store in rest.items()
            }
            shown[level] = sets | {f"other/{case}": pixels for case, pixels in real.items()}
            features = {kind: describe(pixels) for kind, pixels in shown[level].items()}
            rows.append(_row(level, count, features))
    if not rows:
        raise ConfigError(
            f"no level has {LEAST} patches in every set (validation slides need twice as many); "
            "give more slides, or other levels"
        )
    return {
        "digest": pipeline.digest(),
        "options": asdict(options),
        "validation": [p.name for p in slides],
        "others": {case: [p.name for p in group] for case, group in others.items()},
        "levels": rows,
    }, shown


def _some(store: ContextStore, level: int, count: int) -> NDArray:
    patches = store.levels[level].patches
    chosen = np.random.default_rng(level).permutation(len(patches))[:count]
    return patches[np.sort(chosen)]


def _image_sets(
    pipeline: ZoomLDMPipeline,
    held: ContextStore,
    slides: Sequence[Path],
    level: int,
    count: int,
    options: SampleOptions,
) -> dict[str, NDArray[np.uint8]]:
    """Return real validation patches, and the generated sets that are compared with them."""
    known = held.levels[level]
    order = np.random.default_rng(level).permutation(len(known.patches))
    real, given = np.sort(order[:count]), np.sort(order[count : 2 * count])
    sampler = Sampler(pipeline, options)
    contexts = torch.from_numpy(known.contexts[given].astype(np.float32)).to(pipeline.device)
    rng = np.random.default_rng(level)
    tiles = np.stack([held.reference(level, int(i), rng) for i in given])
    return {
        "real": _read(held, slides, level, known.patches[real]),
        "reference": sampler.images(level, contexts),
        "drawn": sampler.sample(level, count),
        "like": sampler.sample(level, count, reference=tiles),
    }


def _read(
    store: ContextStore, slides: Sequence[Path], level: int, patches: NDArray
) -> NDArray[np.uint8]:
    """Read pixels (n, 256, 256, 3) of patches (n, 3): slide, row and column of the first tile."""
    out = np.empty((len(patches), TILE, TILE, 3), np.uint8)
    for number, path in enumerate(slides):
        archive = store.archives[number]
        info = archive.manifest.slide
        given_mpp = math.sqrt(info.mpp_x * info.mpp_y) if info.mpp_source == "option" else None
        with open_slide(path, given_mpp) as slide:
            if slide.size != archive.size:
                raise ArchiveError(
                    f"{archive.path}: is of a raster of {archive.size} px, {path} has one of "
                    f"{slide.size}; compress it again"
                )
            for place in np.flatnonzero(patches[:, 0] == number):
                row, col = patches[place, 1:].tolist()
                out[place] = slide.read(level, col * TILE >> level, row * TILE >> level, TILE, TILE)
    return out


def _row(level: int, count: int, features: Mapping[str, NDArray]) -> dict[str, Any]:
    real = features["real"]
    mean, deviation = real.mean(0), real.std(0) + 1e-6
    scaled = {k: (v - mean) / deviation for k, v in features.items()}
    real = scaled.pop("real")
    draws = kid_draws(real, scaled)
    ours = draws["drawn"] - draws["reference"]
    margins = {k: draws[k] - draws["drawn"] for k in draws if k.startswith("other/")}
    return {
        "level": NAMES[level],
        "n": count,
        "kernel": {k: asdict(Interval.of(v)) for k, v in draws.items()},
        "frechet": {k: asdict(frechet_interval(real, v)) for k, v in scaled.items()},
        "drawn_minus_reference": asdict(Interval.of(ours)),
        "other_minus_drawn": {k: asdict(Interval.of(m)) for k, m in margins.items()},
        "difference": {k: asdict(Interval.of(ours - m)) for k, m in margins.items()},
    }


def samples_table(figures: Mapping[str, Any]) -> str:
    """Format the figures as Markdown: a row per level and kind, then the comparison by case."""

    def cell(part: Mapping[str, float], digits: int) -> str:
        return f"{part['value']:.{digits}f} ({part['low']:.{digits}f} to {part['high']:.{digits}f})"

    kinds = KINDS | {f"other/{c}": f"(c) real patches of {c}" for c in figures["others"]}
    rows = []
    for row in figures["levels"]:
        for kind, text in kinds.items():
            kernel, frechet = cell(row["kernel"][kind], 3), cell(row["frechet"][kind], 1)
            rows.append([row["level"], str(row["n"]), text, kernel, frechet])
    header = ["level", "n", "images", "KID", "Fréchet distance"]
    distances, rows = as_markdown(header, rows), []
    for row in figures["levels"]:
        for case in figures["others"]:
            key = f"other/{case}"
            apart = row["difference"][key]
            sure = "yes" if apart["high"] < 0 else "no" if apart["low"] > 0 else "not shown"
            if NAMES.index(row["level"]) >= SEPARATE:
                sure = "-"
            parts = [row["drawn_minus_reference"], row["other_minus_drawn"][key], apart]
            rows.append([row["level"], case, *(cell(part, 3) for part in parts), sure])
    header = ["level", "(c)", "KID(b) - KID(a)", "KID(c) - KID(b)", "first minus second", "smaller"]
    return f"{distances}\n\n{as_markdown(header, rows)}"
