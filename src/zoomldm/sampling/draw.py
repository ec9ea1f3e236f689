"""New tissue in one call, for those who have no options to keep."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.sampling.contexts import as_seed
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler


def sample(
    pipeline: ZoomLDMPipeline,
    level: int,
    n: int = 1,
    generator: torch.Generator | int | None = None,
    *,
    reference: Tensor | np.ndarray | None = None,
    label: str | None = None,
    output_type: str = "pil",
    **options: Any,
) -> Any:
    """Draw n pictures of new tissue: contexts by the embedding diffusion, pictures under them.

    Args:
        pipeline: with an embedding diffusion.
        level: 0 (20x) to 7 (0.15625x).
        n: how many.
        generator: a seed from 0 on, or where one is drawn from; sample i depends on it, on the
            level and on i, never on n.
        reference: (D,) embedding of a tile like which the tissue is to be, or (n, D).
        label: one that the embedding diffusion was trained with.
        output_type: `pil`, `np` (n, 256, 256, 3) in [0, 1] or `uint8` of the same shape.
        options: further ones of `zoomldm.sampling.options.SampleOptions`.

    Returns:
        A list of pictures, or one array.

    Raises:
        PipelineError: there is no embedding diffusion.
        ConfigError: an argument out of its range.
    """
    chosen = SampleOptions(seed=as_seed(generator), **options)
    pixels = Sampler(pipeline, chosen).sample(level, n, 0, reference, label)
    if output_type == "uint8":
        return pixels
    array = pixels.astype(np.float32) / 255
    return array if output_type == "np" else pipeline.numpy_to_pil(array)
