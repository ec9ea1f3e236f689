"""Evaluation feature extractor ("judge"): a second encoder to check what tile an image shows."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from zoomldm.errors import PipelineError
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.statistics import colour_statistics, cosine

Describe = Callable[[np.ndarray], np.ndarray]
"""Images (n, 256, 256, 3) uint8 to descriptions (n, D)."""


def load_judge(folder: Path | None = None, device: torch.device | str = "cpu") -> Describe:
    """Load the shipped judge (Barlow Twins on grey tiles), or the one in `folder`.

    Args:
        folder: folder of another judge.
        device: where it runs: the pipeline's device.

    Raises:
        PipelineError: the folder holds no judge.
    """
    folder = folder or Path(str(resources.files("zoomldm") / "weights" / "judge"))
    if not (folder / "config.json").is_file():
        raise PipelineError(f"{folder}: holds no judge (config.json is missing)")
    network = TileCNN.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    network.eval().to(device)  # type: ignore[arg-type]

    @torch.no_grad()
    def describe(pixels: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(pixels), 32):
            x = torch.from_numpy(pixels[start : start + 32]).permute(0, 3, 1, 2)
            parts.append(network(x.to(device).float().div(255)).cpu().numpy())
        return np.concatenate(parts)

    return describe


def colour_judge(pixels: np.ndarray) -> np.ndarray:
    """Return six colour statistics unchanged: the baseline that sees stain alone."""
    return colour_statistics(pixels)


def retrieval(
    images: np.ndarray, real: np.ndarray, sources: np.ndarray, describe: Describe
) -> np.ndarray:
    """Test whether the nearest real tile of each image is its source.

    Descriptions are centred and scaled by the statistics of the real tiles, then compared by
    cosine.

    Args:
        images: (m, 256, 256, 3) uint8.
        real: (n, 256, 256, 3) uint8, tiles of one slide.
        sources: (m,) index of each image's source among the real tiles.
        describe: the judge.

    Returns:
        (m,) bool.
    """
    return nearest_is_source(describe(images), describe(real), sources)


def nearest_is_source(
    shown: np.ndarray, real: np.ndarray, sources: np.ndarray, floor: float = 0.0
) -> np.ndarray:
    """`retrieval` on descriptions (m, D) and (n, D): (m,) bool.

    Args:
        shown: descriptions of images.
        real: descriptions of real tiles.
        sources: (m,) index of each image's source among the real tiles.
        floor: smallest std that a feature is scaled by, as a fraction of the root mean square std.
            Without it, a feature that is zero for nearly all real tiles outweighs all others.
    """
    mean, deviation = real.mean(0), real.std(0)
    deviation = np.maximum(deviation, floor * np.sqrt(np.square(deviation).mean())) + 1e-6
    near = cosine((shown - mean) / deviation, (real - mean) / deviation)
    return near.argmax(1) == sources
