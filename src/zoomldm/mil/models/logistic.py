"""Logistic regression on each slide's mean feature: the baseline to beat."""

import numpy as np


def logistic(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, c: float = 0.01
) -> np.ndarray:
    """Fit on standardised features with balanced class weights, and predict.

    Minimises |w|^2 / 2 + c x the weighted sum of cross-entropies; the intercept is not penalised.

    Args:
        train: (n, D).
        labels: (n,) int, each class present.
        test: (m, D).
        classes: number of classes.
        c: inverse strength of the penalty.

    Returns:
        (m, classes) probabilities.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert set(labels.tolist()) == set(range(classes)), "each class needs a training slide"
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=c, class_weight="balanced", tol=1e-9, max_iter=5000),
    )
    return model.fit(train, labels).predict_proba(test)
