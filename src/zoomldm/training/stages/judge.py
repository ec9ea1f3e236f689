"""A second patch encoder that judges pictures and has no part in making them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoomldm.data.slide_patches import SlidePatches
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.statistics import cosine
from zoomldm.training.loop import Stage
from zoomldm.training.views import recolour, warp


class JudgeStage(Stage):
    """Barlow Twins (Zbontar et al. 2021, equation 1) on grey, colour-jittered level-0 tiles.

    Another method, another size and grey input: what the pipeline's patch encoder prefers and
    what colour gives away do not help a picture before this judge.

    Args:
        encoder: the network; `grey` should be set.
        tiles: training patches; level 0 is used.
        held_out: patches of held-out cases, or None.
        redundancy: weight of the off-diagonal terms.
    """

    name = "judge"

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
        self.tiles, self.pool, self.kept = tiles, tiles.at_level(0), held_out
        self.redundancy = redundancy

    def networks(self) -> dict[str, nn.Module]:
        """The judge and its head."""
        return {"judge": self.judge, "head": self.head, "whiten": self.whiten}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Two views (size, 3, 256, 256) in [0, 1] of the same tiles."""
        chosen = rng.choice(self.pool, size, replace=len(self.pool) < size)
        return self._views(self.tiles, chosen, rng)

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
        """Share of up to 100 held-out tiles of which two views are each other's nearest."""
        if self.kept is None:
            return {}
        pool = self.kept.at_level(0)
        chosen = pool[np.linspace(0, len(pool) - 1, min(100, len(pool))).astype(int)]
        device = next(self.judge.parameters()).device
        views = self._views(self.kept, chosen, np.random.default_rng(0))
        first, second = (
            torch.cat([self.judge(part.to(device)) for part in view.split(25)]).cpu().numpy()
            for view in views.values()
        )
        nearest = cosine(second, first).argmax(1)
        return {"recognised": float((nearest == np.arange(len(chosen))).mean())}

    def save(self, folder: Path) -> None:
        """Write the judge; its head is dropped."""
        self.judge.save_pretrained(folder / "judge")
