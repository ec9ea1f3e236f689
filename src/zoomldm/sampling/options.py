"""What samples depend on besides the pipeline."""

import math
from dataclasses import dataclass, replace

from zoomldm.diffusion.learned_range import STEPS
from zoomldm.errors import ConfigError
from zoomldm.generation.options import RenderOptions, ResolvedOptions

ASKED = 4.0
# Of octave denoisers: as good as 20 guided steps of DDIM (benchmarks/sample_drawing.py).
OCTAVE_STEPS, OCTAVE_GUIDANCE = 8, 1.0


@dataclass(frozen=True)
class SampleOptions(RenderOptions):
    """What samples depend on besides pipeline, level, number and reference.

    Attributes:
        context_steps: steps of the embedding diffusion, 1..1000.
        context_guidance: w in u + w (c - u) of the embedding diffusion; 1 is off. None means 4
            with a reference or a label, and 1 otherwise, since guidance costs variety
            (`benchmarks/like.py`).

    The others are those of RenderOptions: `steps` and `guidance` are the denoiser's; None takes 8
    and 1 (none) for a denoiser that takes a parent, else 20 and 1.5. `start` only matters for zooms
    of a denoiser that takes no parent.

    Raises:
        ConfigError: a value out of its range.
    """

    context_steps: int = 20
    context_guidance: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.context_steps <= STEPS:
            raise ConfigError(f"context steps is {self.context_steps}; expected 1 to {STEPS}")
        guidance = self.context_guidance
        if guidance is not None and not (math.isfinite(guidance) and 0 <= guidance <= 100):
            raise ConfigError(f"context guidance is {guidance}; expected 0 to 100 (1 is none)")

    def drawing(self, octaves: bool) -> ResolvedOptions:
        """The denoiser's, with nothing left open.

        Args:
            octaves: whether it takes a parent.
        """
        chosen = self.resolved("cascade")
        if not octaves:
            return chosen
        steps = OCTAVE_STEPS if self.steps is None else self.steps
        guidance = OCTAVE_GUIDANCE if self.guidance is None else self.guidance
        return replace(chosen, steps=steps, guidance=guidance)

    def guidance_of_contexts(self, asked: bool) -> float:
        """The w used for contexts.

        Args:
            asked: whether a reference or a label is given.
        """
        if self.context_guidance is not None:
            return self.context_guidance
        return ASKED if asked else 1.0
