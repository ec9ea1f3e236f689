"""Folds: from HIPT's or CLAM's split files, drawn by patient, or published with the bags."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoomldm.errors import ConfigError
from zoomldm.mil.bags import Bags, plain_id


@dataclass(frozen=True)
class Fold:
    """One fold; indices into the bags, in the bags' order.

    Attributes:
        index: number of the fold.
        train: slides that train.
        val: slides that choose the epoch, if the protocol does; may be empty.
        test: slides that are measured.
        shared: patients in both train and test.
        dropped: training and validation slides left out since their patients are in test.
        unknown: ids of the split file that no bag has.
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
        ConfigError: no such files or columns, a slide in two of the sets of one fold, or a fold
            without any known slide.
    """
    files = [
        (int(m[1]), f) for f in folder.glob("*.csv") if (m := re.search(r"_(\d+)\.csv$", f.name))
    ]
    if not files:
        raise ConfigError(f"{folder}: no splits_<k>.csv there; --splits takes a folder of them")
    where = {slide: i for i, slide in enumerate(bags.slides)}
    folds = []
    for index, file in sorted(files):
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            if not {"train", "test"} <= set(columns):
                raise ConfigError(f"{file}: columns {list(columns)}, expected train, val, test")
            rows = list(reader)
        sets: dict[str, np.ndarray] = {}
        seen: dict[str, str] = {}
        unknown = 0
        for part in ("train", "val", "test"):
            ids = {plain_id(row[part]) for row in rows if (row.get(part) or "").strip()}
            for slide in ids & seen.keys():
                raise ConfigError(f"{file}: {slide} is in both {seen[slide]} and {part}")
            seen |= dict.fromkeys(ids, part)
            unknown += len(ids - where.keys())
            sets[part] = np.array(sorted(where[s] for s in ids if s in where), dtype=np.int64)
        if not len(sets["train"]) or not len(sets["test"]):
            raise ConfigError(f"{file}: none of its train or test ids has features and a label")
        folds.append(Fold(index, sets["train"], sets["val"], sets["test"], unknown=unknown))
    return folds


def published_folds(bags: Bags) -> list[Fold]:
    """The folds that an npz brings along as `train_mask`."""
    if bags.folds is None:
        raise ConfigError(f"{bags.name}: no folds: pass --splits with a folder or --folds K")
    empty = np.array([], dtype=np.int64)
    return [Fold(i, np.nonzero(m)[0], empty, np.nonzero(~m)[0]) for i, m in enumerate(bags.folds)]


def draw_folds(bags: Bags, count: int, seed: int, *, validation: bool) -> list[Fold]:
    """Partition the patients into `count` folds, each class spread evenly.

    Fold i tests on part i; with `validation` the next part chooses the epoch.

    Raises:
        ConfigError: fewer patients than folds, or fewer than two folds (three with validation).
    """
    patients = sorted(set(bags.patients))
    if not (3 if validation else 2) <= count <= len(patients):
        raise ConfigError(
            f"--folds {count}: expected {3 if validation else 2} to {len(patients)}, the number "
            "of patients"
        )
    of = dict.fromkeys(patients, 0)
    for patient, label in zip(bags.patients, bags.labels.tolist(), strict=True):
        of[patient] = max(of[patient], label)
    shuffled = np.random.default_rng(seed).permutation(len(patients)).tolist()
    ordered = sorted((patients[i] for i in shuffled), key=lambda p: of[p])
    part_of = {patient: i % count for i, patient in enumerate(ordered)}
    part = np.array([part_of[p] for p in bags.patients])
    folds = []
    for i in range(count):
        val = part == (i + 1) % count if validation else np.zeros(len(part), dtype=bool)
        test = part == i
        train, val, test = (np.nonzero(m)[0] for m in (~(test | val), val, test))
        folds.append(Fold(i, train, val, test))
    return folds


def account(fold: Fold, bags: Bags, *, separate: bool) -> Fold:
    """Count the patients in both train and test.

    With `separate`, slides of the test's patients leave train and val, those of val's leave train.
    """
    tested = {bags.patients[i] for i in fold.test}
    shared = len({bags.patients[i] for i in fold.train} & tested)
    train, val = fold.train, fold.val
    if separate:
        train = _without(train, bags.patients, tested)
        val = _without(val, bags.patients, tested)
        train = _without(train, bags.patients, {bags.patients[i] for i in val})
    dropped = len(fold.train) + len(fold.val) - len(train) - len(val)
    return Fold(fold.index, train, val, fold.test, shared, dropped, fold.unknown)


def _without(rows: np.ndarray, patients: Sequence[str], taken: set[str]) -> np.ndarray:
    return np.array([i for i in rows if patients[i] not in taken], dtype=np.int64)


def hipt_subset(train: np.ndarray, fraction: float) -> np.ndarray:
    """HIPT's subset: not stratified, the same for every run; rows in its drawn order.

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
    """The same fraction of each class, at least one slide of each."""
    if fraction >= 1:
        return train
    generator = np.random.default_rng(seed)
    parts = []
    for c in np.unique(labels[train]):
        of_class = train[labels[train] == c]
        parts.append(generator.permutation(of_class)[: max(1, round(fraction * len(of_class)))])
    return np.sort(np.concatenate(parts))
