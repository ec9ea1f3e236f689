"""The published models' own outputs and trainings, recorded at a reduced size."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoomldm.errors import ConfigError
from zoomldm.mil.models.attention import cross_entropy
from zoomldm.mil.models.clam import ClamSB, smooth_top1_svm
from zoomldm.mil.models.dsmil import DSMIL

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}


def tape(shared: Path, name: str) -> dict:
    return torch.load(shared / "parity" / "mil" / f"{name}.pt", weights_only=True)


def close(ours: Tensor, theirs: Tensor, tolerance: float | None = None) -> None:
    limit = tolerance or TOLERANCE[theirs.dtype]
    torch.testing.assert_close(ours.reshape(theirs.shape), theirs, atol=limit, rtol=limit)


def grad_norms(model: torch.nn.Module) -> list[float]:
    return sorted(p.grad.norm().item() for p in model.parameters() if p.grad is not None)


def train(model: ClamSB | DSMIL, bags: list[Tensor], order: list[int]) -> Tensor:
    """Losses of a training by Adam as the benchmark runs it.

    The recorded trainings begin with the last recorded bag's gradient still in place.
    """
    adam = torch.optim.Adam(model.parameters(), lr=2e-4, weight_decay=1e-5, foreach=True)
    losses = []
    if isinstance(model, ClamSB):
        model.subtyping, model.instance_loss = True, "ce"
    model.loss(bags[-1], 1).backward()
    if isinstance(model, ClamSB):
        model.subtyping, model.instance_loss = False, "svm"
    for i in order:
        loss = model.loss(bags[i], i % 2)
        losses.append(loss.item())
        loss.backward()
        adam.step()
        adam.zero_grad()
    return torch.tensor(losses, dtype=torch.float64)


def redraw(seed: int, sizes: list[int], dim: int = 384) -> list[Tensor]:
    """The bags of a tape, two a size, of which it stores the smaller only."""
    generator = torch.Generator().manual_seed(seed)
    bags = []
    for size in sizes:
        for _ in range(2):
            x = torch.randn(size, dim, generator=generator)
            scale = 0.5 + torch.rand(1, dim, generator=generator)
            bags.append(x * scale + 0.3 * torch.randn(1, dim, generator=generator))
    return bags


def test_smooth_top1_svm(shared: Path) -> None:
    for case in tape(shared, "smooth_top1_svm")["cases"]:
        scores = case["x"].clone().requires_grad_()
        loss = smooth_top1_svm(scores, case["y"])
        loss.backward()
        close(loss.detach(), case["loss"])
        close(scores.grad, case["grad"])


@pytest.mark.parametrize(("name", "hidden"), [("clam_sb", 512), ("clam_sb_hipt_variant", 384)])
@pytest.mark.parametrize("loss", ["svm", "ce"])
@pytest.mark.parametrize("subtyping", [False, True])
def test_clam(shared: Path, name: str, hidden: int, loss: str, subtyping: bool) -> None:
    recorded = tape(shared, name)
    for dtype, short in ((torch.float32, "f32"), (torch.float64, "f64")):
        model = ClamSB(384, hidden=hidden, dropout=0, subtyping=subtyping, instance_loss=loss).to(
            dtype
        )
        model.load_published(
            {k: v.to(dtype) for k, v in recorded["init_state"].items() if v.is_floating_point()}
        )
        for case in recorded["cases"]:
            x, y = case["x"].to(dtype), int(case["y"])
            theirs = case[f"{short}_subtyping{int(subtyping)}_{loss}"]
            with torch.no_grad():
                output = model(x)
            close(output.scores, theirs["A_raw"])
            close(output.mean, theirs["M"])
            close(output.logits, theirs["logits"])
            close(model.probabilities(x).detach(), theirs["prob"])
            with torch.no_grad():
                close(cross_entropy(output.logits, y), theirs["bag_loss"])
                close(model.cluster_loss(output.hidden, output.scores, y), theirs["instance_loss"])
                close(model.loss(x, y), theirs["total_loss"])
            found = model.clusters(output.scores, y)
            assert torch.cat([t for _, _, t in found]).tolist() == theirs["inst_labels"].tolist()
            predicted = [layer(output.hidden[rows]).argmax(1) for layer, rows, _ in found]
            assert torch.cat(predicted).tolist() == theirs["inst_preds"].tolist()
            model.zero_grad()
            model.loss(x, y).backward()
            norms = theirs["grad_norms"]
            limit = 2e-5 if dtype == torch.float32 else 1e-8
            for key, parameter in (
                ("attention_net.0.weight", model.fc.weight),
                ("classifiers.weight", model.classifier.weight),
                ("instance_classifiers.0.weight", model._instance(0).weight),
                ("instance_classifiers.1.weight", model._instance(1).weight),
            ):
                if norms[key] is None:
                    assert parameter.grad is None
                else:
                    assert parameter.grad.norm().item() == pytest.approx(
                        norms[key], rel=limit, abs=limit
                    )


def test_clam_takes_other_published_names() -> None:
    model, other = ClamSB(6, hidden=5, width=4), ClamSB(6, hidden=5, width=4)
    v, u = model.attention.vu.weight.detach().chunk(2)
    vb, ub = model.attention.vu.bias.detach().chunk(2)
    state = {
        "attention_net.module.0.weight": model.fc.weight,
        "attention_net.module.0.bias": model.fc.bias,
        "attention_net.module.3.attention_a.0.weight": v,
        "attention_net.module.3.attention_a.0.bias": vb,
        "attention_net.module.3.attention_b.0.weight": u,
        "attention_net.module.3.attention_b.0.bias": ub,
        "attention_net.module.3.attention_c.weight": model.attention.w.weight,
        "attention_net.module.3.attention_c.bias": model.attention.w.bias,
        "classifiers.weight": model.classifier.weight,
        "classifiers.bias": model.classifier.bias,
        "instance_loss_fn.labels": torch.tensor([0, 1]),
    }
    state |= {k: v for k, v in model.state_dict().items() if k.startswith("instance")}
    other.load_published(state)
    x = torch.randn(3, 6)
    assert torch.equal(model.eval().probabilities(x), other.eval().probabilities(x))
    with pytest.raises(ConfigError, match=r"do not fit ClamSB.*fc\.bias"):
        other.load_published({k: v for k, v in state.items() if "module.0.bias" not in k})


def test_dsmil(shared: Path) -> None:
    recorded = tape(shared, "dsmil")
    for dtype, short in ((torch.float32, "f32"), (torch.float64, "f64")):
        model = DSMIL(384).to(dtype)
        model.load_published(recorded["init_state"])
        for case in recorded["cases"]:
            x, y, theirs = case["x"].to(dtype), int(case["y"].argmax()), case[short]
            with torch.no_grad():
                streams = model.streams(x)
            close(streams.instances, theirs["ins"])
            close(streams.bag, theirs["bag"])
            close(streams.attention, theirs["A"])
            close(streams.values, theirs["B"])
            close(streams.bag.sigmoid(), theirs["score_bag"])
            assert streams.instances.argmax(0).tolist() == theirs["critical"].tolist()
            model.zero_grad()
            loss = model.loss(x, y)
            loss.backward()
            close(loss.detach(), theirs["total_loss"])
            limit = 2e-5 if dtype == torch.float32 else 1e-8
            assert grad_norms(model) == pytest.approx(
                sorted(theirs["grad_norms"].values()), rel=limit, abs=limit
            )


def test_dsmil_hipt(shared: Path) -> None:
    recorded = tape(shared, "dsmil_hipt_variant")
    model = DSMIL(384, hipt=True)
    model.load_published(recorded["init_state"])
    for case in recorded["cases"]:
        with torch.no_grad():
            streams, logits = model.streams(case["x"]), model(case["x"]).logits
            close(model.loss(case["x"], int(case["y"])) * 32, case["loss"])
        close(streams.instances, case["ins"])
        close(streams.bag, case["bag"])
        close(streams.attention, case["A"])
        close(streams.values, case["B"])
        close(logits, case["logits"])
        close(logits.softmax(-1), case["prob"])


def test_dsmil_training(shared: Path) -> None:
    recorded = tape(shared, "dsmil")
    bags = redraw(11, [1, 2, 9, 64, 128])
    for ours, case in zip(bags, recorded["cases"], strict=False):
        assert torch.equal(ours, case["x"])
    model, train = DSMIL(384), recorded["train"]
    model.load_published(recorded["train_init_state"])
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.5, 0.9), weight_decay=1e-3)
    losses = []
    for rate in train["lrs"]:
        adam.param_groups[0]["lr"] = rate
        for i in train["order"]:
            target = F.one_hot(torch.tensor(i % 2), 2).float()
            streams = model.streams(bags[i])
            parts = [
                F.binary_cross_entropy_with_logits(streams.bag, target),
                F.binary_cross_entropy_with_logits(streams.instances.amax(0), target),
                model.loss(bags[i], i % 2),
            ]
            losses.append([part.item() for part in parts])
            adam.zero_grad()
            parts[-1].backward()
            adam.step()
    close(torch.tensor(losses, dtype=torch.float64), train["losses"], 1e-4)


@pytest.mark.parametrize(("name", "hidden"), [("clam_sb", 512), ("clam_sb_hipt_variant", 384)])
def test_clam_training(shared: Path, name: str, hidden: int) -> None:
    recorded = tape(shared, name)
    bags = redraw(7, [8, 9, 16, 64, 128, 700])
    assert torch.equal(bags[7], recorded["cases"][7]["x"])
    model = ClamSB(384, hidden=hidden, dropout=0)
    model.load_published(recorded["init_state"])
    losses = train(model, bags, recorded["train"]["order"])
    close(losses, recorded["train"]["losses"][:, 2], 1e-4)


def test_dsmil_hipt_training(shared: Path) -> None:
    recorded = tape(shared, "dsmil_hipt_variant")
    bags = redraw(13, [2, 9, 64, 128, 700])
    assert torch.equal(bags[5], recorded["cases"][5]["x"])
    model = DSMIL(384, hipt=True)
    model.load_published(recorded["init_state"])
    losses = train(model, bags, recorded["train"]["order"])
    close(losses * recorded["train"]["loss_div"], recorded["train"]["losses"], 1e-4)
