"""Measures of predictions, and tests of paired folds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoomldm import statistics
from zoomldm.errors import ConfigError

try:
    from scipy import stats
    from sklearn.metrics import balanced_accuracy_score, f1_score, roc_curve
except ImportError as error:
    raise ConfigError("MIL needs scikit-learn and scipy: pip install 'zoomldm[mil]'") from error

_EXACT = 15  # up to this many folds, all sign flips are tried


def auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: probability that a positive outranks a negative, ties count half.

    Args:
        positive: (n,) bool.
        score: (n,) numbers.

    Returns:
        0 to 1, or NaN if positives or negatives are absent.
    """
    positive = np.asarray(positive, bool)
    return statistics.auc(score[positive], score[~positive])


def midranks(values: np.ndarray) -> np.ndarray:
    """Rank from 1; ties share their mean rank."""
    return stats.rankdata(values)


def case_interval(
    positive: np.ndarray, scores: np.ndarray, cases: Sequence[str], draws: int = 2000
) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC; whole cases are drawn, with class counts preserved.

    With few cases it is too narrow: draws cannot show variation that no case shows.

    Args:
        positive: (n,) bool.
        scores: (repeats, n); the AUC is the mean over the repeats.
        cases: n ids; a case is positive if any of its rows is.
        draws: bootstrap samples.

    Returns:
        Low and high; NaN if a class is absent.
    """
    names, case_of = np.unique(np.asarray(cases), return_inverse=True)
    with_positive = np.zeros(len(names), bool)
    np.logical_or.at(with_positive, case_of, positive)
    kinds = [np.nonzero(with_positive == kind)[0] for kind in (False, True)]
    if not all(map(len, kinds)):
        return math.nan, math.nan
    generator = np.random.default_rng(0)
    times = np.zeros((draws, len(names)))  # how often each case is drawn
    for kind in kinds:
        times[:, kind] = generator.multinomial(len(kind), [1 / len(kind)] * len(kind), draws)
    weights = times[:, case_of]
    # The weighted AUC, from whether each positive outranks each negative.
    high, low = weights[:, positive], weights[:, ~positive]
    wins = np.zeros((high.shape[1], low.shape[1]))
    for score in scores:
        lead = np.subtract.outer(score[positive], score[~positive])
        wins += (np.sign(lead) + 1) / 2 / len(scores)
    found = ((high @ wins) * low).sum(1)
    pairs = high.sum(1) * low.sum(1)
    found = np.divide(found, pairs, out=np.full(draws, math.nan), where=pairs > 0)
    first, last = np.nanpercentile(found, [2.5, 97.5])
    return float(first), float(last)


def roc(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates (m,), from (0, 0) to (1, 1); both classes must be present."""
    false, true, _ = roc_curve(positive, score, drop_intermediate=False)
    return false, true


@dataclass(frozen=True)
class Measures:
    """Measures of the predictions on one test set; NaN if a class is absent from it."""

    auc: float
    balanced_accuracy: float
    f1: float


def measure(labels: np.ndarray, probabilities: np.ndarray) -> Measures:
    """Measure predictions.

    With two classes, AUC and F1 are those of class 1; with more, both are means over the
    classes, each against the rest.

    Args:
        labels: (n,) int.
        probabilities: (n, classes).
    """
    labels, count = np.asarray(labels), probabilities.shape[1]
    predicted, classes = probabilities.argmax(1), list(range(count))
    missing = len(np.unique(labels)) < count
    balanced = math.nan if missing else float(balanced_accuracy_score(labels, predicted))
    f1s = np.asarray(
        f1_score(labels, predicted, labels=classes, average=None, zero_division=np.nan)  # type: ignore[arg-type]
    )
    aucs = [auc(labels == c, probabilities[:, c]) for c in classes]
    if count == 2:
        return Measures(aucs[1], balanced, float(f1s[1]))
    return Measures(float(np.mean(aucs)), balanced, float(np.mean(f1s)))


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of the values that are not NaN; NaN if none is left."""
    valid = [v for v in values if not math.isnan(v)]
    if not valid:
        return math.nan, math.nan
    return float(np.mean(valid)), float(np.std(valid, ddof=1)) if len(valid) > 1 else math.nan


@dataclass(frozen=True)
class Paired:
    """A comparison of two models over the same folds.

    Attributes:
        difference: mean of first minus second.
        p_corrected: two-sided p of the t-test corrected for overlapping training sets.
        p_sign_flip: two-sided p of the exact sign-flip permutation test. It treats folds as
            independent and is too small when their training sets overlap.
        folds: number of folds that both have.
    """

    difference: float
    p_corrected: float
    p_sign_flip: float
    folds: int


def paired(first: Sequence[float], second: Sequence[float], test_train_ratio: float) -> Paired:
    """Compare two models over the same folds.

    The corrected resampled t-test (Nadeau and Bengio 2003, "Inference for the generalization
    error", eq. 9) adds test/train to 1/folds, because folds that share training slides vary too
    little.

    Args:
        first: one value per fold; NaN for a fold without a value.
        second: the same for the other model.
        test_train_ratio: number of test slides divided by number of training slides.
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
        t = abs(mean) / (spread * math.sqrt(1 / n + test_train_ratio))
        p = float(2 * stats.t.sf(t, n - 1))
    return Paired(mean, p, _sign_flip(differences), n)


def _sign_flip(differences: np.ndarray) -> float:
    """Two-sided p of the mean under random signs: all flips up to 15 folds, else 32,768."""
    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=2 ** min(len(differences), _EXACT),
        rng=0,
    )
    return float(found.pvalue)
