"""Stage 2: the patch encoder, without labels: contrast of views and a decoded thumbnail."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.data.slide_patches import SlidePatches
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.statistics import auc
from zoomldm.training.assembly import start_frozen_network
from zoomldm.training.stage import Data, Stage, Start
from zoomldm.training.views import recolour, warp


def _unit(tiles: np.ndarray) -> Tensor:
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).float().div_(255)


def _shrunk(tiles: SlidePatches, pool: np.ndarray, side: int) -> np.ndarray:
    """Patches averaged down to `side` pixels, in memory: (n, side, side, 3) uint8."""
    out = np.empty((len(pool), side, side, 3), np.uint8)
    for n, i in enumerate(pool):
        tile = tiles.read(int(i))
        step = tile.shape[0] // side
        out[n] = tile.reshape(side, step, side, step, 3).mean((1, 3)).round()
    return out


class PatchEncoderStage(Stage):
    """SimCLR's contrastive loss (Chen et al. 2020, equation 1) plus a decoded 32 x 32 thumbnail.

    Two views of a tile attract each other. For a fraction `neighbours` of the pairs the second
    view is of the adjacent tile, since tissue is continuous. The contrast uses the embedding's
    content dimensions, not those of layout, and each batch comes from few slides, so that tiles of
    one slide must be told apart. The contrast discards where things lie and what shade they have,
    which the denoiser needs, so a small decoder must recover each view's thumbnail from the
    embedding.

    Args:
        encoder: the network.
        tiles: training patches; level 0 and 1 are used.
        held_out: patches of held-out cases, or None.
        neighbours: fraction of pairs made of adjacent tiles.
        jitter: strength of the colour changes; strong ones teach the encoder to ignore stain,
            which within a slide is one of the better cues of position.
        thumbnail: weight of the thumbnail's squared error.
        temperature: temperature of the contrast.
        slides: number of slides that a batch comes from.
    """

    name = "patch-encoder"
    source = "slides"
    trains = ("patch_encoder",)

    @classmethod
    def start(cls, start: Start) -> ZoomLDMPipeline:
        """All other networks are the given pipeline's."""
        return start_frozen_network(start, "patch_encoder")

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> Stage:
        """Train on patches of the two finest levels."""
        assert base is not None and data.patches is not None
        encoder: TileCNN = base.patch_encoder.requires_grad_(True)
        return cls(encoder, data.patches, data.held_out_patches)

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> Stage:
        """See `Stage.sketch`."""
        assert base is not None
        return cls(base.patch_encoder.requires_grad_(True), SlidePatches.none())

    def __init__(
        self,
        encoder: TileCNN,
        tiles: SlidePatches,
        held_out: SlidePatches | None = None,
        neighbours: float = 0.5,
        jitter: float = 0.4,
        thumbnail: float = 15.0,
        temperature: float = 0.1,
        slides: int = 4,
    ) -> None:
        super().__init__()
        dim = encoder.config["dim"]
        self.patch_encoder = encoder
        self.thumbnail_decoder = nn.Sequential(
            nn.Linear(dim, 96 * 64),
            nn.Unflatten(1, (96, 8, 8)),
            nn.ReLU(),
            nn.Conv2d(96, 96 * 4, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(),
            nn.Conv2d(96, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.tiles, self.held_out_tiles = tiles, held_out
        self.pool = np.concatenate([tiles.at_level(0), tiles.at_level(1)])
        self.beside = tiles.neighbours()
        self.small = _shrunk(tiles, self.pool, encoder.config["side"])
        self.place = {int(i): n for n, i in enumerate(self.pool)}
        self.neighbours, self.thumbnail = neighbours, thumbnail
        self.temperature, self.jitter, self.slides = temperature, jitter, slides
        self.content_dims = dim - encoder.config["layout"]

    def networks(self) -> dict[str, nn.Module]:
        """The encoder and its head (saved so that a run can resume)."""
        return {"patch_encoder": self.patch_encoder, "look": self.thumbnail_decoder}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Two views (size, 3, S, S) in [0, 1] of tiles, or of a tile and its neighbour."""
        of = self.tiles.slide[self.pool]
        names, counts = np.unique(of, return_counts=True)
        few = min(self.slides, len(names))
        slides = rng.choice(names, few, replace=False, p=counts / counts.sum())
        pool = self.pool[np.isin(of, slides)]
        chosen = rng.choice(pool, size, replace=len(pool) < size)
        other = np.where(rng.random(size) < self.neighbours, self.beside[chosen], chosen)
        views = {}
        for name, indices in (("first", chosen), ("second", other)):
            tiles = _unit(self.small[[self.place[int(i)] for i in indices]])
            views[name] = recolour(warp(tiles, rng), rng, self.jitter)
        return views

    def blank(self, size: int) -> dict[str, Tensor]:
        """See `Stage.blank`."""
        side = self.patch_encoder.config["side"]
        return {name: torch.empty(size, 3, side, side) for name in ("first", "second")}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Contrast and thumbnail losses."""
        views = torch.cat([batch["first"], batch["second"]])
        codes = self.patch_encoder(views)
        count = len(batch["first"])
        unit = F.normalize(codes[:, : self.content_dims], dim=1)
        similar = (unit @ unit.T).float() / self.temperature
        similar = similar - torch.eye(2 * count, device=unit.device) * 1e4
        match = torch.arange(2 * count, device=unit.device).roll(count)
        contrast = F.cross_entropy(similar, match)
        small = F.adaptive_avg_pool2d(batch["first"], 32)
        thumbnail = (self.thumbnail_decoder(codes[:count]).float() - small).square().mean()
        hit = (similar.argmax(1) == match).float().mean()
        return {
            "loss": contrast + self.thumbnail * thumbnail,
            "contrast": contrast.detach(),
            "thumbnail": thumbnail.detach(),
            "hit": hit,
        }

    def held_out(self) -> dict[str, float]:
        """AUC of the cosine: adjacent level-0 tiles against tiles at least 2 mm apart."""
        if self.held_out_tiles is None:
            return {}
        pool = self.held_out_tiles.at_level(0)
        pool = pool[np.linspace(0, len(pool) - 1, min(400, len(pool))).astype(int)]
        beside = self.held_out_tiles.neighbours()
        ask = np.unique(np.concatenate([pool, beside[pool]]))
        device = next(self.patch_encoder.parameters()).device
        codes = [
            self.patch_encoder(
                _unit(np.stack([self.held_out_tiles.read(int(i)) for i in part])).to(device)
            ).float()
            for part in np.array_split(ask, max(1, len(ask) // 32))
        ]
        unit = F.normalize(torch.cat(codes), dim=1).cpu().numpy()
        place = {int(i): n for n, i in enumerate(ask)}
        near, far = [], []
        for i in pool:
            if beside[i] != i:
                near.append(unit[place[int(i)]] @ unit[place[int(beside[i])]])
            gap = np.abs(self.held_out_tiles.start[ask] - self.held_out_tiles.start[i]).max(1)
            apart = (self.held_out_tiles.slide[ask] == self.held_out_tiles.slide[i]) & (
                gap >= 2000 / 128
            )
            far.extend(unit[apart] @ unit[place[int(i)]])
        return {"auc": auc(np.asarray(near), np.asarray(far))}

    def score(self, found: dict[str, float]) -> float:
        """AUC."""
        return found["auc"]

    def can_validate(self) -> bool:
        """Whether there are held-out cases."""
        return self.held_out_tiles is not None

    def save(self, folder) -> None:  # noqa: D102
        self.patch_encoder.save_pretrained(folder / "patch_encoder")
