"""Folds: from split files of HIPT or CLAM, drawn by patient, or published with the bags."""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zoomldm.cohort.labels import plain_id
from zoomldm.cohort.rows import is_missing, read_rows
from zoomldm.errors import ConfigError
from zoomldm.mil.bags import Bags


@dataclass(frozen=True)
class Fold:
    """One fold; indices into the bags, in the bags' order.

    Attributes:
        index: number of the fold.
        train: training slides.
        val: slides that select the epoch, if the protocol does; may be empty.
        test: test slides.
        shared: number of patients in both train and test.
        dropped: training and validation slides left out to keep patients of the sets apart.
        unknown: number of ids in the split file that no bag has.
    """

    index: int
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    shared: int = 0
    dropped: int = 0
    unknown: int = 0


def read_splits(folder: Path, bags: Bags) -> list[Fold]:
    """Read `splits_<k>.csv` files with columns train, (val,) test of slide ids.

    Raises:
        ConfigError: no such files or columns, a slide in two sets of one fold, or a fold without
            a known slide in train or in test.
    """
    files = [
        (int(m[1]), f) for f in folder.glob("*.csv") if (m := re.search(r"_(\d+)\.csv$", f.name))
    ]
    if not files:
        raise ConfigError(f"{folder}: no splits_<k>.csv there; --splits takes a folder of them")
    where = {slide: i for i, slide in enumerate(bags.slides)}
    folds = []
    for index, file in sorted(files):
        table = read_rows(file, optional=["train", "val", "test"])
        if not {"train", "test"} <= set(table.columns):
            raise ConfigError(f"{file}: columns {list(table.columns)}, expected train, val, test")
        sets: dict[str, np.ndarray] = {}
        seen: dict[str, str] = {}
        unknown = 0
        for part in ("train", "val", "test"):
            cells = [row.cells.get(part, "") for row in table.rows]
            ids = {plain_id(cell) for cell in cells if not is_missing(cell)}
            for slide in ids & seen.keys():
                raise ConfigError(f"{file}: {slide} is in both {seen[slide]} and {part}")
            seen |= dict.fromkeys(ids, part)
            unknown += len(ids - where.keys())
            sets[part] = np.array(sorted(where[s] for s in ids if s in where), dtype=np.int64)
        if not len(sets["train"]) or not len(sets["test"]):
            example = min((i for i in seen if i not in where), default="nothing")
            raise ConfigError(
                f"{file}: none of its train or test ids has features and a label; it has "
                f"{example!r}, features and labels have {bags.slides[0]!r}"
            )
        folds.append(Fold(index, sets["train"], sets["val"], sets["test"], unknown=unknown))
    return folds


def published_folds(bags: Bags) -> list[Fold]:
    """Return the folds that an npz publishes as `train_mask`."""
    if bags.folds is None:
        raise ConfigError(f"{bags.name}: no folds: pass --splits with a folder or --folds K")
    empty = np.array([], dtype=np.int64)
    return [Fold(i, np.nonzero(m)[0], empty, np.nonzero(~m)[0]) for i, m in enumerate(bags.folds)]


def draw_folds(bags: Bags, count: int, seed: int, *, validation: bool) -> list[Fold]:
    """Partition the patients into `count` folds, with classes spread as evenly as possible.

    Fold i tests on part i; with `validation` the next part selects the epoch. With as many folds
    as patients, each part is one patient.

    Raises:
        ConfigError: fewer patients than folds, or fewer than two folds (three with validation).
    """
    patients = len(set(bags.patients))
    if not (3 if validation else 2) <= count <= patients:
        raise ConfigError(
            f"--folds {count}: expected {3 if validation else 2} to {patients}, the number "
            "of patients"
        )
    parts = _parts(bags, count, seed)
    everything, empty = np.arange(len(bags)), np.array([], dtype=np.int64)
    folds = []
    for i, test in enumerate(parts):
        val = parts[(i + 1) % count] if validation else empty
        train = np.setdiff1d(everything, np.concatenate([test, val]))
        folds.append(Fold(i, train, val, test))
    return folds


def _parts(bags: Bags, count: int, seed: int) -> list[np.ndarray]:
    """Split slides into `count` parts, none empty and no patient in two of them."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    rows = np.zeros((len(bags), 1))

    def split(by: "StratifiedGroupKFold | GroupKFold") -> Iterator[np.ndarray]:
        return (test for _, test in by.split(rows, bags.labels, bags.patients))

    if count <= np.bincount(bags.labels).max():  # StratifiedGroupKFold refuses more folds
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class may have fewer slides than there are folds
            parts = list(split(StratifiedGroupKFold(count, shuffle=True, random_state=seed)))
        if all(map(len, parts)):
            return parts
    return list(split(GroupKFold(count, shuffle=True, random_state=seed)))


def count_leakage(fold: Fold, bags: Bags, *, separate: bool) -> Fold:
    """Count the patients in both train and test.

    With `separate`, slides of test patients are removed from train and val, and slides of
    validation patients from train.
    """
    tested = {bags.patients[i] for i in fold.test}
    shared = len({bags.patients[i] for i in fold.train} & tested)
    train, val = fold.train, fold.val
    if separate:
        train = _without(train, bags.patients, tested)
        val = _without(val, bags.patients, tested)
        train = _without(train, bags.patients, {bags.patients[i] for i in val})
    dropped = len(fold.train) + len(fold.val) - len(train) - len(val)
    return replace(fold, train=train, val=val, shared=shared, dropped=dropped)


def _without(rows: np.ndarray, patients: Sequence[str], taken: set[str]) -> np.ndarray:
    return np.array([i for i in rows if patients[i] not in taken], dtype=np.int64)


def hipt_subset(train: np.ndarray, fraction: float) -> np.ndarray:
    """Return HIPT's subset: not stratified, the same in every run, in the order drawn.

    It is what pandas' `sample(frac=..., random_state=1)` draws from the training rows in the
    order of the label file.
    """
    if fraction >= 1:
        return train
    generator = np.random.RandomState(1)  # the published subset comes from this generator
    return train[generator.choice(len(train), size=round(fraction * len(train)), replace=False)]


def stratified_subset(
    train: np.ndarray, labels: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """Draw the same fraction of each class, at least one slide of each."""
    if fraction >= 1:
        return train
    generator = np.random.default_rng(seed)
    parts = []
    for c in np.unique(labels[train]):
        of_class = train[labels[train] == c]
        parts.append(generator.permutation(of_class)[: max(1, round(fraction * len(of_class)))])
    return np.sort(np.concatenate(parts))
