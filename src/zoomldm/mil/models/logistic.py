"""Logistic regression on each slide's mean: the baseline to beat."""

import numpy as np
import torch
from torch.nn import functional as F


def logistic(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, c: float = 0.01
) -> np.ndarray:
    """Fit on standardised features, classes weighted to balance, and predict.

    Minimises |w|^2 / 2 + c x the weighted sum of cross-entropies; the intercept goes free.

    Args:
        train: (n, D).
        labels: (n,) int, each class present.
        test: (m, D).
        classes: number of classes.
        c: inverse strength of the penalty.

    Returns:
        (m, classes) probabilities.
    """
    mean, sd = train.mean(0), train.std(0)
    sd = np.where(sd > 0, sd, 1.0)
    x = torch.from_numpy((train - mean) / sd).double()
    y = torch.from_numpy(labels)
    outputs = 1 if classes == 2 else classes
    weights = len(y) / (classes * torch.bincount(y, minlength=classes).double().clamp(min=1))
    w = torch.zeros(x.shape[1], outputs, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)

    def logits(values: torch.Tensor) -> torch.Tensor:
        z = values @ w + b
        return torch.cat([torch.zeros_like(z), z], 1) if outputs == 1 else z

    optimiser = torch.optim.LBFGS(
        [w, b],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        optimiser.zero_grad()
        fit = F.cross_entropy(logits(x), y, weight=weights, reduction="sum")
        value = 0.5 * (w * w).sum() + c * fit
        value.backward()
        return value

    optimiser.step(objective)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        scores = logits(torch.from_numpy((test - mean) / sd).double())
        return scores.softmax(1).numpy()
