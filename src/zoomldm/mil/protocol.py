"""Train a model on a fold and record the result."""

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from zoomldm.errors import ConfigError
from zoomldm.mil.bags import Bags
from zoomldm.mil.metrics import measure
from zoomldm.mil.models.attention import ABMIL, BagModel
from zoomldm.mil.models.clam import ClamSB
from zoomldm.mil.models.dsmil import DSMIL
from zoomldm.mil.models.logistic import logistic
from zoomldm.mil.models.pooling import MaxInstance, Pooled
from zoomldm.mil.splits import Fold, hipt_subset, stratified_subset

log = logging.getLogger(__name__)

ProtocolName = Literal["hipt", "clean"]
MODELS = ("clam-sb", "dsmil", "abmil", "max-instance", "mean-pool", "max-pool", "logistic")


@dataclass(frozen=True)
class Protocol:
    """How models are trained.

    Attributes:
        name: "hipt" or "clean".
        epochs: number of epochs, each with as many draws as there are training slides.
        rate: Adam's learning rate.
        decay: L2 weight decay.
        weighted: sample classes equally often, with replacement.
        choose: "last" epoch, or the epoch with the best "validation" loss.
        separate: remove slides of test patients from the training set.
        variant: variant of CLAM-SB and DSMIL, "hipt" or "original".
    """

    name: ProtocolName
    epochs: int = 20
    rate: float = 2e-4
    decay: float = 1e-5
    weighted: bool = True
    choose: str = "last"
    separate: bool = False
    variant: str = "hipt"


PROTOCOLS: dict[str, Protocol] = {
    "hipt": Protocol("hipt"),
    "clean": Protocol("clean", choose="validation", separate=True, variant="original"),
}


