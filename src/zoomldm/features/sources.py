"""Sources of features: tile embeddings, the summarizer, or the denoiser."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomldm.archive import Archive
from zoomldm.diffusion.noise import noise
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.generation.imagined import ImaginedContexts
from zoomldm.geometry.lattice import tissue_patches
from zoomldm.geometry.levels import NAMES, TILE, patch_tiles
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder, check_generated
from zoomldm.pixels import to_signed
from zoomldm.verbs import Progress, silent

FIXED_PATCHES = 2  # the paper's supplement: on average a slide has two patches at 0.15625x
SIDE = 8  # side of a context, in cells
DESCRIBING = "describing patches"


@dataclass(frozen=True)
class Features:
    """Features of a slide.

    Attributes:
        values: (N, D) float32.
        places: (N, 2) integers, x and y of each feature's first pixel on the 0.5 mpp raster; may
            lie beyond the slide, as patches do.
        side: side of the square that each feature covers, in pixels of the 0.5 mpp raster.
        patches: number of patches that hold tissue.
        mask: (N,) bool, False where `values` is padded with zeros; None without padding.
        origin: what the denoiser's features were made from, `latents` or `overview`.
    """

    values: NDArray[np.float32]
    places: NDArray[np.int64]
    side: int
    patches: int
    mask: NDArray[np.bool_] | None = None
    origin: str | None = None


def tile_features(archive: Archive) -> Features:
    """Return the stored embedding of each tissue tile: the first row of the paper's table."""
    rows, cols = np.nonzero(archive.mask)
    places = np.stack([cols, rows], 1) * TILE
    return Features(archive.embeddings_of(rows, cols), places, TILE, len(rows))


def summarizer_features(
    archive: Archive,
    pipeline: ZoomLDMPipeline,
    level: int,
    fixed: bool = False,
    progress: Progress = silent,
) -> Features:
    """Return the context of each patch of a level: 64 tokens per patch (supplement, section 5).

    Args:
        archive: made with the pipeline's patch encoder.
        pipeline: provides the summarizer.
        level: 0 to 7.
        fixed: take the two patches with the highest tissue fraction, padded with zeros.
        progress: called as patches are done.

    Returns:
        One feature per token; its square is the cell of the patch that it represents.
    """
    check_encoder(archive, pipeline)
    found = tissue_patches(archive.mask, level)
    chosen = _fullest(found) if fixed else found[:, :2]
    parts, places, side = [], [], TILE
    for group, context in _contexts(archive, pipeline, chosen, level):
        tokens, across = _cells(context, level)
        side = patch_tiles(level) * TILE // across
        cells = np.stack(np.meshgrid(np.arange(across), np.arange(across)), -1).reshape(-1, 2)
        for (row, col), values in zip(group, tokens, strict=True):
            corner = np.array([col, row]) * patch_tiles(level) * TILE
            parts.append(values.float().cpu().numpy())
            places.append(corner + cells * side)
        progress(DESCRIBING, len(parts), len(chosen))
    done = Features(np.concatenate(parts), np.concatenate(places), side, len(found))
    return _filled(done, len(parts[0])) if fixed else done


