"""A stage of a few hundred weights with everything that a resume can get wrong."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoomldm.training.stage import Stage


class ToyStage(Stage):
    """Strided and channels-last convolutions, running statistics, a branch used now and then."""

    name = "toy"
    sparse = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 3, 3)
        )
        self.rare = nn.Conv2d(3, 3, 3, padding=1)

    def networks(self) -> dict[str, nn.Module]:
        return {"net": self.net, "rare": self.rare}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        x = rng.standard_normal((size, 3, 8, 8), dtype=np.float32)
        return {"x": torch.from_numpy(x), "rare": torch.tensor(float(rng.random() < 0.3))}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = self.rare(batch["x"]) if batch["rare"] > 0 else batch["x"]
        loss = (self.net(x) - batch["x"][:, :, 1:-1, 1:-1] ** 2).square().mean()
        return {"loss": loss, "square": loss.detach() ** 2}

    def held_out(self) -> dict[str, float]:
        return {"sum": float(sum(p.double().sum() for p in self.net.parameters()))}

    def pictures(self) -> np.ndarray:
        return np.zeros((4, 4, 3), np.uint8)

    def save(self, folder: Path) -> None:
        for name, network in self.networks().items():
            flat = {k: v.contiguous() for k, v in network.state_dict().items()}
            save_file(flat, folder / f"{name}.safetensors")
