"""Stage 2: the patch encoder, without labels: contrast of views and a coarse look."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.evaluation.statistics import auc
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.training.loop import Stage
from zoomldm.training.tiles import TileStore
from zoomldm.training.views import recolour, warp


def _unit(tiles: np.ndarray) -> Tensor:
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).float().div_(255)


class PatchEncoderStage(Stage):
    """SimCLR's contrast (Chen et al. 2020, equation 1) plus a 32 x 32 thumbnail read back.

    Two views of a tile attract each other; for `neighbours` of the pairs the second view is of
    the tile beside it, for tissue is continuous. The contrast alone forgets where things lie in
    a tile and what shade they have, which the denoiser needs, so a small decoder must also
    recover each view's thumbnail from the embedding. Heads are dropped after training.

    Args:
        encoder: the network.
        tiles: training patches; level 0 and 1 are used.
        held_out: patches of held-out cases, or None.
        neighbours: share of pairs made of adjacent tiles.
        jitter: strength of the colour changes; strong ones teach the encoder to ignore stain,
            which within a slide is one of the better signs of place.
        thumbnail: weight of the thumbnail's error.
        temperature: of the contrast.
    """

    name = "patch-encoder"

    def __init__(
        self,
        encoder: TileCNN,
        tiles: TileStore,
        held_out: TileStore | None = None,
        neighbours: float = 0.5,
        jitter: float = 0.4,
        thumbnail: float = 4.0,
        temperature: float = 0.15,
    ) -> None:
        super().__init__()
        dim = encoder.config["dim"]
        self.patch_encoder = encoder
        self.contrast = nn.Sequential(nn.Linear(dim, 512), nn.ReLU(), nn.Linear(512, 128))
        self.look = nn.Sequential(
            nn.Linear(dim, 96 * 64),
            nn.Unflatten(1, (96, 8, 8)),
            nn.ReLU(),
            nn.Conv2d(96, 96 * 4, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(),
            nn.Conv2d(96, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.tiles, self.kept = tiles, held_out
        self.pool = np.concatenate([tiles.at_level(0), tiles.at_level(1)])
        self.beside = tiles.neighbours()
        self.neighbours, self.thumbnail = neighbours, thumbnail
        self.temperature, self.jitter = temperature, jitter

    def networks(self) -> dict[str, nn.Module]:
        """The encoder and its two heads (kept so that a run resumes)."""
        return {"patch_encoder": self.patch_encoder, "contrast": self.contrast, "look": self.look}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Two views (size, 3, 256, 256) in [0, 1] of tiles or of neighbours."""
        chosen = rng.choice(self.pool, size, replace=False)
        other = np.where(rng.random(size) < self.neighbours, self.beside[chosen], chosen)
        first = _unit(np.stack([self.tiles.read(int(i)) for i in chosen]))
        second = _unit(np.stack([self.tiles.read(int(i)) for i in other]))
        return {
            "first": recolour(warp(first, rng), rng, self.jitter),
            "second": recolour(warp(second, rng), rng, self.jitter),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Contrast and thumbnail losses."""
        views = torch.cat([batch["first"], batch["second"]])
        codes = self.patch_encoder(views)
        count = len(batch["first"])
        heads = F.normalize(self.contrast(codes).float(), dim=1)
        similar = heads @ heads.T / self.temperature
        similar.fill_diagonal_(-1e4)
        match = torch.arange(2 * count, device=heads.device).roll(count)
        contrast = F.cross_entropy(similar, match)
        small = F.avg_pool2d(views, 8)
        thumbnail = (self.look(codes).float() - small).square().mean()
        hit = (similar.argmax(1) == match).float().mean()
        return {
            "loss": contrast + self.thumbnail * 10 * thumbnail,
            "contrast": contrast.detach(),
            "thumbnail": thumbnail.detach(),
            "hit": hit,
        }

    def held_out(self) -> dict[str, float]:
        """AUC of the cosine: adjacent level-0 tiles against tiles at least 2 mm apart."""
        if self.kept is None:
            return {}
        pool = self.kept.at_level(0)
        pool = pool[np.linspace(0, len(pool) - 1, min(400, len(pool))).astype(int)]
        beside = self.kept.neighbours()
        ask = np.unique(np.concatenate([pool, beside[pool]]))
        device = next(self.patch_encoder.parameters()).device
        codes = [
            self.patch_encoder(
                _unit(np.stack([self.kept.read(int(i)) for i in part])).to(device)
            ).float()
            for part in np.array_split(ask, max(1, len(ask) // 32))
        ]
        unit = F.normalize(torch.cat(codes), dim=1).cpu().numpy()
        place = {int(i): n for n, i in enumerate(ask)}
        near, far = [], []
        for i in pool:
            if beside[i] != i:
                near.append(unit[place[int(i)]] @ unit[place[int(beside[i])]])
            gap = np.abs(self.kept.start[ask] - self.kept.start[i]).max(1)
            apart = (self.kept.slide[ask] == self.kept.slide[i]) & (gap >= 2000 / 128)
            far.extend(unit[apart] @ unit[place[int(i)]])
        return {"auc": auc(np.asarray(near), np.asarray(far))}

    def save(self, folder) -> None:  # noqa: D102
        self.patch_encoder.save_pretrained(folder / "patch_encoder")
