"""The judge: an evaluation feature extractor, a second patch encoder with no part in generation."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoomldm.data.slide_patches import SlidePatches
from zoomldm.errors import ConfigError
from zoomldm.files import atomic_folder
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.statistics import cosine
from zoomldm.training.stage import Data, Stage, Start
from zoomldm.training.views import recolour, warp

TINY = {"dim": 16, "widths": (8, 8, 8, 8), "map_channels": 2}
SHIPPED = {"dim": 192, "widths": (24, 48, 96, 160), "map_channels": 8}


def judge_size(preset: str) -> dict[str, Any]:
    """Sizes of a preset's judge: those of the shipped one, except for tests."""
    return TINY if preset.startswith("tiny") else SHIPPED


class JudgeStage(Stage):
    """Barlow Twins (Zbontar et al. 2021, equation 1) on grey, colour-jittered level-0 tiles.

    It has another method, another size and grey input, so that an image gains nothing before this
    judge from what the pipeline's patch encoder prefers or from what colour gives away.

    Args:
        encoder: the network; `grey` should be set.
        tiles: training patches; only level 0 is used.
        held_out: patches of held-out cases, or None.
        redundancy: weight of the off-diagonal terms.
    """

    name = "judge"
    source = "slides"

    @classmethod
    def start(cls, start: Start) -> None:
        """Refuse a given pipeline: a judge is not part of any."""
        if start.given is not None or start.finetune:
            raise ConfigError("--stage judge takes no pipeline: a judge has no part in any")

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> Stage:
        """Train on patches at 20x."""
        assert data.patches is not None
        network = TileCNN(layout=0, grey=True, **judge_size(start.preset))
        return cls(network, data.patches, data.held_out_patches)

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> Stage:
        """See `Stage.sketch`."""
        network = TileCNN(layout=0, grey=True, **judge_size(start.preset))
        return cls(network, SlidePatches.none())

    @classmethod
    def finish(cls, networks: Path, run: Path) -> Path:
        """Copy it to `run/judge`, which `--judge` of `zoomldm evaluate` takes."""
        with atomic_folder(run / "judge") as fresh:
            shutil.copytree(networks / "judge", fresh, dirs_exist_ok=True)
        return run / "judge"

    def __init__(
        self,
        encoder: TileCNN,
        tiles: SlidePatches,
        held_out: SlidePatches | None = None,
        redundancy: float = 0.01,
    ) -> None:
        super().__init__()
        dim = encoder.config["dim"]
        self.judge = encoder
        self.head = nn.Sequential(
            nn.Linear(dim, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 512)
        )
        self.whiten = nn.BatchNorm1d(512, affine=False)
        self.tiles, self.pool, self.held_out_tiles = tiles, tiles.at_level(0), held_out
        self.redundancy = redundancy

    def networks(self) -> dict[str, nn.Module]:
        """The judge and its head."""
        return {"judge": self.judge, "head": self.head, "whiten": self.whiten}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Two views (size, 3, 256, 256) in [0, 1] of the same tiles."""
        chosen = rng.choice(self.pool, size, replace=len(self.pool) < size)
        return self._views(self.tiles, chosen, rng)

    def blank(self, size: int) -> dict[str, Tensor]:
        """See `Stage.blank`."""
        return {name: torch.empty(size, 3, 256, 256) for name in ("first", "second")}

    def _views(
        self, tiles: SlidePatches, chosen: np.ndarray, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        pixels = np.stack([tiles.read(int(i)) for i in chosen])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
        return {n: recolour(warp(x, rng), rng, 1.5) for n in ("first", "second")}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-correlation of the two views' heads against the identity."""
        a, b = (self.whiten(self.head(self.judge(batch[n])).float()) for n in ("first", "second"))
        c = a.T @ b / len(a)
        on = (c.diagonal() - 1).square().sum()
        off = c.square().sum() - c.diagonal().square().sum()
        return {"loss": (on + self.redundancy * off) / 100, "on": on.detach(), "off": off.detach()}

    def held_out(self) -> dict[str, float]:
        """Fraction of up to 100 held-out tiles whose two views are nearest to each other."""
        if self.held_out_tiles is None:
            return {}
        pool = self.held_out_tiles.at_level(0)
        chosen = pool[np.linspace(0, len(pool) - 1, min(100, len(pool))).astype(int)]
        device = next(self.judge.parameters()).device
        views = self._views(self.held_out_tiles, chosen, np.random.default_rng(0))
        first, second = (
            torch.cat([self.judge(part.to(device)) for part in view.split(25)]).cpu().numpy()
            for view in views.values()
        )
        nearest = cosine(second, first).argmax(1)
        return {"recognised": float((nearest == np.arange(len(chosen))).mean())}

    def score(self, found: dict[str, float]) -> float:
        """Fraction of tiles recognised."""
        return found["recognised"]

    def can_validate(self) -> bool:
        """Whether there are held-out cases."""
        return self.held_out_tiles is not None

    def save(self, folder: Path) -> None:
        """Write the judge; its head is dropped."""
        self.judge.save_pretrained(folder / "judge")
