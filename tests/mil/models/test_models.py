"""Gradients by hand against autograd; small bags; the packed optimiser."""

from collections.abc import Callable

import pytest
import torch

from zoomldm.errors import ConfigError
from zoomldm.mil.models.attention import ABMIL, BagModel, GatedAttention
from zoomldm.mil.models.clam import ClamSB
from zoomldm.mil.models.dsmil import DSMIL
from zoomldm.mil.models.optimiser import PackedAdam
from zoomldm.mil.models.pooling import MaxInstance, Pooled
from zoomldm.mil.protocol import MODELS, PROTOCOLS, build_model

MAKERS: dict[str, Callable[[], BagModel]] = {
    "abmil": lambda: ABMIL(12, hidden=16, width=8),
    "abmil without dropout": lambda: ABMIL(12, hidden=16, width=8, dropout=0),
    "clam": lambda: ClamSB(12, hidden=16, width=8),
    "clam, three classes": lambda: ClamSB(12, 3, hidden=16, width=8, subtyping=True),
    "clam, cross-entropy": lambda: ClamSB(12, hidden=16, width=8, instance_loss="ce"),
    "max-instance": lambda: MaxInstance(12, hidden=16),
    "max-instance, three classes": lambda: MaxInstance(12, 3, hidden=16),
    "dsmil": lambda: DSMIL(12),
    "dsmil, hipt": lambda: DSMIL(12, hipt=True),
    "mean": lambda: Pooled(12),
    "max": lambda: Pooled(12, pool="max"),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("instances", [1, 3, 7, 8, 40])
def test_gradients(name: str, instances: int) -> None:
    torch.manual_seed(instances)
    model, x = MAKERS[name]().double().train(), 4 * torch.randn(instances, 12).double()
    torch.manual_seed(1)
    model.loss(x, 1).backward()
    expected = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.manual_seed(1)  # the same dropout
    model.backward(x, 1)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("name", MAKERS)
def test_packed_adam_is_adam(name: str) -> None:
    """Thirty steps, among them bags of one class only, which leave a part of CLAM untouched."""
    torch.manual_seed(0)
    ours, theirs = MAKERS[name]().double(), MAKERS[name]().double()
    theirs.load_state_dict(ours.state_dict())
    packed = PackedAdam(ours, 2e-3, 1e-2)
    adam = torch.optim.Adam(theirs.parameters(), lr=2e-3, weight_decay=1e-2)
    ours.train(), theirs.train()
    for step in range(30):
        x, y = torch.randn(5, 12).double(), int(step > 20)
        torch.manual_seed(step)
        ours.backward(x, y)
        packed.step(ours.trained(y))
        torch.manual_seed(step)
        adam.zero_grad()
        theirs.loss(x, y).backward()
        adam.step()
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if key != "attention.w.bias":  # its gradient is zero but for rounding, which Adam scales up
            torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_packed_adam_is_the_default_adam_to_the_bit() -> None:
    torch.manual_seed(0)
    ours, theirs = ClamSB(24), ClamSB(24)
    theirs.load_state_dict(ours.state_dict())
    packed = PackedAdam(ours, 2e-4, 1e-5)
    adam = torch.optim.Adam(theirs.parameters(), lr=2e-4, weight_decay=1e-5)
    for _ in range(60):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.grad = torch.randn_like(b) / 100
            assert a.grad is not None
            a.grad.copy_(b.grad)
        packed.step([0, 1, 2])
        adam.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_clam_trains_as_autograd_and_adam_do_to_the_bit() -> None:
    torch.manual_seed(0)
    ours, theirs = ClamSB(24), ClamSB(24)
    theirs.load_state_dict(ours.state_dict())
    packed = PackedAdam(ours, 2e-3, 1e-5)
    adam = torch.optim.Adam(theirs.parameters(), lr=2e-3, weight_decay=1e-5)
    ours.train(), theirs.train()
    for step in range(40):
        x, y = torch.randn(3 + step, 24), step % 2
        torch.manual_seed(step)
        ours.backward(x, y)
        packed.step(ours.trained(y))
        torch.manual_seed(step)
        adam.zero_grad()
        theirs.loss(x, y).backward()
        adam.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", [m for m in MODELS if m != "logistic"])
@pytest.mark.parametrize("protocol", ["hipt", "clean"])
@pytest.mark.parametrize("classes", [2, 3])
def test_models_take_bags_of_any_size(name: str, protocol: str, classes: int) -> None:
    model = build_model(name, 20, classes, PROTOCOLS[protocol])
    for instances in (1, 2, 9):
        x = torch.randn(instances, 20)
        model.train().backward(x, classes - 1)
        output = model.eval()(x)
        assert output.logits.shape == (classes,)
        assert output.attention is None or output.attention.shape == (instances,)
        assert model.probabilities(x).sum().item() == pytest.approx(1)


def test_the_order_of_instances_does_not_matter() -> None:
    x = torch.randn(11, 12)
    for make in MAKERS.values():
        model = make().eval()
        a, b = model(x), model(x.flip(0))
        torch.testing.assert_close(a.logits, b.logits)
        if a.attention is not None and b.attention is not None:
            torch.testing.assert_close(a.attention, b.attention.flip(0))


def test_variants() -> None:
    hipt, clean = PROTOCOLS["hipt"], PROTOCOLS["clean"]
    clam = build_model("clam-sb", 384, 2, hipt)
    assert isinstance(clam, ClamSB)
    assert clam.fc.out_features == 384
    assert clam.fc.bias.abs().sum() == 0
    for half in clam.attention.vu.weight.chunk(2):  # Xavier: sqrt(2 / (384 + 256))
        assert half.std().item() == pytest.approx(0.0559, rel=0.02)
    original = build_model("clam-sb", 384, 2, clean)
    assert isinstance(original, ClamSB)
    assert original.fc.out_features == 512
    named = build_model("dsmil:original", 20, 2, hipt)
    assert isinstance(named, DSMIL)
    assert not named.hipt
    with pytest.raises(ConfigError, match="'clam' is unknown: use clam-sb"):
        build_model("clam", 20, 2, hipt)
    with pytest.raises(ConfigError, match="svm or ce"):
        ClamSB(4, instance_loss="hinge")


def test_attention_state_is_one_matrix_a_branch() -> None:
    assert GatedAttention(6, 4).vu.weight.shape == (8, 6)
