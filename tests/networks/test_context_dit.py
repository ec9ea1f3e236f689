"""The embedding diffusion's small network: conditions, their nulls, where a parent lies."""

import json

import pytest
import torch

from zoomldm.diffusion.learned_range import LearnedRange
from zoomldm.errors import ConfigError
from zoomldm.generation.contexts import draw_contexts
from zoomldm.networks.context_dit import ContextDiT, _Neighbours, matching_quarter, signal

SIZES = {"context_dim": 12, "reference_dim": 6, "width": 16, "depth": 2, "heads": 2}


@pytest.fixture
def network() -> ContextDiT:
    torch.manual_seed(0)
    network = ContextDiT(context_dim=12, reference_dim=6, width=16, depth=2, heads=2)
    for values in network.parameters():
        if not values.any():
            torch.nn.init.normal_(values, std=0.1)
    return network.eval()


def inputs(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(count, 64, 12), torch.tensor([5, 500, 999]), torch.tensor([0, 3, 8])


def test_starts_at_zero() -> None:
    network = ContextDiT(context_dim=12, reference_dim=6, width=16, depth=2, heads=2)
    x, time, level = inputs()
    assert not network(x, time, level).any()


@torch.no_grad()
def test_zeros_are_the_null_of_each_item(network: ContextDiT) -> None:
    x, time, level = inputs()
    reference, parent = torch.randn(3, 6), torch.randn(3, 16, 12)
    plain = network(x, time, level)
    reference[0], parent[:2] = 0, 0
    out = network(x, time, level, reference, parent)
    torch.testing.assert_close(out[0], plain[0])
    assert not torch.allclose(out[1], plain[1])
    only = network(x, time, level, torch.zeros(3, 6), parent)
    torch.testing.assert_close(only[:2], plain[:2])
    assert not torch.allclose(only[2], plain[2])


@torch.no_grad()
def test_every_condition_counts(network: ContextDiT) -> None:
    x, time, level = inputs()
    plain = network(x, time, level)
    for other in (network(x, time - 1, level), network(x, time, (level + 1) % 9)):
        assert not torch.allclose(other, plain)


def test_quarters_of_a_parent() -> None:
    context = torch.arange(64.0).reshape(1, 64, 1).expand(4, -1, 2)
    parts = matching_quarter(context, torch.tensor([0, 0, 5, -1]), torch.tensor([2, 7, 4, -3]))
    whole = context[0, :, 0].reshape(8, 8)
    expected = [whole[:4, :4], whole[:4, 4:], whole[4:, :4], whole[4:, 4:]]
    for part, tokens in zip(parts, expected, strict=True):
        assert torch.equal(part[:, 0].reshape(4, 4), tokens)


@torch.no_grad()
def test_a_parent_lies_over_its_cells(network: ContextDiT) -> None:
    parent = torch.arange(16.0).reshape(1, 16, 1).expand(1, 16, 12) + 1
    seen = network._parent(parent, torch.tensor([2]))
    cells = seen.reshape(8, 8, 16)
    assert torch.equal(cells[2, 4], cells[3, 5])
    assert not torch.equal(cells[2, 4], cells[2, 6])


def test_statistics_travel(network: ContextDiT, tmp_path) -> None:
    network.mean.uniform_()
    network.deviation.uniform_(1, 2)
    x = torch.randn(2, 64, 12)
    torch.testing.assert_close(network.restored(network.standardised(x)), x)
    network.save_pretrained(tmp_path)
    loaded = ContextDiT.from_pretrained(str(tmp_path))
    assert torch.equal(loaded.standardised(x), network.standardised(x))


def test_without_reference() -> None:
    network = ContextDiT(context_dim=12, reference_dim=0, width=16, depth=1, heads=2)
    x, time, level = inputs()
    assert network(x, time, level).shape == x.shape


def test_a_network_saved_before_there_were_axes_is_the_same(tmp_path) -> None:
    """Its settings name none of them; weights and their names are as they were."""
    network = ContextDiT(**SIZES)
    network.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    new = ("axes", "unpack", "qk_norm", "neighbours")
    held = {k: v for k, v in json.loads(config.read_text()).items() if k not in new}
    config.write_text(json.dumps(held))
    loaded = ContextDiT.from_pretrained(str(tmp_path))
    assert not loaded.axes
    names = {k.split(".")[0] for k in loaded.state_dict()}
    assert not names & {"scale", "directions", "unpacked"}
    assert not any("gain" in k for k in loaded.state_dict())
    x, time, level = inputs()
    torch.nn.init.normal_(network.out.weight)
    loaded.load_state_dict(network.state_dict())
    assert torch.equal(loaded(x, time, level), network(x, time, level))
    assert torch.equal(loaded.standardised(x), (x - loaded.mean) / loaded.deviation)


def covariances(count: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (levels, n, 12) that lie in five directions, with means and covariances."""
    mixed = torch.randn(5, 12)
    strength = torch.rand(count, 1, 5) + torch.tensor([4.0, 2, 1, 0.5, 0.3])
    tokens = (torch.randn(count, 640, 5) * strength) @ mixed + torch.randn(count, 1, 12)
    mean = tokens.mean(1)
    apart = tokens - mean[:, None]
    return tokens, mean, apart.transpose(1, 2) @ apart / 640


@pytest.fixture
def axial() -> ContextDiT:
    torch.manual_seed(0)
    more = {"axes": 5, "unpack": 4, "qk_norm": True, "neighbours": True}
    network = ContextDiT(**SIZES, **more)
    network.set_axes(*covariances()[1:])
    return network.eval()


def test_the_schedule_is_that_of_sampling() -> None:
    alpha_bar = signal(torch.arange(1000)).double()
    expected = LearnedRange.cosine().alphas
    torch.testing.assert_close(alpha_bar, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(1 - alpha_bar, 1 - expected, rtol=2e-3, atol=0)


def test_axes_hold_contexts_of_low_rank(axial: ContextDiT) -> None:
    torch.manual_seed(0)
    tokens, mean, covariance = covariances()
    axial.set_axes(mean, covariance)
    contexts, level = tokens[:, :64], torch.arange(8)
    found = axial.standardised(contexts, level)
    assert found.shape == contexts.shape and not found[..., 5:].any()
    torch.testing.assert_close(axial.restored(found, level), contexts, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(axial.standardised(contexts[3:4], 3), found[3:4])
    whole = axial.standardised(tokens, level)[..., :5]
    torch.testing.assert_close(whole.mean(1), torch.zeros(8, 5), atol=1e-4, rtol=0)
    variance = whole.var(1)
    torch.testing.assert_close(variance.mean(1), torch.ones(8), atol=0.02, rtol=0)
    torch.testing.assert_close(variance, axial._units()[1][:8], atol=0.02, rtol=0.02)
    assert (variance[:, 0] > variance[:, 4]).all()


def test_a_level_without_contexts_has_the_statistics_of_the_others() -> None:
    _, mean, covariance = covariances()
    mean[5], covariance[5] = 0, 0
    network = ContextDiT(**SIZES, axes=5)
    network.set_axes(mean, covariance)
    others = [0, 1, 2, 3, 4, 6, 7]
    torch.testing.assert_close(network.mean[5], mean[others].mean(0))
    assert (network.deviation[5] > 0).all() and network.deviation.isfinite().all()


@torch.no_grad()
def test_without_corrections_little_noise_is_passed_and_much_is_not(axial: ContextDiT) -> None:
    """An untrained network answers as a Gaussian would: alpha x where the variance is one."""
    x, level = torch.randn(1, 64, 12), torch.tensor([3])
    early = axial(x, torch.tensor([0]), level)
    torch.testing.assert_close(early[..., :5], x[..., :5], atol=0.02, rtol=0.02)
    assert not early[..., 5:].any()
    assert axial(x, torch.tensor([999]), level).abs().max() < 0.01
    axial.deviation.fill_(2)
    time = torch.tensor([400])
    torch.testing.assert_close(axial(x, time, level)[..., :5], signal(time).sqrt() * x[..., :5])


@torch.no_grad()
def test_the_right_correction_gives_the_clean_context(axial: ContextDiT) -> None:
    """With variances of one, what the last layer is to give is minus v, and the loss v's error."""
    axial.deviation.fill_(2)
    clean, noise = torch.randn(2, 2, 64, 5)
    time, level = torch.tensor([30, 700]), torch.tensor([0, 6])
    alpha, sigma = (v.sqrt()[:, None, None] for v in (signal(time), 1 - signal(time)))
    noisy = torch.nn.functional.pad(alpha * clean + sigma * noise, (0, 7))
    v = alpha * noise - sigma * clean
    axial._predicted = lambda *_: -v  # type: ignore[method-assign]
    found = axial(noisy, time, level)
    torch.testing.assert_close(found[..., :5], clean, atol=1e-4, rtol=1e-4)
    axial._predicted = lambda *_: 0.5 - v  # type: ignore[method-assign]
    wrong = axial(noisy, time, level) - torch.nn.functional.pad(clean, (0, 7))
    loss = wrong.square().mean((1, 2)) * axial.error_scale(time)
    torch.testing.assert_close(loss, torch.full((2,), 0.25), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_quarters_of_a_parents_token_differ(axial: ContextDiT) -> None:
    parent = torch.randn(1, 1, 12).expand(1, 16, 12)
    cells = axial._parent(parent, torch.tensor([2])).reshape(8, 8, 16)
    torch.testing.assert_close(cells[0, 1], cells[4, 7])
    torch.testing.assert_close(cells[1, 0], cells[3, 2])
    assert not torch.allclose(cells[0, 0], cells[0, 1])
    other = axial._parent(parent, torch.tensor([4])).reshape(8, 8, 16)
    assert not torch.allclose(other, cells)  # of another level, of other statistics


@torch.no_grad()
def test_linear_layers_see_the_tokens_around() -> None:
    layer = _Neighbours()
    x = torch.randn(1, 64, 16)
    cells, moved = x.reshape(8, 8, 16), layer(x).reshape(8, 8, 16)
    assert torch.equal(moved[..., :8], cells[..., :8])
    assert torch.equal(moved[3, 4, 8:10], cells[2, 4, 8:10])
    assert torch.equal(moved[3, 4, 10:12], cells[4, 4, 10:12])
    assert torch.equal(moved[3, 4, 12:14], cells[3, 3, 12:14])
    assert torch.equal(moved[3, 4, 14:], cells[3, 5, 14:])
    assert not moved[0, :, 8:10].any() and not moved[:, 7, 14:].any()


def test_contexts_are_drawn_along_axes(axial: ContextDiT) -> None:
    """Untrained, what is drawn of a level is a Gaussian of its statistics."""
    torch.manual_seed(0)
    _, mean, covariance = covariances()
    axial.set_axes(mean, covariance)
    sampled = draw_contexts(axial, 2, torch.randn(40, 64, 12), 50).flatten(0, 1)
    torch.testing.assert_close(sampled.mean(0), mean[2], atol=0.5, rtol=0)
    apart = sampled - sampled.mean(0)
    found = apart.T @ apart / len(apart)
    assert (found - covariance[2]).norm() < 0.2 * covariance[2].norm()
    guided = draw_contexts(axial, 2, torch.randn(2, 64, 12), 3, guidance=2.0)
    assert guided.shape == (2, 64, 12) and guided.isfinite().all()


def test_more_axes_than_dimensions() -> None:
    with pytest.raises(ConfigError, match="13 axes; expected 0 to 12"):
        ContextDiT(**SIZES, axes=13)
