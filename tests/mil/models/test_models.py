"""Bags of any size, variants, training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from zoomldm.errors import ConfigError
from zoomldm.mil.bags import read_bags
from zoomldm.mil.models.attention import ABMIL, BagModel, GatedAttention
from zoomldm.mil.models.clam import ClamSB
from zoomldm.mil.models.dsmil import DSMIL
from zoomldm.mil.models.pooling import MaxInstance, Pooled
from zoomldm.mil.protocol import MODELS, PROTOCOLS, build_model, train_model

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


def test_a_bag_trains_its_own_class_alone() -> None:
    """CLAM's other instance classifiers get no gradient, so that weight decay spares them."""
    torch.manual_seed(0)
    model = ClamSB(12, 3, hidden=16, width=8).train()
    model.loss(torch.randn(20, 12), 1).backward()
    trained = [layer.weight.grad is not None for layer in model.instance_classifiers]
    assert trained == [False, True, False]
    assert model.fc.weight.grad is not None


def test_training_is_pytorchs_adam_to_the_bit(make_npz: Callable[..., Path]) -> None:
    """`foreach` is for speed alone."""
    bags, rows = read_bags(make_npz(slides=8)), np.arange(8)
    protocol = replace(PROTOCOLS["hipt"], epochs=3, decay=1e-2)
    torch.manual_seed(0)
    ours = build_model("clam-sb", bags.dim, 2, protocol)
    theirs = build_model("clam-sb", bags.dim, 2, protocol)
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(1)
    train_model(ours, bags, rows, rows[:0], protocol)
    torch.manual_seed(1)
    adam = torch.optim.Adam(theirs.parameters(), lr=protocol.rate, weight_decay=protocol.decay)
    theirs.train()
    for _ in range(3):
        for i in torch.multinomial(torch.full((8,), 2.0).double(), 8, replacement=True).tolist():
            adam.zero_grad()
            theirs.loss(bags.features[i], int(bags.labels[i])).backward()
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
        model.train().loss(x, classes - 1).backward()
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
