"""Whether samples are copies: how near they come to training patches, against withheld ones."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoomldm.archive import open_archive
from zoomldm.errors import ConfigError
from zoomldm.evaluation.networks import to_pixels
from zoomldm.levels import COUNT, NAMES, TILE
from zoomldm.matching import check_encoder
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler
from zoomldm.training.patches import PatchStore

NEAR = 1.0  # percentile of the withheld patches' distances below which a sample counts as a copy
LEAST = 8  # withheld patches of a level that a percentile is taken of
PAIRS = 8  # nearest pairs shown
_POOL = 4  # latents are averaged over squares of so many cells
_MOST = 512  # withheld patches a level
_CHUNK = 256


def measure_copies(
    pipeline: ZoomLDMPipeline,
    archives: Sequence[Path],
    *,
    n: int = 64,
    share: float = 0.1,
    levels: Sequence[int] = range(COUNT),
    options: SampleOptions | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    """Distance of samples to the nearest training patch, against that of withheld patches.

    These are of the blocks withheld from the same slides: other cases would be too far away.

    Distances are root mean squares between latents averaged over 4 x 4 cells and standardised
    over the level's training patches. Samples and withheld patches alike go through the decoder
    and back first, so both carry the autoencoder's own error.

    Args:
        pipeline: one with an embedding diffusion.
        archives: the training archives, made with `--for-training`.
        n: samples a level.
        share: of each archive's tissue that was withheld from training.
        levels: 0 to 7; a level without patches, or with fewer than eight withheld ones, is named
            and left without a share.
        options: of the samples.
        say: told what is being measured.

    Returns:
        The figures (`levels`: one row each; `pairs`), and the nearest eight pairs of all levels,
        sample above its nearest training patch; None where no level has a null.
    """
    options = options or SampleOptions()
    sampler = Sampler(pipeline, options)
    rows: list[dict[str, Any]] = []
    pairs: list[tuple[float, dict[str, Any], NDArray, NDArray]] = []
    with ExitStack() as stack:
        opened = [stack.enter_context(open_archive(path)) for path in archives]
        if not opened:
            raise ConfigError("no training archives; --data takes a folder of them")
        for archive in opened:
            check_encoder(archive, pipeline)
        store = PatchStore(opened, share)
        for level in levels:
            patches, held = store.patches[level], store.withheld[level]
            if not len(patches):
                continue
            say(f"{NAMES[level]}: {n} samples, {len(patches)} training patches")
            rng = np.random.default_rng(level)
            held = held[np.sort(rng.permutation(len(held))[:_MOST])]
            pictures = sampler.sample(level, n)
            train = np.concatenate(
                [
                    _pooled(store.latents(level, patches[i : i + _CHUNK]))
                    for i in range(0, len(patches), _CHUNK)
                ]
            )
            mean, deviation = train.mean(0), train.std(0) + 1e-6
            train = (train - mean) / deviation
            made = (_encoded(pipeline, pictures) - mean) / deviation
            kept = _encoded(pipeline, _decoded(pipeline, store.latents(level, held)))
            kept = (kept - mean) / deviation
            near, which = _nearest(made, train)
            null, _ = _nearest(kept, train)
            enough = len(null) >= LEAST
            limit = float(np.percentile(null, NEAR)) if enough else float("nan")
            rows.append(
                {
                    "level": NAMES[level],
                    "samples": n,
                    "training": len(patches),
                    "withheld": len(held),
                    "median": float(np.median(near)),
                    "median_withheld": float(np.median(null)) if len(null) else None,
                    "nearest": float(near.min()),
                    "limit": limit if enough else None,
                    "copies": int((near < limit).sum()) if enough else None,
                    "share": float((near < limit).mean()) if enough else None,
                }
            )
            if not enough:
                continue
            for i in np.argsort(near)[:PAIRS].tolist():
                number, _, row, col = patches[which[i]].tolist()
                facts = {
                    "level": NAMES[level],
                    "index": i,
                    "distance": float(near[i]),
                    "of_limit": float(near[i] / limit),
                    "slide": opened[number].manifest.slide.name,
                    "row": row,
                    "col": col,
                }
                latents = store.latents(level, patches[which[i]][None])
                pairs.append(
                    (facts["of_limit"], facts, pictures[i], _decoded(pipeline, latents)[0])
                )
    pairs.sort(key=lambda pair: pair[0])
    pairs = pairs[:PAIRS]
    picture = None
    if pairs:
        picture = np.concatenate([np.concatenate([made, real]) for _, _, made, real in pairs], 1)
    figures = {
        "digest": pipeline.digest(),
        "options": asdict(options),
        "slides": sorted(a.manifest.slide.name for a in opened),
        "levels": rows,
        "pairs": [facts for _, facts, _, _ in pairs],
    }
    return figures, picture


def copies_table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    columns = [
        *("level", "training patches", "withheld", "samples", "median distance"),
        *("of withheld", "nearest sample", "1st percentile of withheld", "samples nearer"),
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    for row in figures["levels"]:
        nearer = "-" if row["share"] is None else f"{row['copies']} ({row['share']:.1%})"
        counts = [row["level"], row["training"], row["withheld"], row["samples"]]
        distances = [row["median"], row["median_withheld"], row["nearest"], row["limit"]]
        cells = [*map(str, counts), *map(cell, distances), nearer]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _pooled(latents: NDArray) -> NDArray[np.float32]:
    n, c, h, w = latents.shape
    parts = latents.reshape(n, c, h // _POOL, _POOL, w // _POOL, _POOL).mean((3, 5))
    return parts.reshape(n, -1).astype(np.float32)


def _encoded(pipeline: ZoomLDMPipeline, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pooled latents of pictures (n, 256, 256, 3)."""
    parts = [_pooled(np.empty((0, *pipeline.latent_shape), np.float32))]
    for start in range(0, len(pictures), 8):
        x = torch.from_numpy(pictures[start : start + 8]).permute(0, 3, 1, 2)
        x = x.to(pipeline.device).float().div(127.5).sub(1)
        parts.append(_pooled(pipeline.encode_pictures(x).float().cpu().numpy()))
    return np.concatenate(parts)


def _decoded(pipeline: ZoomLDMPipeline, latents: NDArray) -> NDArray[np.uint8]:
    parts = [np.empty((0, TILE, TILE, 3), np.uint8)]
    for start in range(0, len(latents), 8):
        x = torch.from_numpy(latents[start : start + 8]).to(pipeline.device)
        parts.append(to_pixels(pipeline.decode_latents(x)))
    return np.concatenate(parts)


def _nearest(a: NDArray, b: NDArray) -> tuple[NDArray, NDArray]:
    """Root mean square to, and index of, the nearest row of b for each row of a."""
    if not len(a):
        return np.empty(0), np.empty(0, int)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
    which = squares.argmin(1)
    return np.sqrt(np.maximum(squares.min(1), 0) / a.shape[1]), which
