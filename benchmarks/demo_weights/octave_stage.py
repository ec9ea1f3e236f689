"""The octave stage with batches drawn on the device, each of one level."""

import numpy as np
import torch
from torch import Tensor
from windows import World

from zoomldm.geometry.levels import COARSEST
from zoomldm.networks.octave_denoiser import BASE, KINDS, PARENT, OctaveDenoiser
from zoomldm.training.stages.octave import PARENTS, REPEATS, OctaveStage

STORED = (0.55, 0.2, 0.15)  # fraction of items with a base layer, at the finest levels


class SingleLevel(OctaveDenoiser):
    """The denoiser for batches of one level: two maps in place of one for every item."""

    level_now = 0

    def _blend(self, both: Tensor, level: Tensor, kind: Tensor) -> Tensor:
        first = (KINDS - 1) * self.level_now if self.config["blends"] > 1 else 0
        blended = [self.blend[first + i](both) for i in range(KINDS - 1)]
        return torch.where((kind == BASE).view(-1, 1, 1, 1), blended[1], blended[0])


class GpuStage(OctaveStage):
    """The stage with hints that may be supplied in the batch."""

    def _kinds(self, rng: np.random.Generator, level: int, count: int) -> np.ndarray:
        if level == COARSEST:
            return np.zeros(count, int)
        base = STORED[level] if level < len(STORED) else 0.0
        none = 0.15
        return rng.choice(KINDS, size=count, p=(none, 1 - none - base, base))

    def given(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, hint and context of a batch; latents in float32."""
        context = self.summarizer(
            batch["grid"], batch["level"][:1].expand(len(batch["grid"])), batch.get("shift")
        )[batch["where"]]
        with torch.autocast(self.unet.alphas.device.type, enabled=False):
            keep = self.summarizer
            self.summarizer = _Nothing()
            latents, hint, _ = super().given(batch)
            self.summarizer = keep
        if "made" in batch:
            flags = batch["is_made"].view(-1, 1, 1, 1)
            hint = torch.where(flags, batch["made"], hint)
        return latents, hint, context


class _Nothing(torch.nn.Module):
    def forward(self, grid: Tensor, *_: Tensor) -> Tensor:
        return grid.new_zeros(len(grid), 1, 1, dtype=torch.float32)


def items(
    world: World, stage: OctaveStage, level: int, size: int, rng, null: float, kinds=None
) -> dict[str, Tensor]:
    """A batch of one level, in the form of `OctaveStage.batch`."""
    device, repeats = world.device, REPEATS[level]
    n = -(-size // repeats)
    windows = world.draw(level, n)
    kind = stage._kinds(rng, level, n) if kinds is None else np.full(n, kinds)
    kind = torch.from_numpy(kind).to(device)
    loss = torch.where(kind == BASE, 1 - windows.quality.float() / 100, 0.0)
    spoilt = PARENTS * torch.rand(n, device=device).square()
    loss = torch.where(kind == PARENT, spoilt, loss)
    where = torch.arange(n, device=device).repeat_interleave(repeats)[:size]
    size = len(where)
    span = (torch.randperm(size, device=device) + torch.rand(size, device=device)) / size
    normal = torch.special.ndtri(span.double().clamp(1e-4, 1 - 1e-4))
    spot = (torch.sigmoid(normal * 1.1 + 0.2) * 1000).long().clamp(0, 999)
    shape = (size, 6, 32, 32)
    out = {
        "pixels": windows.pixels[where],
        "lossy": (windows.pixels if windows.lossy is None else windows.lossy)[where],
        "kind": kind[where],
        "loss": loss[where],
        "grid": windows.grids,
        "where": where,
        "time": spot,
        "noise": torch.randn(shape, device=device),
        "spoil": torch.randn(shape, device=device),
        "keep": (torch.rand(size, device=device) >= null).float(),
        "level": torch.full((size,), level, device=device),
        "places": torch.stack([windows.slide, windows.top, windows.left], 1),
    }
    if windows.shifts is not None:
        out["shift"] = windows.shifts
    return out
