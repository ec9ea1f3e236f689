"""Find memorised samples: their distance to training patches, against that of withheld patches."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoomldm.archive import Archive, open_archive
from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.data.base_patches import BasePatches
from zoomldm.errors import ConfigError
from zoomldm.geometry.levels import COUNT, NAMES, TILE
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder, check_latents
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler
from zoomldm.tables import as_markdown
from zoomldm.verbs import Progress, silent

NEAR = 1.0  # percentile of the withheld patches' distances below which a sample counts as a copy
LEAST = 8  # withheld patches that a level needs for a percentile
PAIRS = 8  # nearest pairs shown
_POOL = 4  # side, in cells, of the squares that latents are averaged over
_MOST = 256  # most withheld or held-out patches per level
_CHUNK = 256
Pair = tuple[dict[str, Any], NDArray[np.uint8], NDArray[np.uint8]]


def measure_copies(
    pipeline: ZoomLDMPipeline,
    archives: Sequence[Path],
    held_out: Sequence[Path] = (),
    *,
    n: int = 64,
    share: float = 0.1,
    levels: Sequence[int] = range(COUNT),
    options: SampleOptions | None = None,
    progress: Progress = silent,
) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    """Measure how near samples are to training patches, against withheld patches.

    Withheld patches come from the spatial hold-out of the same slides: other cases would be too
    far away. From 1.25x down, where one patch is about as large as a slide, they share up to three
    quarters of their tissue with training patches, so this null distribution is too near; patches
    of held-out cases then give the other bound.

    Distances are root mean squares between latents averaged over 4 x 4 cells and standardised
    over the level's training patches. Samples and real patches alike go through the decoder and
    back first, so both carry the autoencoder's own error.

    Args:
        pipeline: one with an embedding diffusion.
        archives: the training archives, made with `--for-training`; for low-pass pipelines any
            with a base layer at 5x or finer.
        held_out: archives of held-out cases.
        n: samples per level.
        share: fraction of each archive's tissue that was withheld from training.
        levels: 0 to 7. A level without patches is left out; a level with fewer than eight
            withheld patches gets no fraction of copies.
        options: sampling options.
        progress: called as work goes on.

    Returns:
        The figures (`levels`: one row each; `pairs`), and the nearest eight pairs of all levels,
        each sample above its nearest training patch; None if no level has a null distribution.

    Raises:
        ConfigError: no archives, or `share` out of range.
        ArchiveError: archives without latents (or base layer), or of another patch encoder or
            autoencoder.
    """
    if not archives:
        raise ConfigError("no training archives to compare samples with")
    if not 0 < share < 1:
        raise ConfigError(f"share is {share}; expected what training withheld, above 0, below 1")
    options = options or SampleOptions()
    sampler = Sampler(pipeline, options)
    rows: list[dict[str, Any]] = []
    pairs: list[Pair] = []
    with ExitStack() as stack:
        opened, others = (
            [stack.enter_context(open_archive(path)) for path in paths]
            for paths in (archives, held_out)
        )
        store = _patches(pipeline, opened, share)
        held_out_store = _patches(pipeline, others, 0) if others else None
        names = [a.path.name for a in opened]
        for done, level in enumerate(levels):
            progress("levels", done, len(levels))
            if not len(store.patches[level]):
                continue
            images = sampler.sample(level, n)
            with options.autocast(pipeline.device):
                row, found = _compare(pipeline, store, held_out_store, level, images, names)
            rows.append(row)
            pairs += found
    pairs = sorted(pairs, key=lambda pair: pair[0]["of_limit"])[:PAIRS]
    columns = [np.concatenate([generated, real]) for _, generated, real in pairs]
    figures = {
        "digest": pipeline.digest(),
        "options": asdict(options),
        "share": share,
        "archives": names,
        "held_out": [a.path.name for a in others],
        "levels": rows,
        "pairs": [metadata for metadata, _, _ in pairs],
    }
    return figures, np.concatenate(columns, 1) if columns else None


def _patches(
    pipeline: ZoomLDMPipeline, archives: Sequence[Archive], withheld_fraction: float
) -> ArchivePatches | BasePatches:
    """Open patches with their latents: stored ones, or those of the base layer's pixels."""
    for archive in archives:
        check_encoder(archive, pipeline)
    if isinstance(pipeline.vae, LowPassAutoencoder):
        return BasePatches(pipeline, archives, withheld_fraction)
    for archive in archives:
        check_latents(archive, pipeline)
    return ArchivePatches(archives, withheld_fraction)


