"""AUC, balanced accuracy, F1; tests of paired folds. NumPy only."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: probability that a positive outranks a negative, ties half.

    Args:
        positive: (n,) bool.
        score: (n,) numbers.

    Returns:
        0 to 1, or NaN where one of the two kinds is absent.
    """
    positive = np.asarray(positive, dtype=bool)
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return math.nan
    ranks = midranks(score)
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; ties share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[inverse]


def case_interval(
    positive: np.ndarray, scores: np.ndarray, cases: Sequence[str], draws: int = 2000
) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC, drawing whole cases, as many of each class as there are.

    With few cases it is too narrow: what no case shows, no draw can show.

    Args:
        positive: (n,) bool.
        scores: (repeats, n); the AUC is the mean over the repeats.
        cases: n ids; a case is positive if any of its rows is.
        draws: bootstrap samples.

    Returns:
        Low and high; NaN where a class is absent.
    """
    rows: dict[str, list[int]] = {}
    for i, case in enumerate(cases):
        rows.setdefault(case, []).append(i)
    kinds = [
        [r for r in rows.values() if bool(positive[r].any()) is kind] for kind in (False, True)
    ]
    if not all(kinds):
        return math.nan, math.nan
    generator, found = np.random.default_rng(0), []
    for _ in range(draws):
        drawn = np.concatenate(
            [kind[i] for kind in kinds for i in generator.integers(0, len(kind), len(kind))]
        )
        found.append(np.mean([auc(positive[drawn], s[drawn]) for s in scores]))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)


def roc(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates (m,), from (0, 0) to (1, 1)."""
    positive = np.asarray(positive, dtype=bool)
    order = np.argsort(-np.asarray(score), kind="stable")
    hits, score = positive[order], np.asarray(score)[order]
    ends = np.r_[np.nonzero(np.diff(score))[0], len(score) - 1]
    true = np.r_[0, np.cumsum(hits)[ends]] / max(hits.sum(), 1)
    false = np.r_[0, np.cumsum(~hits)[ends]] / max((~hits).sum(), 1)
    return false, true


@dataclass(frozen=True)
class Measures:
    """How good the predictions of one test set are; NaN where a class is absent from it."""

    auc: float
    balanced_accuracy: float
    f1: float


def measure(labels: np.ndarray, probabilities: np.ndarray) -> Measures:
    """Measures of predictions.

    With two classes the AUC and the F1 are those of class 1; with more, both are the mean over
    the classes, one against the rest.

    Args:
        labels: (n,) int.
        probabilities: (n, classes).
    """
    labels, count = np.asarray(labels), probabilities.shape[1]
    predicted = probabilities.argmax(1)
    recalls, f1s, aucs = [], [], []
    for c in range(count):
        hits = int(((predicted == c) & (labels == c)).sum())
        actual, claimed = int((labels == c).sum()), int((predicted == c).sum())
        recalls.append(hits / actual if actual else math.nan)
        f1s.append(2 * hits / (actual + claimed) if actual + claimed else math.nan)
        aucs.append(auc(labels == c, probabilities[:, c]))
    if count == 2:
        return Measures(aucs[1], float(np.mean(recalls)), f1s[1])
    return Measures(float(np.mean(aucs)), float(np.mean(recalls)), float(np.mean(f1s)))


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of what isn't NaN; NaN where nothing is left."""
    kept = [v for v in values if not math.isnan(v)]
    if not kept:
        return math.nan, math.nan
    return float(np.mean(kept)), float(np.std(kept, ddof=1)) if len(kept) > 1 else math.nan


@dataclass(frozen=True)
class Paired:
    """A comparison of two models over the same folds.

    Attributes:
        difference: mean of first minus second.
        p_corrected: of the t-test corrected for overlapping training sets, two-sided.
        p_sign_flip: of the exact sign-flip permutation test, two-sided; folds taken as
            independent, which overlapping ones are not: it is too small.
        folds: how many folds both have.
    """

    difference: float
    p_corrected: float
    p_sign_flip: float
    folds: int


def paired(first: Sequence[float], second: Sequence[float], test_share: float) -> Paired:
    """Compare two models over the same folds.

    The corrected resampled t-test (Nadeau and Bengio 2003, "Inference for the generalization
    error", eq. 9) adds test/train to 1/folds, since folds that share training slides vary too
    little.

    Args:
        first: a value per fold; NaN for a fold that has none.
        second: the same for the other model.
        test_share: slides of the test set over those of the training set.
    """
    differences = np.subtract(first, second)
    differences = differences[~np.isnan(differences)]
    n = len(differences)
    if n < 2:
        return Paired(float(differences.mean()) if n else math.nan, math.nan, math.nan, n)
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread == 0:
        p = 1.0 if mean == 0 else 0.0
    else:
        p = t_tail(abs(mean) / (spread * math.sqrt(1 / n + test_share)), n - 1)
    return Paired(mean, p, _sign_flip(differences), n)


def t_tail(t: float, freedom: int) -> float:
    """Two-sided tail of Student's t.

    With t = sqrt(freedom) tan(a), its density over the angle a is cos(a) ** (freedom - 1).
    """

    def integral(low: float) -> float:
        angles = np.linspace(low, math.pi / 2, 20001)
        return float(np.trapezoid(np.cos(angles).clip(0) ** (freedom - 1), angles))

    return integral(math.atan(t / math.sqrt(freedom))) / integral(0.0)


def _sign_flip(differences: np.ndarray) -> float:
    n, observed = len(differences), abs(differences.mean())
    if n <= 14:
        signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    else:
        signs = np.random.default_rng(0).choice([-1, 1], size=(20000, n))
    means = np.abs((signs * differences).mean(1))
    return float((means >= observed - 1e-12).mean())
