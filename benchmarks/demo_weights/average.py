"""The moving average of an octave stage's networks."""

import contextlib
from copy import deepcopy
from pathlib import Path

import torch

from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.training.stages.octave import OctaveStage


class Average:
    """Moving average of two networks."""

    def __init__(self, stage: OctaveStage, decay: float) -> None:
        self.live = [*stage.unet.parameters(), *stage.summarizer.parameters()]
        self.unet = deepcopy(stage.unet).requires_grad_(False).eval()
        self.summarizer = deepcopy(stage.summarizer).requires_grad_(False).eval()
        self.averaged = [*self.unet.parameters(), *self.summarizer.parameters()]
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Include the current weights."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averaged, [p.detach() for p in self.live], 1 - decay)
        self.steps += 1

    @contextlib.contextmanager
    def in_place(self, stage: OctaveStage):
        """Put the averaged networks into the stage within the block."""
        live = stage.unet, stage.summarizer
        stage.unet, stage.summarizer = self.unet, self.summarizer
        yield
        stage.unet, stage.summarizer = live

    def save(self, out: Path) -> None:
        """Write `unet` and `summarizer`."""
        plain = OctaveDenoiser.from_config(self.unet.config)
        plain.load_state_dict({k: v.cpu() for k, v in self.unet.state_dict().items()})
        plain.save_pretrained(out / "unet")
        self.save_summarizer(out)

    def save_summarizer(self, out: Path) -> None:
        """Write `summarizer`."""
        deepcopy(self.summarizer).cpu().save_pretrained(out / "summarizer")
