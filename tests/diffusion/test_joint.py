"""Joint sampling on networks whose answers are known."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoomldm.diffusion.joint import (
    JointNetworks,
    JointSettings,
    from_velocity,
    sample_joint,
)
from zoomldm.errors import ConfigError

ALPHAS = torch.cumprod(1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2, 0)
SIZE = 16


def ideal(wanted: float, spread: float = 1.0):
    """Noise that a perfect denoiser finds where clean latents are normal about `wanted`."""

    def call(latents: Tensor, time: Tensor, context: Tensor) -> Tensor:
        a = ALPHAS[time].view(-1, 1, 1, 1)
        variance = a * spread**2 + 1 - a
        clean = wanted + a.sqrt() * spread**2 * (latents - a.sqrt() * wanted) / variance
        return (latents - a.sqrt() * clean) / (1 - a).sqrt()

    return call


def draw(inner: int, n: int = 2, batch: int = 16) -> tuple[Tensor, Tensor, list[int]]:
    """Tiles about 0 of a guide about 0.5; images are latents enlarged four times."""
    networks = JointNetworks(
        ideal(0.0, 0.3),
        ideal(0.5, 0.1),
        lambda images: F.avg_pool2d(images, 4),
        lambda latents: latents.repeat_interleave(4, 2).repeat_interleave(4, 3),
        ALPHAS,
        exact_time=True,
    )
    seen: list[int] = []

    def noise(step: int, first: int, last: int) -> Tensor:
        fields = [
            torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(step * 100 + i))
            for i in range(first, last)
        ]
        return torch.stack(fields)

    context = torch.ones(1, 4, 8)
    tiles, guide = sample_joint(
        networks,
        context.expand(n * n, -1, -1),
        context,
        noise,
        lambda step: noise(step, 90, 91),
        JointSettings(inner=inner, extra=0.0, start=1000, stride=100),
        batch,
        seen.append,
    )
    return tiles, guide, seen


def test_tiles_become_what_their_guide_shows() -> None:
    apart, guide, _ = draw(inner=0)
    joint, same, seen = draw(inner=10)
    assert torch.equal(guide, same)  # the guide is not corrected by the tiles
    assert abs(float(guide.mean()) - 0.5) < 0.1 and abs(float(apart.mean())) < 0.1
    assert abs(float(joint.mean()) - 0.5) < 0.5 * abs(float(apart.mean()) - 0.5)
    assert sum(seen) == 10 * 4


def test_batches_change_nothing() -> None:
    torch.testing.assert_close(draw(2, batch=1)[0], draw(2, batch=4)[0], rtol=1e-4, atol=1e-4)


def test_velocity_is_noise_otherwise_told() -> None:
    x, clean = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    time = torch.tensor([10, 900])
    a = ALPHAS[time].view(-1, 1, 1, 1)
    error = (x - a.sqrt() * clean) / (1 - a).sqrt()
    velocity = a.sqrt() * error - (1 - a).sqrt() * clean
    found = from_velocity(lambda *_: velocity, ALPHAS)(x, time, x)
    torch.testing.assert_close(found, error, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "bad", [{"start": 0}, {"stride": 0}, {"inner": -1}, {"push": 0.0}, {"seams": 1001}]
)
def test_constants_out_of_range(bad: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} is"):
        JointSettings(**bad)
    assert JointSettings() == JointSettings(1000, 50, 2.0, 10, 0.005, 0.5, 300)
