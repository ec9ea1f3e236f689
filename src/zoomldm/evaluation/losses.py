"""Loss of the denoiser on held-out slides, level by level."""

import numpy as np
import torch

from zoomldm.archive import Archive
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.pipeline import ZoomLDMPipeline

TIMES = (100, 300, 500, 700, 900)


@torch.no_grad()
def measure_losses(
    pipeline: ZoomLDMPipeline, archives: list[Archive], each: int = 12, seed: int = 0
) -> list[dict]:
    """Measure the mean squared error on the scheduler's prediction target, one row per level.

    Args:
        pipeline: the pipeline.
        archives: archives of held-out slides, made with `--for-training`.
        each: patches per level and archive.
        seed: seed of the patches and the noise.

    Returns:
        Rows of level, number of patches, the loss over timesteps 100 to 900, and the loss under
        the null condition; the difference is what the context contributes.
    """
    rows = []
    times = torch.tensor(TIMES, device=pipeline.device)
    for level in range(COUNT):
        losses, nulls = [], []
        for archive in archives:
            rng = np.random.default_rng([seed, level])
            offsets = archive.offsets(level)
            chosen = np.sort(rng.choice(len(offsets), min(each, len(offsets)), replace=False))
            latents = torch.from_numpy(archive.latents(level, chosen).astype(np.float32))
            for latent, (row, col) in zip(latents, offsets[chosen], strict=True):
                context = pipeline.context(archive.grid(level, int(row), int(col))[None], level)
                x = latent.to(pipeline.device).expand(len(TIMES), -1, -1, -1)
                noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32)).to(x)
                noisy = pipeline.scheduler.add_noise(x, noise, times)
                target = _target(pipeline, x, noise, times)
                context = context.expand(len(TIMES), -1, -1)
                for found, given in ((losses, context), (nulls, torch.zeros_like(context))):
                    out = pipeline.denoiser(level)(noisy, times, given)
                    found.append(float((out - target).square().mean()))
        rows.append(
            {
                "level": NAMES[level],
                "patches": len(losses),
                "loss": float(np.mean(losses)),
                "loss_null": float(np.mean(nulls)),
            }
        )
    return rows


def _target(
    pipeline: ZoomLDMPipeline, x: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """Return the prediction target of the pipeline's denoiser."""
    kind = pipeline.scheduler.config["prediction_type"]
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return x
    return pipeline.scheduler.get_velocity(x, noise, times)
