"""What samples depend on besides the pipeline."""

import math
from dataclasses import dataclass

from zoomldm.diffusion.learned_range import STEPS
from zoomldm.errors import ConfigError
from zoomldm.rendering.options import RenderOptions


@dataclass(frozen=True)
class SampleOptions(RenderOptions):
    """What samples depend on besides pipeline, level, number and reference.

    Attributes:
        context_steps: steps of the embedding diffusion, 1..1000.
        context_guidance: w in u + w (c - u) of the embedding diffusion; 1 is none.

    The others are those of RenderOptions: `steps` and `guidance` are the denoiser's, and `start`
    matters to a zoom alone.

    Raises:
        ConfigError: a value out of its range.
    """

    context_steps: int = 50
    context_guidance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.context_steps <= STEPS:
            raise ConfigError(f"context steps is {self.context_steps}; expected 1 to {STEPS}")
        if not (math.isfinite(self.context_guidance) and 0 <= self.context_guidance <= 100):
            raise ConfigError(
                f"context guidance is {self.context_guidance}; expected 0 to 100 (1 is none)"
            )
