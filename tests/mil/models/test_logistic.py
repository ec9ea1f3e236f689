"""Logistic regression by its optimality condition."""

from pathlib import Path

import numpy as np
import pytest

from zoomldm.mil.bags import read_bags
from zoomldm.mil.models.logistic import logistic
from zoomldm.mil.protocol import PROTOCOLS, Task, run_fold
from zoomldm.mil.splits import read_splits


def test_stationary() -> None:
    """The weights of the balanced, penalised objective: its gradient vanishes at the answer."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(60, 3)), (draw.random(60) < 0.3).astype(np.int64)
    x[y == 1] += 0.5
    z = (x - x.mean(0)) / x.std(0)
    logit = np.log(logistic(x, y, x, 2)[:, 1] / logistic(x, y, x, 2)[:, 0])
    w, *_ = np.linalg.lstsq(np.c_[z, np.ones(60)], logit, rcond=None)
    weight = 60 / (2 * np.bincount(y))[y]
    slope = 0.01 * weight * (1 / (1 + np.exp(-logit)) - y)
    assert z.T @ slope + w[:3] == pytest.approx(np.zeros(3), abs=1e-6)
    assert slope.sum() == pytest.approx(0, abs=1e-6)


def test_three_classes_and_a_constant_column() -> None:
    draw = np.random.default_rng(1)
    y = np.arange(90) % 3
    x = np.c_[draw.normal(size=(90, 2)) + np.eye(3)[y][:, :2] * 6, np.ones(90)]
    probabilities = logistic(x, y, x, 3, c=1.0)
    assert probabilities.sum(1) == pytest.approx(np.ones(90))
    assert (probabilities.argmax(1) == y).mean() > 0.95


@pytest.mark.parametrize(("fraction", "expected"), [(0.25, 0.842), (1.0, 0.890)])
def test_tcga_brca(shared: Path, fraction: float, expected: float) -> None:
    """The reference run of another implementation on HIPT's bags, folds and subset."""
    bags = read_bags(shared / "mil" / "tcga_brca_hipt_cls4k_192_fp16.npz")
    folds = read_splits(shared / "mil" / "splits" / "tcga_brca", bags)
    tasks = [(Task("logistic", fraction, 1, fold.index), fold) for fold in folds]
    aucs = [run_fold(task, bags, fold, PROTOCOLS["hipt"])[0].auc for task, fold in tasks]
    assert np.mean(aucs) == pytest.approx(expected, abs=0.001)
