"""The embedding diffusion's small network: conditions, their nulls, where a parent lies."""

import pytest
import torch

from zoomldm.networks.context_dit import ContextDiT, matching_quarter


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
    seen = network._parent(torch.arange(16.0).reshape(1, 16, 1).expand(1, 16, 12) + 1)
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