def pick_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ConfigError: unknown protocol.
    """
    if name not in PROTOCOLS:
        known = " or ".join(get_args(ProtocolName))
        raise ConfigError(f"protocol {name!r} is unknown: use {known}")
    return PROTOCOLS[name]


def split_name(name: str, protocol: Protocol) -> tuple[str, str]:
    """Split `name` or `name:variant` into model name and variant.

    Raises:
        ConfigError: unknown model or variant.
    """
    model, _, variant = name.partition(":")
    if model not in MODELS or variant not in ("", "hipt", "original"):
        raise ConfigError(
            f"model {name!r} is unknown: use {', '.join(MODELS)}, with :hipt or :original if wanted"
        )
    return model, variant or protocol.variant


def build_model(name: str, dim: int, classes: int, protocol: Protocol) -> BagModel:
    """Build a model with new weights (any of `MODELS` except `logistic`)."""
    model, variant = split_name(name, protocol)
    hipt = variant == "hipt"
    hidden = 384 if hipt and dim == 384 else 512
    makers: dict[str, Callable[[], BagModel]] = {
        "clam-sb": lambda: ClamSB(dim, classes, hidden=hidden, xavier=hipt),
        "dsmil": lambda: DSMIL(dim, classes, hipt=hipt),
        "abmil": lambda: ABMIL(dim, classes, hidden=hidden, xavier=hipt),
        "max-instance": lambda: MaxInstance(dim, classes, xavier=hipt),
        "mean-pool": lambda: Pooled(dim, classes, pool="mean"),
        "max-pool": lambda: Pooled(dim, classes, pool="max"),
    }
    return makers[model]()


@dataclass(frozen=True)
class Task:
    """One training run."""

    model: str
    fraction: float
    seed: int
    fold: int


@dataclass(frozen=True)
class FoldResult:
    """Result of one training run.

    Attributes:
        model: model name.
        fraction: fraction of the training slides.
        seed: seed of initial weights and sampling.
        fold: index of the fold.
        auc: on the test set; NaN if a class is absent from it.
        balanced_accuracy: on the test set.
        f1: on the test set.
        train: number of training slides.
        test: number of test slides.
        shared_patients: number of patients in both.
        epoch: epoch of the measured weights, from 1; 0 for logistic regression.
        skipped: why there is no result, or empty.
        slides: ids of the test slides.
        labels: classes of the test slides.
        probabilities: (test, classes).
    """

    model: str
    fraction: float
    seed: int
    fold: int
    auc: float
    balanced_accuracy: float
    f1: float
    train: int
    test: int
    shared_patients: int
    epoch: int = 0
    skipped: str = ""
    slides: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    probabilities: tuple[tuple[float, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; NaN becomes null."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v
            for k, v in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FoldResult":
        """Invert `to_json`."""
        filled: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**filled)


class DivergedError(Exception):
    """A loss or a probability is NaN or infinite; the message names the slide."""


def predict(model: BagModel, bags: Bags, rows: np.ndarray) -> np.ndarray:
    """Predict probabilities (rows, classes) of slides, without dropout.

    Raises:
        DivergedError: the model returns NaN or infinity for a slide.
    """
    model.eval()
    device = next(model.parameters()).device
    found = []
    with torch.no_grad():
        for row in rows.tolist():
            probabilities = model.probabilities(bags.features[row].to(device))
            if not bool(torch.isfinite(probabilities).all()):
                raise DivergedError(f"no probability for slide {_slide(bags, row)}")
            found.append(probabilities.double().cpu())
    return torch.stack(found).numpy()


def _slide(bags: Bags, row: int) -> str:
    largest = float(bags.features[row].abs().max())
    return f"{bags.slides[row]} (features up to {largest:.3g})"


def train_model(
    model: BagModel,
    bags: Bags,
    train: np.ndarray,
    val: np.ndarray,
    protocol: Protocol,
) -> int:
    """Train in place with PyTorch's global generator; return the selected epoch, from 1.

    Raises:
        DivergedError: a loss is NaN or infinite.
    """
    labels = bags.labels[train]
    counts = np.bincount(labels, minlength=len(bags.classes))
    weights = torch.from_numpy(len(labels) / counts[labels]).double()
    device = next(model.parameters()).device
    # One bag per step is little work: without `foreach` the optimiser takes most of the time.
    adam = torch.optim.Adam(
        model.parameters(), lr=protocol.rate, weight_decay=protocol.decay, foreach=True
    )
    rows, targets = train.tolist(), labels.tolist()
    choosing = protocol.choose == "validation" and len(val) > 0
    best, selected_epoch, state = math.inf, protocol.epochs, None
    for epoch in range(1, protocol.epochs + 1):
        if protocol.weighted:
            order = torch.multinomial(weights, len(weights), replacement=True)
        else:
            order = torch.randperm(len(weights))
        model.train()
        for i in order.tolist():
            adam.zero_grad()
            loss = model.loss(bags.features[rows[i]].to(device), targets[i])
            if not math.isfinite(loss.item()):
                raise DivergedError(
                    f"the loss is {loss.item():g} in epoch {epoch}, slide {_slide(bags, rows[i])}"
                )
            loss.backward()
            adam.step()
        if choosing:
            chosen = predict(model, bags, val)[np.arange(len(val)), bags.labels[val]]
            loss = float(-np.log(chosen.clip(1e-12)).mean())
            if loss < best:
                best, selected_epoch = loss, epoch
                state = {k: v.clone() for k, v in model.state_dict().items()}
    if state is not None:
        model.load_state_dict(state)
    return selected_epoch


def run_fold(
    task: Task, bags: Bags, fold: Fold, protocol: Protocol, device: str | torch.device = "cpu"
) -> tuple[FoldResult, BagModel | None]:
    """Train and measure one fold; return the result and the model, if there is one.

    If training meets NaN or infinity, or lacks a class, the result gives this as the reason.
    """
    if protocol.name == "hipt":
        train = hipt_subset(fold.train, task.fraction)
    else:
        train = stratified_subset(fold.train, bags.labels, task.fraction, task.seed)
    absent = set(range(len(bags.classes))) - set(bags.labels[train].tolist())
    if absent:
        names = ", ".join(bags.classes[c] for c in sorted(absent))
        return _without_figures(task, fold, len(train), f"no training slide of class {names}")
    model, epoch = None, 0
    try:
        if split_name(task.model, protocol)[0] == "logistic":
            probabilities = logistic(
                bags.means[train], bags.labels[train], bags.means[fold.test], len(bags.classes)
            )
        else:
            torch.manual_seed(task.seed)
            model = build_model(task.model, bags.dim, len(bags.classes), protocol).to(device)
            epoch = train_model(model, bags, train, fold.val, protocol)
            probabilities = predict(model, bags, fold.test)
    except DivergedError as error:
        log.warning("%s, %s, fold %s: %s", bags.name, task.model, task.fold, error)
        return _without_figures(task, fold, len(train), str(error))
    labels = bags.labels[fold.test]
    found = measure(labels, probabilities)
    return FoldResult(
        **asdict(task),
        **asdict(found),
        train=len(train),
        test=len(fold.test),
        shared_patients=fold.shared,
        epoch=epoch,
        slides=tuple(bags.slides[i] for i in fold.test),
        labels=tuple(labels.tolist()),
        probabilities=tuple(tuple(row) for row in probabilities.tolist()),
    ), model


def _without_figures(
    task: Task, fold: Fold, train: int, reason: str
) -> tuple[FoldResult, BagModel | None]:
    return FoldResult(
        **asdict(task),
        auc=math.nan,
        balanced_accuracy=math.nan,
        f1=math.nan,
        train=train,
        test=len(fold.test),
        shared_patients=fold.shared,
        skipped=reason,
    ), None


def pooled_scores(results: list[FoldResult]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pool the test sets of all folds: class 1 or not (n,), its probability (n,), slide ids.

    For folds that hold one class each. Empty if there are more than two classes.
    """
    rows = [
        (y == 1, p[1], slide)
        for r in results
        for y, p, slide in zip(r.labels, r.probabilities, r.slides, strict=True)
        if len(p) == 2
    ]
    return (
        np.array([row[0] for row in rows], bool),
        np.array([row[1] for row in rows]),
        [row[2] for row in rows],
    )
