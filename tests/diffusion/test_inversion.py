"""Inversion finds the grid that an image was made under, where that can be known."""

import pytest
import torch

from zoomldm.diffusion.inversion import InversionSettings, invert_grid
from zoomldm.errors import ConfigError
from zoomldm.networks.summarizers import standardise


def test_the_grid_that_made_the_image_is_found() -> None:
    """A denoiser that knows the image from its context alone: latents are a map of the tokens."""
    generator = torch.Generator().manual_seed(0)
    dim = 12
    wanted = standardise(torch.randn(2, 2, dim, generator=generator))
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]

    def latents_of(tokens: torch.Tensor) -> torch.Tensor:
        return (tokens @ mixing).permute(0, 3, 1, 2)

    alphas = torch.linspace(0.999, 0.01, 1000)
    clean = latents_of(wanted[None])
    times: list[int] = []

    def denoise(x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        times.append(int(time))
        alpha = alphas[time].view(-1, 1, 1, 1)
        return (x - alpha.sqrt() * latents_of(context)) / (1 - alpha).sqrt()

    def noise(step: int) -> torch.Tensor:
        return torch.randn(clean.shape, generator=torch.Generator().manual_seed(step))

    start = torch.randn(2, 2, dim, generator=generator)
    settings = InversionSettings(together=0)
    found = invert_grid(denoise, lambda grid: grid, clean, start, noise, alphas, settings)
    before = torch.nn.functional.cosine_similarity(standardise(start), wanted, dim=-1)
    after = torch.nn.functional.cosine_similarity(found, wanted, dim=-1)
    assert after.min() > 0.98 > before.max()
    assert (times[0], times[-1], len(times)) == (949, 49, 200)
    torch.testing.assert_close(found, standardise(found))


def test_tokens_are_drawn_together() -> None:
    start = torch.randn(4, 4, 16, generator=torch.Generator().manual_seed(0))
    alphas = torch.linspace(0.999, 0.01, 1000)
    found = invert_grid(
        lambda x, time, context: 0 * context.sum() + torch.zeros_like(x),
        lambda grid: grid,
        torch.zeros(1, 3, 4, 4),
        start,
        lambda step: torch.zeros(1, 3, 4, 4),
        alphas,
        InversionSettings(steps=100),
    )
    unit = torch.nn.functional.normalize(found.flatten(0, 1), dim=-1)
    assert float((unit @ unit.T).mean()) > 0.9


@pytest.mark.parametrize(
    ("given", "line"),
    [({"steps": 0}, "steps is 0"), ({"rate": 0}, "rate is 0"), ({"most": 40}, "least is 50")],
)
def test_settings_refused(given: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        InversionSettings(**given)