def _compare(
    pipeline: ZoomLDMPipeline,
    store: ArchivePatches | BasePatches,
    held_out: ArchivePatches | BasePatches | None,
    level: int,
    images: NDArray[np.uint8],
    names: list[str],
) -> tuple[dict[str, Any], list[Pair]]:
    """Return a level's row, and its nearest pairs if there is a null distribution."""
    patches = store.patches[level]
    train = np.concatenate(
        [
            _pooled(store.latents(level, patches[i : i + _CHUNK]))
            for i in range(0, len(patches), _CHUNK)
        ]
    )
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train = (train - mean) / deviation

    def distances(pixels: NDArray[np.uint8]) -> tuple[NDArray, NDArray]:
        return _nearest((_encoded(pipeline, pixels) - mean) / deviation, train)

    def of_some(source: ArchivePatches | BasePatches, chosen: NDArray) -> NDArray:
        order = np.random.default_rng(level).permutation(len(chosen))[:_MOST]
        pixels = _decoded(pipeline, source.latents(level, chosen[np.sort(order)]))
        return distances(pixels)[0]

    near, which = distances(images)
    null = of_some(store, store.withheld[level])
    other = np.empty(0) if held_out is None else of_some(held_out, held_out.patches[level])
    enough = len(null) >= LEAST
    limit = float(np.percentile(null, NEAR)) if enough else float("nan")
    row = {
        "level": NAMES[level],
        "samples": len(near),
        "training": len(patches),
        "withheld": len(null),
        "median": float(np.median(near)),
        "median_withheld": float(np.median(null)) if len(null) else None,
        "median_held_out": float(np.median(other)) if len(other) else None,
        "nearest": float(near.min()),
        "limit": limit if enough else None,
        "copies": int((near < limit).sum()) if enough else None,
        "share": float((near < limit).mean()) if enough else None,
    }
    pairs: list[Pair] = []
    for i in np.argsort(near)[:PAIRS].tolist() if enough else []:
        patch = patches[which[i]]
        number, _, first_row, first_col = patch.tolist()
        metadata = {
            "level": NAMES[level],
            "index": i,
            "distance": float(near[i]),
            "of_limit": float(near[i] / limit),
            "archive": names[number],
            "row": first_row,
            "col": first_col,
        }
        real = _decoded(pipeline, store.latents(level, patch[None]))[0]
        pairs.append((metadata, images[i], real))
    return row, pairs


def copies_table(figures: dict[str, Any]) -> str:
    """Format the figures as Markdown."""
    columns = [
        *("level", "training patches", "withheld", "samples", "median distance"),
        *("of withheld", "of held-out cases", "nearest sample", "1st percentile of withheld"),
        "samples nearer",
    ]
    rows = []

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    for row in figures["levels"]:
        nearer = "-" if row["share"] is None else f"{row['copies']} ({row['share']:.1%})"
        counts = [row["level"], row["training"], row["withheld"], row["samples"]]
        keys = ("median", "median_withheld", "median_held_out", "nearest", "limit")
        cells = [*map(str, counts), *(cell(row[key]) for key in keys), nearer]
        rows.append(cells)
    return as_markdown(columns, rows)


def _pooled(latents: NDArray) -> NDArray[np.float32]:
    n, c, h, w = latents.shape
    rows, cols = h // _POOL, w // _POOL
    means = latents.reshape(n, c, rows, _POOL, cols, _POOL).mean((3, 5))
    return means.reshape(n, c * rows * cols).astype(np.float32)


def _encoded(pipeline: ZoomLDMPipeline, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Encode images (n, 256, 256, 3) to pooled latents."""
    parts = [_pooled(np.empty((0, *pipeline.latent_shape), np.float32))]
    for start in range(0, len(images), 8):
        x = to_signed(images[start : start + 8]).to(pipeline.device)
        parts.append(_pooled(pipeline.encode_images(x).float().cpu().numpy()))
    return np.concatenate(parts)


def _decoded(pipeline: ZoomLDMPipeline, latents: NDArray) -> NDArray[np.uint8]:
    parts = [np.empty((0, TILE, TILE, 3), np.uint8)]
    for start in range(0, len(latents), 8):
        x = torch.from_numpy(latents[start : start + 8]).to(pipeline.device)
        parts.append(to_pixels(pipeline.decode_latents(x)))
    return np.concatenate(parts)


def _nearest(a: NDArray, b: NDArray) -> tuple[NDArray, NDArray]:
    """For each row of a: root mean square distance to the nearest row of b, and its index."""
    if not len(a):
        return np.empty(0), np.empty(0, int)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
    which = squares.argmin(1)
    return np.sqrt(np.maximum(squares.min(1), 0) / a.shape[1]), which
