"""Low-pass latents: a linear map that is known exactly, and a decoder that is local."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from zoomldm.networks.lowpass import (
    LowPassAutoencoder,
    Planes,
    coarse_planes,
    enlarged,
    fold,
    planes_image,
    pooled,
    restoring,
    unfold,
)


@pytest.fixture
def vae() -> LowPassAutoencoder:
    torch.manual_seed(0)
    vae = LowPassAutoencoder(widths=(16, 8, 8), depths=(2, 2, 1))
    torch.nn.init.normal_(vae.leave.weight, std=0.1)
    vae.fit(torch.linspace(-1, 1, 24), torch.linspace(2, 0.1, 24))
    return vae.eval().requires_grad_(False)


def picture(seed: int = 0, side: int = 64) -> torch.Tensor:
    return torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_fold_is_orthonormal_and_undone() -> None:
    x = torch.randn(2, 3, 16, 24)
    z = fold(x, 4)
    assert z.shape == (2, 48, 4, 6)
    torch.testing.assert_close(z.square().sum(), x.square().sum())
    torch.testing.assert_close(unfold(z, 4), x)


def test_planes_are_means_in_opponent_colours() -> None:
    grey = torch.full((1, 3, 16, 16), 0.5)
    planes = LowPassAutoencoder(widths=(8, 8, 8), depths=(1, 1, 1)).planes(grey)
    torch.testing.assert_close(planes.luma, torch.full((1, 1, 4, 4), 0.5 * 3**0.5))
    torch.testing.assert_close(planes.chroma, torch.zeros(1, 2, 2, 2))


def test_latents_are_a_linear_map_of_the_planes(vae: LowPassAutoencoder) -> None:
    planes = vae.planes(picture())
    for found, wanted in zip(vae.to_planes(vae.from_planes(planes)), planes, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_bands_leave_with_the_root_of_their_deviation() -> None:
    vae = LowPassAutoencoder(widths=(8, 8, 8), depths=(1, 1, 1))
    mean, std = torch.linspace(-1, 1, 24), torch.linspace(3, 0.2, 24)
    vae.fit(mean, std)
    bands = mean + std * torch.randn(4000, 24)
    scaled = ((bands - mean) / vae.scale).std(0)
    torch.testing.assert_close(scaled / scaled[0], (std / std[0]).sqrt(), atol=0.08, rtol=0)
    assert abs(float(scaled.square().mean()) - 1) < 0.1


def test_latents_turn_and_shift_with_the_image(vae: LowPassAutoencoder) -> None:
    vae.mean.zero_()
    vae.scale.fill_(1)
    x = picture(side=96)
    shifted = vae.planes(x[..., 16:80, 16:80])
    whole = vae.planes(x)
    torch.testing.assert_close(shifted.luma, whole.luma[..., 4:20, 4:20])
    turned = vae.planes(torch.rot90(x, 1, (2, 3)))
    torch.testing.assert_close(turned.chroma, torch.rot90(whole.chroma, 1, (2, 3)))


def test_an_enlarged_parent_averages_down_to_itself() -> None:
    planes = Planes(torch.randn(1, 1, 8, 8), torch.randn(1, 2, 4, 4))
    for found, wanted in zip(pooled(enlarged(planes)), planes, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_image_of_planes_has_these_planes() -> None:
    planes = Planes(torch.randn(1, 1, 8, 8), torch.randn(1, 2, 4, 4))
    for found, wanted in zip(coarse_planes(planes_image(planes)), planes, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_decoded_image_averages_down_to_its_latents(vae: LowPassAutoencoder) -> None:
    latents = vae.encode(picture())
    image = vae.decode(latents, torch.randn(2, 2, 8, 8))
    small = planes_image(vae.to_planes(latents))
    torch.testing.assert_close(F.avg_pool2d(image, 4), small, atol=1e-5, rtol=0)
    smooth = F.interpolate(small, scale_factor=4, mode="bicubic")
    assert (image - smooth).abs().mean() > 0.01  # the network has its say


def test_missing_means_made_good_smoothly_leave_no_squares(vae: LowPassAutoencoder) -> None:
    """Added to squares of 4 px alone, they show as steps between these."""
    latents = vae.encode(F.interpolate(picture(side=8), scale_factor=8, mode="bicubic"))
    seen = {}
    for smooth in (None, 2):
        vae.register_to_config(smooth=smooth)
        image = vae.assembled(latents, torch.zeros(2, 3, 64, 64))
        small = planes_image(vae.to_planes(latents))
        torch.testing.assert_close(F.avg_pool2d(image, 4), small, atol=1e-5, rtol=0)
        steps = image.diff(dim=-1).abs().mean((0, 1, 2))
        lines = steps[3::4].mean()
        seen[smooth] = float(lines / steps.mean())
    assert seen[None] > 1.1 and seen[2] < 1, seen


def test_noise_and_level_count(vae: LowPassAutoencoder) -> None:
    torch.nn.init.normal_(vae.level.weight)
    latents = vae.encode(picture())
    plain = vae.decode(latents)
    assert (vae.decode(latents, torch.randn(2, 2, 8, 8)) - plain).abs().max() > 1e-4
    assert (vae.decode(latents, level=torch.tensor([3, 3])) - plain).abs().max() > 1e-4


@pytest.fixture
def restorer(vae: LowPassAutoencoder) -> LowPassAutoencoder:
    return restoring(vae).eval().requires_grad_(False)


def test_expected_latents_get_the_texture_that_they_lack(
    vae: LowPassAutoencoder, restorer: LowPassAutoencoder
) -> None:
    latents, expected = vae.encode(picture()), torch.tensor([0, 1])
    before = vae.decode(latents)
    assert not restorer.restores  # it has not learned to
    assert restoring(restorer) is restorer
    torch.testing.assert_close(restorer.decode(latents, expected=expected), before)
    assert restorer.texture is not None
    torch.nn.init.normal_(restorer.texture.weight, std=0.1)
    assert restorer.restores and not vae.restores
    image = restorer.decode(latents, expected=expected)
    torch.testing.assert_close(image[0], before[0])
    torch.testing.assert_close(restorer.decode(latents), before)
    _, texture = restorer.details(latents, expected=expected)
    assert not texture[0].any() and texture[1].std() > 0.01
    assert not texture[:, 0].any()  # what is coarser than a cell stays as given
    small = planes_image(vae.to_planes(latents + texture))
    torch.testing.assert_close(F.avg_pool2d(image, 4), small, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("smooth", "restores"), [(None, False), (2, False), (2, True)])
def test_decoding_depends_on_no_more_than_the_halo(
    vae: LowPassAutoencoder, restorer: LowPassAutoencoder, smooth: int | None, restores: bool
) -> None:
    if restores:
        vae = restorer
        assert vae.texture is not None
        torch.nn.init.normal_(vae.texture.weight, std=0.1)
    vae.register_to_config(smooth=smooth)
    side, halo = 40, vae.halo
    a = torch.randn(1, 6, side, side, generator=torch.Generator().manual_seed(1))
    b = a.clone()
    b[..., halo + 2 :] = 0  # far to the right of the first two columns of cells
    near = slice(0, 16)
    ones = torch.ones(1)
    first, second = (vae.decode(x, expected=ones) for x in (a, b))
    torch.testing.assert_close(first[..., near], second[..., near], atol=1e-5, rtol=0)
    assert (first[..., -16:] - second[..., -16:]).abs().max() > 1e-3


def test_a_restorer_is_written_and_read(restorer: LowPassAutoencoder, tmp_path: Path) -> None:
    assert restorer.texture is not None and restorer.mark is not None
    torch.nn.init.normal_(restorer.texture.weight, std=0.1)
    torch.nn.init.normal_(restorer.mark)
    restorer.half().save_pretrained(tmp_path)
    again = LowPassAutoencoder.from_pretrained(tmp_path).eval()
    assert again.restores
    latents, ones = again.encode(picture()), torch.ones(2)
    torch.testing.assert_close(
        again.decode(latents, expected=ones),
        restorer.float().decode(latents, expected=ones),
        atol=1e-3,
        rtol=1e-3,
    )
