"""Folds, subsets and leakage."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoomldm.errors import ConfigError
from zoomldm.mil.bags import read_bags
from zoomldm.mil.splits import (
    count_leakage,
    draw_folds,
    hipt_subset,
    published_folds,
    read_splits,
    stratified_subset,
)

Npz = Callable[..., Path]


def test_hipt_splits(shared: Path) -> None:
    """Sizes, leakage and subsets that the published result files imply."""
    bags = read_bags(shared / "mil" / "tcga_brca_hipt_cls4k_192_fp16.npz")
    folds = read_splits(shared / "mil" / "splits" / "tcga_brca", bags)
    assert [f.index for f in folds] == list(range(10))
    assert {len(f.train) for f in folds} <= set(range(708, 719))
    assert {len(f.test) for f in folds} <= set(range(77, 87))
    subsets = [hipt_subset(f.train, 0.25) for f in folds]
    assert (min(map(len, subsets)), max(map(len, subsets))) == (177, 180)
    lobular = [int(bags.labels[s].sum()) for s in subsets]
    assert (min(lobular), max(lobular)) == (21, 38)
    shared_patients = [count_leakage(f, bags, separate=False).shared for f in folds]
    assert (min(shared_patients), max(shared_patients)) == (1, 10)


def test_files(make_npz: Npz, tmp_path: Path) -> None:
    bags = read_bags(make_npz(slides=6))
    folder = tmp_path / "splits"
    folder.mkdir()
    with pytest.raises(ConfigError, match="no splits_<k>"):
        read_splits(folder, bags)
    rows = ["0,slide-5.svs,slide-2,slide-4", "1,slide-0,,slide-9", "2,slide-3,,"]
    for k in (10, 2):
        (folder / f"splits_{k}.csv").write_text("\n".join([",train,val,test", *rows]) + "\n")
    (folder / "splits_2_bool.csv").write_text("not read\n")
    first, second = read_splits(folder, bags)
    assert (first.index, second.index) == (2, 10)
    assert first.train.tolist() == [0, 3, 5]
    assert (first.val.tolist(), first.test.tolist(), first.unknown) == ([2], [4], 1)
    leaky = count_leakage(first, bags, separate=False)
    assert (leaky.shared, leaky.dropped) == (1, 0)  # slides 4 and 5 are of one patient
    clean = count_leakage(first, bags, separate=True)
    assert (clean.train.tolist(), clean.dropped) == ([0], 2)  # 3 shares its patient with val's 2
    (folder / "splits_2.csv").write_text(",train,val,test\n0,slide-1,,slide-1\n")
    with pytest.raises(ConfigError, match="slide-1 is in both train and test"):
        read_splits(folder, bags)
    (folder / "splits_2.csv").write_text(",train,val,test\n0,x,,y\n")
    with pytest.raises(ConfigError, match=r"none of its .* it has 'x', .* have 'slide-0'"):
        read_splits(folder, bags)
    (folder / "splits_2.csv").write_bytes(b",train,val,test\n0,\xfc,,y\n")
    with pytest.raises(ConfigError, match="another encoding than UTF-8"):
        read_splits(folder, bags)
    (folder / "splits_2.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="expected train, val, test"):
        read_splits(folder, bags)


def test_ids_that_pandas_made_floats(make_npz: Npz, tmp_path: Path) -> None:
    """Columns of unequal length have gaps, and a column with gaps becomes one of floats."""
    bags = read_bags(make_npz(slides=4, slide_id=np.array(["1004", "1005", "1006", "1007"])))
    (tmp_path / "splits_0.csv").write_text(",train,val,test\n0,1004,1006.0,1007.0\n1,1005,nan,\n")
    fold = read_splits(tmp_path, bags)[0]
    assert [fold.train.tolist(), fold.val.tolist(), fold.test.tolist()] == [[0, 1], [2], [3]]
    assert fold.unknown == 0


@pytest.mark.parametrize("count", [2, 7, 20])
def test_drawn_from_unequal_patients(make_npz: Npz, count: int) -> None:
    """Few of one class, and one patient with half of all slides: no part is left empty."""
    case = np.array([f"c{max(i - 20, 0)}" for i in range(40)])
    bags = read_bags(make_npz(y=(np.arange(40) > 36).astype(int), case_id=case))
    folds = draw_folds(bags, count, 0, validation=False)
    assert sorted(np.concatenate([f.test for f in folds]).tolist()) == list(range(40))
    assert all(len(f.test) and not count_leakage(f, bags, separate=False).shared for f in folds)


@pytest.mark.parametrize("validation", [False, True])
def test_drawn_by_patient(make_npz: Npz, validation: bool) -> None:
    bags = read_bags(make_npz(slides=40))
    folds = draw_folds(bags, 5, 0, validation=validation)
    assert sorted(np.concatenate([f.test for f in folds]).tolist()) == list(range(40))
    for fold in folds:
        assert len(fold.val) == (8 if validation else 0)
        assert set(bags.labels[fold.test].tolist()) == {0, 1}
        assert count_leakage(fold, bags, separate=False).shared == 0
        everything = np.concatenate([fold.train, fold.val, fold.test])
        assert sorted(everything.tolist()) == list(range(40))
    with pytest.raises(ConfigError, match="--folds 21: expected"):
        draw_folds(bags, 21, 0, validation=validation)


def test_published(make_npz: Npz) -> None:
    masks = np.random.default_rng(0).random((2, 3, 40)) < 0.7
    folds = published_folds(read_bags(make_npz(train_mask=masks)))
    assert len(folds) == 6
    assert np.array_equal(folds[4].train, np.nonzero(masks[1, 1])[0])
    with pytest.raises(ConfigError, match="pass --splits with a folder or --folds K"):
        published_folds(read_bags(make_npz()))


def test_stratified_subset() -> None:
    labels = np.array([0] * 20 + [1] * 3)
    chosen = stratified_subset(np.arange(23), labels, 0.25, seed=1)
    assert np.bincount(labels[chosen]).tolist() == [5, 1]
    assert len(stratified_subset(np.arange(23), labels, 1.0, seed=1)) == 23
