"""Measures and tests against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomldm.mil.metrics import auc, case_interval, mean_sd, measure, paired, roc


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30).filter(
        lambda rows: len({y for y, _ in rows}) == 2
    )
)
def test_auc_counts_pairs(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([y for y, _ in rows]), np.array([s for _, s in rows], dtype=float)
    wins = [(a > b) + (a == b) / 2 for a in scores[labels] for b in scores[~labels]]
    assert auc(labels, scores) == pytest.approx(np.mean(wins))
    false, true = roc(labels, scores)
    assert np.trapezoid(true, false) == pytest.approx(auc(labels, scores))


def test_auc_of_one_class_is_nan() -> None:
    assert math.isnan(auc(np.array([True, True]), np.array([0.1, 0.2])))


def test_measures() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.55, 0.45]])
    found = measure(labels, probabilities)
    assert found.auc == pytest.approx(5 / 6)
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.f1 == pytest.approx(2 * 1 / (2 + 2))
    three = measure(np.array([0, 1, 2]), np.eye(3) * 0.8 + 0.05)
    assert (three.auc, three.balanced_accuracy, three.f1) == (1, 1, 1)
    one = measure(np.array([1, 1]), probabilities[:2])  # no slide of class 0
    assert math.isnan(one.auc) and math.isnan(one.balanced_accuracy)
    none = measure(np.array([0, 0]), probabilities[:2])  # class 1 neither there nor predicted
    assert math.isnan(none.f1)


def test_mean_sd_leaves_nan_out() -> None:
    assert mean_sd([1.0, math.nan, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert math.isnan(mean_sd([math.nan])[0])


def test_paired() -> None:
    first, second = [0.8, 0.9, 0.85, 0.7], [0.7, 0.85, 0.8, 0.69]
    plain, corrected = paired(first, second, 0.0), paired(first, second, 1 / 3)
    assert plain.difference == pytest.approx(0.0525)
    assert plain.p_corrected == pytest.approx(0.0652, abs=1e-4)  # the ordinary paired t-test
    assert corrected.p_corrected > plain.p_corrected
    assert plain.p_sign_flip == pytest.approx(2 / 16)
    assert paired(first, first, 0.1).p_corrected == 1
    assert paired([*first, math.nan], [*second, 0.5], 0.0).folds == 4
    assert math.isnan(paired([0.5], [0.4], 0.1).p_corrected)
    many = paired([0.1] * 20, [0.0] * 20, 0.0)  # too many signs to try all
    assert many.p_sign_flip < 0.001


def test_interval_draws_whole_cases() -> None:
    positive = np.array([True, True, False, False, True])
    scores = np.array([[0.9, 0.8, 0.1, 0.7, 0.2]])
    low, high = case_interval(positive, scores, ["a", "a", "b", "c", "d"])
    assert (low, high) == (0.0, 1.0)  # d alone against c alone; a alone against b alone
    low, high = case_interval(positive, np.array([[3, 3, 1, 1, 2]]), ["a", "a", "b", "c", "d"])
    assert (low, high) == (1.0, 1.0)
    assert all(np.isnan(case_interval(positive, scores, ["a"] * 5)))
