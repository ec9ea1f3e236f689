"""What the pixels of a rendering depend on besides the archive and the pipeline."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from zoomldm.diffusion.schedule import GUIDANCE, STEPS
from zoomldm.errors import ConfigError
from zoomldm.networks.precision import warn_if_slow

CPU_BATCH = 1
GPU_BATCH = 32
METHODS = ("auto", "pyramid", "blended", "cascade")
STEPS_GENERATED = 6  # of the pyramid without a real image at FEW_UNDER's level or finer
STEPS_RESTORED = 1  # of the pyramid where the decoder restores what a prediction lacks
FEW_UNDER = 3  # 2.5x
# steps, guidance, start
DEFAULTS: dict[str, tuple[int, float, int]] = {
    "pyramid": (3, 1.0, 999),
    "blended": (STEPS, GUIDANCE, 500),
    "cascade": (STEPS, GUIDANCE, 500),
}


@dataclass(frozen=True)
class RenderOptions:
    """What the pixels depend on besides the archive and the pipeline.

    Attributes:
        seed: seed of the noise, 0 or more.
        steps: for the pyramid, evaluations of the denoiser per window; for the cascade, steps of
            the whole schedule, of which only those from `start` on are taken. None means 20 for
            the cascade and 3 for the pyramid, but 1 where the decoder restores what a prediction
            lacks and 6 without a base layer at 2.5x or finer.
        guidance: scale of classifier-free guidance; 1 is off. None means 1 for the pyramid and
            1.5 for the cascade.
        start: for the pyramid, the first timestep, sampled from the denoiser's linear head; for
            the cascade, the timestep of the noise that is added to an upsampled parent. 1..999;
            None means 999 and 500.
        precision: `float32`, or `bfloat16` in the networks: about twice as fast on processors
            that support it, and visually the same.
        batch: patches per network call. Batches are always filled up, since the last bits of a
            convolution depend on the batch size. None means 1 on a CPU, where up to four batches
            run side by side (`side_by_side`) and a single patch is fastest, and 32 on a GPU. For
            large regions on a CPU 4 is faster, above all in bfloat16.
        method: `pyramid` (octaves from the base layer down, overlapping windows), `blended` (the
            paper's cascade in overlapping windows), `cascade` (the paper's, edge to edge: each
            patch from its parent's upsampled pixels), or `auto`: the pyramid if the pipeline's
            denoiser takes a parent, else `blended`.

    Raises:
        ConfigError: a value out of its range.
    """

    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    start: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    batch: int | None = None
    method: Literal["auto", "pyramid", "blended", "cascade"] = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; expected a whole number from 0 to 2^63 - 1")
        if self.guidance is not None and not (
            math.isfinite(self.guidance) and 0 <= self.guidance <= 100
        ):
            raise ConfigError(f"guidance is {self.guidance}; expected 0 to 100 (1 is none)")
        if self.start is not None and not 1 <= self.start <= 999:
            raise ConfigError(f"start is {self.start}; expected a timestep, 1 to 999")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; expected 1 or more")
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision {self.precision!r}; expected float32 or bfloat16")
        if self.batch is not None and not 1 <= self.batch <= 1024:
            raise ConfigError(f"batch is {self.batch}; expected 1 to 1024")
        if self.method not in METHODS:
            raise ConfigError(f"method {self.method!r}; expected {', '.join(METHODS)}")

    def resolved(
        self, method: Literal["pyramid", "blended", "cascade"], pyramid_steps: int | None = None
    ) -> "ResolvedOptions":
        """These options with None replaced by the method's own defaults.

        Args:
            method: rendering method.
            pyramid_steps: the pyramid's default if it isn't that of DEFAULTS.
        """
        steps, guidance, start = DEFAULTS[method]
        if method == "pyramid":
            steps = pyramid_steps or steps
        return ResolvedOptions(
            seed=self.seed,
            steps=steps if self.steps is None else self.steps,
            guidance=guidance if self.guidance is None else self.guidance,
            start=start if self.start is None else self.start,
            precision=self.precision,
            batch=self.batch,
            method=method,
        )

    def batch_on(self, device: torch.device) -> int:
        """Patches per network call on a device.

        Examples:
            >>> RenderOptions().batch_on(torch.device("cpu"))
            1
        """
        return self.batch or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Context manager that runs networks in `precision`; warns if bfloat16 is emulated."""
        if self.precision == "bfloat16":
            warn_if_slow(device.type)
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


@dataclass(frozen=True)
class ResolvedOptions(RenderOptions):
    """Options with nothing left open."""

    steps: int = 20  # type: ignore[assignment]
    guidance: float = 1.5  # type: ignore[assignment]
    start: int = 500  # type: ignore[assignment]
