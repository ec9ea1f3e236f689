"""What the pixels of a rendering depend on besides archive and pipeline."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from zoomldm.errors import ConfigError

CPU_BATCH = 1
GPU_BATCH = 32


@dataclass(frozen=True)
class RenderOptions:
    """What the pixels depend on besides archive and pipeline.

    Attributes:
        seed: of the noise, 0 or more.
        steps: steps of the whole schedule, of which a start at `start` takes its part.
        guidance: scale of classifier-free guidance; 1 is none.
        start: timestep that an upsampled parent is noised to, 1..999.
        precision: `float32`, or `bfloat16` in the networks: about twice as fast on processors
            that have it, equal to the eye.
        batch: patches per network call, always filled up to it, for the last bits of a
            convolution depend on it; None takes 1 on a CPU, where a patch alone comes soonest,
            and 32 on a GPU. For large regions on a CPU 4 is faster, above all in bfloat16.

    Raises:
        ConfigError: a value out of its range.
    """

    seed: int = 0
    steps: int = 20
    guidance: float = 1.5
    start: int = 500
    precision: Literal["float32", "bfloat16"] = "float32"
    batch: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; expected a whole number from 0 to 2^63 - 1")
        if not (math.isfinite(self.guidance) and 0 <= self.guidance <= 100):
            raise ConfigError(f"guidance is {self.guidance}; expected 0 to 100 (1 is none)")
        if not 1 <= self.start <= 999:
            raise ConfigError(f"start is {self.start}; expected a timestep, 1 to 999")
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; expected 1 or more")
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision {self.precision!r}; expected float32 or bfloat16")
        if self.batch is not None and not 1 <= self.batch <= 1024:
            raise ConfigError(f"batch is {self.batch}; expected 1 to 1024")

    def batch_on(self, device: torch.device) -> int:
        """Patches per network call on a device."""
        return self.batch or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Where the networks run in `precision`."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
