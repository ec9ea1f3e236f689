"""Stage: the context network, which predicts contexts from images without embeddings."""

import numpy as np
import torch
from torch import Tensor, nn

from zoomldm.data.rasters import SIDE, RasterPatches, Windows, load_patches
from zoomldm.geometry.levels import COARSEST, NAMES
from zoomldm.networks.context_network import ContextNetwork
from zoomldm.networks.lowpass import coarse_planes, enlarged, pooled
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_signed
from zoomldm.training.assembly import start_context_network
from zoomldm.training.stage import Data, Stage, Start
from zoomldm.training.stages.octave import PARENTS, REPEATS

LEVELS = (0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02)  # without the coarsest: no level is above it
_FIXED, _COUNTED = 16, 64


class ContextNetworkStage(Stage):
    """Squared error of standardised contexts, predicted from the level above.

    Hints carry noise of a random strength, as the denoiser's parents do in training.

    Args:
        pipeline: its `context_network` is trained; its summarizer and autoencoder stay frozen.
        patches: training windows; None for a stage without data.
        held_out: windows of held-out cases, or None.
    """

    name = "context-network"
    trains = ("context_network",)
    needs = ("vae", "summarizer", "patch_encoder")

    @classmethod
    def start(cls, start: Start) -> ZoomLDMPipeline:
        """Start from the given summarizer and autoencoder."""
        return start_context_network(start)

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> Stage:
        """Train on windows of the rasters stored in archives."""
        assert base is not None
        patches, held_out = load_patches(data.run, data.archives, data.held_out_archives)
        stage = cls(base, patches, held_out)
        if not start.finetune:
            stage.standardise()
        return stage

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> Stage:
        """See `Stage.sketch`."""
        assert base is not None
        return cls(base, None)

    def __init__(
        self,
        pipeline: ZoomLDMPipeline,
        patches: RasterPatches | None,
        held_out: RasterPatches | None = None,
    ) -> None:
        super().__init__()
        self.given = [pipeline]  # in a list: not a submodule
        self.network: ContextNetwork = pipeline.context_network.requires_grad_(True)
        if patches is not None:
            self.patches = patches
        self.held_out_patches = held_out
        self.levels = np.array(LEVELS[: min(COARSEST, pipeline.levels - 1)])

    def networks(self) -> dict[str, nn.Module]:
        """The context network alone."""
        return {"context_network": self.network}

    def frozen(self) -> list[nn.Module]:
        """The networks that compute hints and contexts."""
        return [self.given[0].vae, self.given[0].summarizer]

    def blank(self, size: int) -> dict[str, Tensor]:
        """See `Stage.blank`: items of the coarsest level that has one above."""
        level = len(self.levels) - 1
        grids, side = -(-size // REPEATS[level]), 1 << level
        none = torch.zeros(size, dtype=torch.long)
        return {
            "pixels": torch.empty(size, SIDE, SIDE, 3, dtype=torch.uint8),
            "grid": torch.empty(
                grids, side, side, self.given[0].embedding_dim, dtype=torch.float16
            ),
            "loss": torch.empty(size),
            "spoil": torch.empty(size, 6, 32, 32),
            **dict.fromkeys(("where", "level"), none),
        }

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Stage.loss`."""
        return self._errors(batch).mean()

    def score(self, found: dict[str, float]) -> float:
        """Negative loss, on held-out cases if there are any."""
        name = "held-out" if self.held_out_patches is not None else "seen"
        return -float(np.mean([v for k, v in found.items() if k.startswith(f"{name}/")]))

    @torch.no_grad()
    def standardise(self) -> None:
        """Give an untrained network the statistics of training contexts, levels weighed equally."""
        found = []
        for level in range(len(self.levels)):
            windows = self.patches.draw(np.random.default_rng([6, level]), level, _COUNTED)
            found.append(self._contexts(windows).flatten(0, 1))
        mean = torch.stack([f.mean(0) for f in found]).mean(0)
        square = torch.stack([f.square().mean(0) for f in found]).mean(0)
        self.network.mean.copy_(mean)
        self.network.deviation.copy_((square - mean**2).clamp(min=1e-8).sqrt())

    @torch.no_grad()
    def _contexts(self, windows: Windows) -> Tensor:
        shifts = None if windows.shifts is None else torch.from_numpy(windows.shifts)
        return self.given[0].context(windows.grids, windows.level, shifts)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Draw `size` windows of one level, each with its parent's noise."""
        level = int(rng.choice(len(self.levels), p=self.levels / self.levels.sum()))
        return self._items(self.patches.draw(rng, level, -(-size // REPEATS[level])), size, rng)

    def _items(self, windows: Windows, size: int, rng: np.random.Generator) -> dict[str, Tensor]:
        where = np.arange(len(windows.pixels)).repeat(REPEATS[windows.level])[:size]
        loss = PARENTS * rng.random(len(where)) ** 2
        out = {
            "pixels": torch.from_numpy(windows.pixels[where]),
            "grid": torch.from_numpy(windows.grids),
            "where": torch.from_numpy(where),
            "loss": torch.from_numpy(loss.astype(np.float32)),
            "spoil": torch.from_numpy(rng.standard_normal((len(where), 6, 32, 32), np.float32)),
            "level": torch.full((len(where),), windows.level),
        }
        if windows.shifts is not None:
            out["shift"] = torch.from_numpy(windows.shifts)
        return out

    def _errors(self, batch: dict[str, Tensor]) -> Tensor:
        """Squared error of each item, (size,); the mean context has 1."""
        vae, summarizer = self.given[0].vae, self.given[0].summarizer
        device = batch["spoil"].device
        if vae.mean.device != device:
            vae.to(device)
            summarizer.to(device)
        with torch.no_grad():
            planes = coarse_planes(to_signed(batch["pixels"]))
            hint = vae.from_planes(enlarged(pooled(planes)))
            hint = hint + batch["loss"].view(-1, 1, 1, 1) * batch["spoil"]
            levels = batch["level"][:1].expand(len(batch["grid"]))
            wanted = summarizer(batch["grid"], levels, batch.get("shift"))[batch["where"]]
        found = self.network.predict(hint, batch["level"], batch["loss"])
        return (found.float() - self.network.standardised(wanted)).square().mean((1, 2))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean loss, and the level's loss as `level/20x` and so on."""
        loss = self._errors(batch).mean()
        return {"loss": loss, f"level/{NAMES[int(batch['level'][0])]}": loss.detach()}

    def held_out(self) -> dict[str, float]:
        """Losses on fixed windows by level; the mean context has 1."""
        found = {}
        device = self.network.mean.device
        for name, store in (("seen", self.patches), ("held-out", self.held_out_patches)):
            for level in range(len(self.levels) if store is not None else 0):
                assert store is not None
                windows = store.draw(np.random.default_rng([7, level]), level, _FIXED)
                batch = self._items(windows, _FIXED, np.random.default_rng([8, level]))
                errors = self._errors({k: v.to(device) for k, v in batch.items()})
                found[f"{name}/{NAMES[level]}"] = float(errors.mean())
        return found
