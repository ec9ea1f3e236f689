"""Sampling new tissue in one call, in memory."""

from dataclasses import replace
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoomldm.generation.contexts import as_seed
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler


@overload
def sample(
    pipeline: ZoomLDMPipeline,
    level: int,
    n: int = 1,
    generator: torch.Generator | int | None = None,
    *,
    reference: Tensor | NDArray | None = None,
    label: str | None = None,
    output_type: Literal["pil"] = "pil",
    options: SampleOptions | None = None,
) -> list[Image.Image]: ...


@overload
def sample(
    pipeline: ZoomLDMPipeline,
    level: int,
    n: int = 1,
    generator: torch.Generator | int | None = None,
    *,
    reference: Tensor | NDArray | None = None,
    label: str | None = None,
    output_type: Literal["np"],
    options: SampleOptions | None = None,
) -> NDArray[np.float32]: ...


@overload
def sample(
    pipeline: ZoomLDMPipeline,
    level: int,
    n: int = 1,
    generator: torch.Generator | int | None = None,
    *,
    reference: Tensor | NDArray | None = None,
    label: str | None = None,
    output_type: Literal["uint8"],
    options: SampleOptions | None = None,
) -> NDArray[np.uint8]: ...


def sample(
    pipeline: ZoomLDMPipeline,
    level: int,
    n: int = 1,
    generator: torch.Generator | int | None = None,
    *,
    reference: Tensor | NDArray | None = None,
    label: str | None = None,
    output_type: Literal["pil", "np", "uint8"] = "pil",
    options: SampleOptions | None = None,
) -> list[Image.Image] | NDArray[np.float32] | NDArray[np.uint8]:
    """Sample n images of new tissue: contexts by the embedding diffusion, images under them.

    Args:
        pipeline: a pipeline with an embedding diffusion.
        level: 0 (20x) to 7 (0.15625x).
        n: number of images.
        generator: a seed, 0 or more, or a generator that gives one; sample i depends on it, on
            the level and on i, never on n.
        reference: (D,) embedding of a tile that the tissue should resemble, or (n, D).
        label: one of the labels that the embedding diffusion was trained with.
        output_type: `pil`, `np` (n, 256, 256, 3) in [0, 1] or `uint8` of the same shape.
        options: steps, guidance and so on; `generator` replaces its seed.

    Returns:
        A list of images, or one array.

    Raises:
        PipelineError: the pipeline has no embedding diffusion.
        ConfigError: an argument out of its range.

    Examples:
        >>> import zoomldm
        >>> pipeline = zoomldm.load_pipeline("pipeline")
        >>> quick = zoomldm.SampleOptions(steps=2, context_steps=2)
        >>> images = zoomldm.sample(pipeline, level=2, n=2, generator=0, options=quick)
        >>> [image.size for image in images]
        [(256, 256), (256, 256)]
    """
    chosen = replace(options or SampleOptions(), seed=as_seed(generator))
    pixels = Sampler(pipeline, chosen).sample(level, n, 0, reference, label)
    if output_type == "uint8":
        return pixels
    array: NDArray[np.float32] = np.true_divide(pixels, 255, dtype=np.float32)
    if output_type == "np":
        return array
    return [Image.fromarray(image) for image in pixels]