def denoiser_features(
    archive: Archive,
    pipeline: ZoomLDMPipeline,
    level: int,
    layer: str,
    timestep: int,
    fixed: bool = False,
    progress: Progress = silent,
) -> Features:
    """Return the output of a denoiser layer for each patch of a level, averaged over the patch.

    The latents of a patch are those stored with `--for-training`, or else those of the real
    pixels of the base layer. Noise of `timestep`, which depends on the place alone, is added to
    them, and the denoiser is evaluated on them under the patch's own context.

    Args:
        archive: made with the pipeline's patch encoder.
        pipeline: provides all networks.
        level: 0 to 7.
        layer: `mid`, or `down.<i>` or `up.<i>`, counted in the order of the forward pass.
        timestep: 0 to 999; 0 adds least noise.
        fixed: take the two patches with the highest tissue fraction, padded with zeros.
        progress: called as patches are done.

    Raises:
        ConfigError: no such layer or timestep.
        ArchiveError: no latents of this pipeline's autoencoder, and no base layer fine enough.
    """
    check_encoder(archive, pipeline)
    most = int(pipeline.scheduler.config["num_train_timesteps"])
    if not 0 <= timestep < most:
        raise ConfigError(f"timestep is {timestep}; expected 0 to {most - 1}")
    found = tissue_patches(archive.mask, level)
    chosen = _fullest(found) if fixed else found[:, :2]
    latents, origin = _latents(archive, pipeline, chosen, level)
    shape, device = pipeline.latent_shape, pipeline.device
    heard: list[Tensor] = []

    def listen(_module: Any, _inputs: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        heard.append(output.float().mean((2, 3)).cpu())

    parts, done = [], 0
    handle = _layer(pipeline, layer).register_forward_hook(listen)
    try:
        with torch.no_grad():
            for group, context in _contexts(archive, pipeline, chosen, level):
                clean = latents(range(done, done + len(group)))
                epsilon = np.stack(
                    [noise(0, level, timestep, r * shape[1], c * shape[2], shape) for r, c in group]
                )
                time = torch.full((len(group),), timestep, device=device)
                noisy = pipeline.scheduler.add_noise(
                    clean.to(device), torch.from_numpy(epsilon).to(device), time
                )
                pipeline.denoiser(level)(noisy, time, context)
                parts.append(heard.pop().numpy())
                done += len(group)
                progress(DESCRIBING, done, len(chosen))
    finally:
        handle.remove()
    side = patch_tiles(level) * TILE
    result = Features(
        np.concatenate(parts), chosen[:, ::-1] * side, side, len(found), origin=origin
    )
    return _filled(result, 1) if fixed else result


def _fullest(found: NDArray[np.int64]) -> NDArray[np.int64]:
    """(row, column) of patches with the highest tissue fraction; ties in raster order."""
    return found[np.argsort(-found[:, 2], kind="stable")[:FIXED_PATCHES], :2]


def _filled(description: Features, per_patch: int) -> Features:
    """Pad with zeros to the same number of features for every slide."""
    count = FIXED_PATCHES * per_patch
    missing = count - len(description.values)
    return replace(
        description,
        values=np.pad(description.values, ((0, missing), (0, 0))),
        places=np.pad(description.places, ((0, missing), (0, 0))),
        mask=np.arange(count) < count - missing,
    )


def _contexts(
    archive: Archive, pipeline: ZoomLDMPipeline, patches: NDArray[np.int64], level: int
) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """Yield groups of patches with their contexts (n, tokens, width); only small grids are grouped.

    Contexts of a generated slide are sampled by the pipeline's embedding diffusion.
    """
    spec = archive.manifest.generated
    if spec is not None:
        check_generated(archive, pipeline)
        imagined = ImaginedContexts(spec, pipeline, 1)
        for r, c in patches.tolist():
            yield [(r, c)], imagined.patch(level, r, c)[None]
        return
    size, side = max(1, 64 // 4 ** max(0, level - 2)), patch_tiles(level)
    for i in range(0, len(patches), size):
        group = [(int(r), int(c)) for r, c in patches[i : i + size]]
        grids = np.stack([archive.grid(level, r * side, c * side) for r, c in group])
        yield group, pipeline.context(grids, level)


def _cells(context: Tensor, level: int) -> tuple[Tensor, int]:
    """Select tokens (n, cells, width) for the cells of the patch; also the cells across it."""
    count = context.shape[1]
    if count == SIDE**2:
        return context, SIDE
    # The released summarizer: one token for the level, then cells in the middle of 64 places.
    across = min(SIDE, patch_tiles(level))
    first = count - SIDE**2 + SIDE**2 // 2 - across**2 // 2
    return context[:, first : first + across**2], across


def _layer(pipeline: ZoomLDMPipeline, name: str) -> torch.nn.Module:
    unet = pipeline.unet.unet
    layers = {f"down.{i}": block for i, block in enumerate(unet.down_blocks)}
    layers |= {"mid": unet.mid_block}
    layers |= {f"up.{i}": block for i, block in enumerate(unet.up_blocks)}
    if name not in layers:
        raise ConfigError(f"layer {name!r} does not exist; layers are {', '.join(layers)}")
    return layers[name]


def _latents(
    archive: Archive, pipeline: ZoomLDMPipeline, patches: NDArray[np.int64], level: int
) -> tuple[Any, str]:
    """Return a function from indices of `patches` to latents (n, C, h, w), and their origin."""
    autoencoder = archive.manifest.autoencoder
    view = archive.base
    reason = "no latents of that level"
    if level in archive.latent_levels and autoencoder is not None:
        where = {(int(r), int(c)): i for i, (r, c) in enumerate(archive.offsets(level))}
        side = patch_tiles(level)
        indices = [where.get((int(r) * side, int(c) * side)) for r, c in patches]
        if autoencoder.digest != pipeline.digest("vae"):
            reason = (
                f"latents of another autoencoder ({autoencoder.id!r}, {autoencoder.digest[:12]})"
            )
        elif None in indices:
            reason = f"no latents of {indices.count(None)} of its patches"
        else:
            rows = np.array(indices, np.int64)
            return (
                lambda chosen: torch.from_numpy(archive.latents(level, rows[chosen])).float(),
                "latents",
            )
    if view is None or view.level > level:
        finest = f"its base layer begins at {NAMES[view.level]}" if view else "it has no base layer"
        raise ArchiveError(
            f"{archive.path}: nothing to noise at {NAMES[level]}: {reason}, and {finest}; pass a "
            "coarser --level, or compress the slide with --for-training"
        )

    def encoded(chosen: range) -> Tensor:
        images = np.stack(
            [
                view.read_level(level, int(col) * TILE, int(row) * TILE, TILE, TILE)
                for row, col in patches[list(chosen)]
            ]
        )
        return pipeline.encode_images(to_signed(images).to(pipeline.device)).float()

    return encoded, "overview"
