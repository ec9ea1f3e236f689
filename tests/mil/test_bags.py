"""Feature files of every kind, and what is wrong with some."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from zoomldm.cohort.labels import plain_id, read_labels
from zoomldm.errors import ConfigError
from zoomldm.features.reading import read_features
from zoomldm.mil.bags import read_bags
from zoomldm.mil.splits import published_folds
from zoomldm.remote import RemoteError

Npz = Callable[..., Path]


def write_h5(path: Path, values: np.ndarray, name: str = "features", **attributes: object) -> None:
    with h5py.File(path, "w") as file:
        file[name] = values
        steps = np.arange(values.size // values.shape[-1])
        coords = file.create_dataset("coords", data=np.stack([steps * 512, steps * 0], 1))
        coords.attrs.update(attributes)


def write_labels(path: Path, rows: list[str], header: str = "slide_id,label,case_id") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "features"
    folder.mkdir()
    draw = np.random.default_rng(0)
    write_h5(folder / "a.h5", draw.normal(size=(5, 4)).astype(np.float32), patch_size_level0=512)
    torch.save(torch.randn(1, 3, 4), folder / "b.pt")
    np.save(folder / "c.npy", draw.normal(size=(2, 4)).astype(np.float16))
    return folder


def test_plain_id() -> None:
    assert plain_id(" x/TCGA-A.B5B.svs ") == "TCGA-A.B5B"
    assert plain_id("TCGA-1.SVS") == "TCGA-1"
    assert plain_id("svs") == "svs"


def test_npz(make_npz: Npz) -> None:
    bags = read_bags(make_npz(slides=10, dim=6))
    assert (len(bags), bags.dim, bags.classes, bags.patients_known) == (10, 6, ("0", "1"), True)
    assert bags.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert bags.patients[:3] == ("case-0", "case-0", "case-1")
    assert sum(map(len, bags.features)) == len(np.load(make_npz(slides=10))["X"])


def test_npz_rows_of_a_bag_need_not_be_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.arange(4.0)[:, None], bag=[0, 1, 0, 1], y=[0, 1])
    bags = read_bags(tmp_path / "x.npz")
    assert [b.ravel().tolist() for b in bags.features] == [[0, 2], [1, 3]]
    assert not bags.patients_known


def test_folder_of_each_kind(folder: Path, tmp_path: Path) -> None:
    rows = ["a.svs,tumour,1", "b,normal,2", "c,normal,2", "d,tumour,3", "c,normal,2"]
    bags = read_bags(folder, write_labels(tmp_path / "l.csv", rows))
    assert bags.slides == ("a", "b", "c")
    assert [tuple(b.shape) for b in bags.features] == [(5, 4), (3, 4), (2, 4)]
    assert all(b.dtype == torch.float32 for b in bags.features)
    assert bags.classes == ("normal", "tumour")
    assert bags.patients == ("1", "2", "2")
    where = bags.coordinates(0)
    assert where is not None
    assert (where.side, where.xy[2].tolist()) == (512, [1024, 0])
    assert bags.skipped == ("c: repeated in line 6 of l.csv", "d: no features in features")
    one = read_bags(folder, tmp_path / "l.csv", positive="tumour")
    assert one.classes == ("rest", "tumour")


def test_layouts_of_h5(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write_h5(path, np.ones((3, 4), np.float32), name="feats")
    features, where = read_features(path)
    assert features.shape == (3, 4)
    assert where is not None
    assert where.side == 512  # from the spacing, where nothing says so
    with h5py.File(path, "w") as file:
        file["features"] = np.ones(4, np.float32)  # TRIDENT's slide features
    assert read_features(path)[0].shape == (1, 4)
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.ones((1, 4, 2), np.float32), np.zeros((1, 4, 2), int)
        file["mask"] = [True, True, False, True]
    features, where = read_features(path)
    assert features.shape == (3, 2)
    assert where is not None
    assert len(where.xy) == 3


def test_bad_features_are_listed(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "d.npy", np.full((3, 4), np.nan, np.float32))
    np.save(folder / "e.npy", np.zeros((0, 4), np.float32))
    labels = write_labels(tmp_path / "l.csv", ["a,0,1", "b,1,2", "c,1,3", "d,1,4", "e,1,5"])
    bags = read_bags(folder, labels)
    assert bags.slides == ("a", "b", "c")
    assert bags.skipped == (
        "d: 3 of 3 instances hold NaN or infinity",
        "e: no instances",
    )


def test_errors_name_what_was_found(folder: Path, tmp_path: Path, make_npz: Npz) -> None:
    labels = write_labels(tmp_path / "l.csv", ["a,0,1", "b,1,2", "c,1,3"])
    with pytest.raises(ConfigError, match="needs --labels"):
        read_bags(folder)
    with pytest.raises(ConfigError, match=r"expected a folder of \.h5"):
        read_bags(tmp_path / "nothing", labels)
    with pytest.raises(ConfigError, match="only the class 'rest'"):
        read_bags(folder, labels, positive="7")
    with pytest.raises(ConfigError, match="no column 'grade'; it has slide_id, label, case_id"):
        read_labels(labels, "grade")
    with pytest.raises(ConfigError, match="a is there twice, with different labels"):
        read_labels(write_labels(tmp_path / "m.csv", ["a,0,1", "a.svs,1,1"]))
    with pytest.raises(ConfigError, match="no such label file"):
        read_labels(tmp_path / "none.csv")
    np.save(folder / "a.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(ConfigError, match=r"a is there twice: a\.h5, a\.npy"):
        read_bags(folder, labels)
    (folder / "a.npy").unlink()
    np.save(folder / "c.npy", np.zeros((2, 7), np.float32))
    with pytest.raises(
        ConfigError, match=r"different dimensions: 4 \(2 slides\), 7 \(1 slides\); see c"
    ):
        read_bags(folder, labels)
    torch.save({"model": torch.zeros(2)}, folder / "c.pt")
    with pytest.raises(ConfigError, match=r"c\.pt: not readable"):
        read_features(folder / "c.pt")
    (folder / "c.h5").write_bytes(b"no h5")
    with pytest.raises(ConfigError, match=r"c\.h5: not readable"):
        read_features(folder / "c.h5")
    np.save(folder / "c.npy", np.array(["a"]))
    with pytest.raises(ConfigError, match=r"c\.npy: not readable"):
        read_features(folder / "c.npy")
    with pytest.raises(ConfigError, match="has no y"):
        read_bags(make_npz(y=None))
    with pytest.raises(ConfigError, match="slide id x is there 40 times"):
        read_bags(make_npz(slide_id=np.array(["x"] * 40)))
    with pytest.raises(ConfigError, match="don't fit 2 bags"):
        read_bags(make_npz(y=np.array([0, 1])))
    with pytest.raises(ConfigError, match="expected arrays X and bag"):
        read_bags(make_npz(X=None))


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
def test_masks_of_numbers_are_masks(make_npz: Npz, tmp_path: Path, kind: type) -> None:
    """`~mask` of integers is never 0, which made every slide a test slide."""
    train = np.arange(40) < 30
    folds = published_folds(read_bags(make_npz(train_mask=train[None].astype(kind))))
    assert folds[0].train.tolist() == list(range(30))
    assert folds[0].test.tolist() == list(range(30, 40))
    keep = np.array([1, 0, 1], kind)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks" / "a.npy", keep)
    np.save(tmp_path / "a.npy", values)
    assert torch.equal(read_features(tmp_path / "a.npy")[0], torch.from_numpy(values[[0, 2]]))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"], file["mask"] = values, keep
    assert torch.equal(read_features(tmp_path / "b.h5")[0], torch.from_numpy(values[[0, 2]]))


def test_masks_of_other_values_are_refused(make_npz: Npz, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_mask: found 2, expected booleans, or 0 and 1"):
        read_bags(make_npz(train_mask=np.full((1, 40), 2)))
    with pytest.raises(ConfigError, match="train_mask: found nan"):
        read_bags(make_npz(train_mask=np.full((1, 40), np.nan)))
    with pytest.raises(ConfigError, match=r"train_mask of shape \(40, 3\); expected \(folds, 40\)"):
        read_bags(make_npz(train_mask=np.zeros((40, 3), bool)))
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks" / "a.npy", np.array([0, 5]))
    np.save(tmp_path / "a.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(ConfigError, match=r"masks/a\.npy: found 5"):
        read_features(tmp_path / "a.npy")
    np.save(tmp_path / "masks" / "a.npy", np.array([True]))
    with pytest.raises(ConfigError, match="2 instances but a mask of 1"):
        read_features(tmp_path / "a.npy")


def test_slides_without_a_label_are_left_out(make_npz: Npz, folder: Path, tmp_path: Path) -> None:
    y = np.where(np.arange(40) % 5 == 4, np.nan, np.arange(40) // 2 % 2)
    bags = read_bags(make_npz(y=y))
    assert (len(bags), bags.classes) == (32, ("0.0", "1.0"))
    assert len(bags.skipped) == 8
    labels = write_labels(tmp_path / "l.csv", ["a,0,1", "b,1,nan", "c,None,3"])
    bags = read_bags(folder, labels)
    assert (bags.slides, bags.patients, bags.unknown_patients) == (("a", "b"), ("1", "b"), 1)
    assert bags.skipped == ("c: no label ('None' in line 4 of l.csv)",)


def test_where_nothing_fits_an_id_of_either_side_is_shown(folder: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "l.csv", ["7,0,1", "8,1,2"])
    with pytest.raises(ConfigError, match="'7' has a label alone, 'a' has features alone"):
        read_bags(folder, labels)


def test_words_of_an_npz_may_be_bytes(make_npz: Npz) -> None:
    words = np.array([f"s-{i}".encode() for i in range(40)])
    assert read_bags(make_npz(slide_id=words)).slides[0] == "s-0"
    unknown = np.array(["nan"] * 39 + ["p"])
    bags = read_bags(make_npz(case_id=unknown))
    assert bags.unknown_patients == 39
    assert len(set(bags.patients)) == 40


def test_scale_of_coordinates(tmp_path: Path) -> None:
    """CLAM's patches of level 1 cover more of level 0, which its coordinates are in."""
    xy = np.stack(np.meshgrid(np.arange(3), np.arange(2)), -1).reshape(-1, 2)

    def side(step: int, **attributes: object) -> float:
        with h5py.File(tmp_path / "s.h5", "w") as file:
            file["features"] = np.ones((6, 4), np.float32)
            coords = file.create_dataset("coords", data=xy * step)
            root = {k: attributes.pop(k) for k in ("tile_size_um",) if k in attributes}
            file.attrs.update(root)
            coords.attrs.update(attributes)
        where = read_features(tmp_path / "s.h5")[1]
        assert where is not None
        return where.side

    assert side(1024, patch_size=256, patch_level=1, downsample=(4.0, 4.0)) == 1024
    assert side(256, patch_size=256, patch_level=0, downsample=(1.0, 1.0)) == 256
    assert side(1024, patch_size=256, patch_level=1) == 1024  # neighbours tell
    assert side(512, patch_size=256, level0_magnification=40, target_magnification=20) == 512
    assert side(128, tile_size_um=128.0) == 128
    assert side(333) == 333


def test_spacing_of_tiles_laid_by_contour(tmp_path: Path) -> None:
    """Two contours are a few pixels off each other's grid."""
    one = np.array([[0, 0], [256, 0], [512, 0], [0, 256], [256, 256]])
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["features"] = np.ones((10, 4), np.float32)
        file["coords"] = np.concatenate([one, one + np.array([1027, 1003])])
    where = read_features(tmp_path / "s.h5")[1]
    assert where is not None
    assert where.side == 256


def test_packed_bags_are_the_same_bags(folder: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "l.csv", ["a,0,1", "b,1,2", "c,1,3"])
    bags, packed = read_bags(folder, labels), read_bags(folder, labels, pack=tmp_path / "p")
    for other in (packed, pickle.loads(pickle.dumps(packed))):
        assert other.digest == bags.digest
        assert all(map(torch.equal, bags.features, other.features))
        chosen = other.choose(np.array([2, 0]))
        assert torch.equal(chosen.features[1], bags.features[0])
        assert chosen.digest == bags.choose(np.array([2, 0])).digest
        assert len(pickle.dumps(other.features)) < 500
    with pytest.raises(IndexError):
        packed.features[3]


def put(bucket, folder: Path) -> None:
    for file in folder.rglob("*.*"):
        bucket.files[f"b/in/{file.relative_to(folder)}"] = file.read_bytes()


GROWTH = """
import sys
from pathlib import Path

from zoomldm.mil.bags import read_bags

def own() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

folder = Path(sys.argv[1])
read_bags(folder / "some", folder / "labels.csv", pack=folder / "some.bin")
before = own()
read_bags(folder / "all", folder / "labels.csv", pack=folder / "all.bin")
print(own() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_packed_bags(tmp_path: Path) -> None:
    """Each mean kept beside its bag kept a hole as large as the bag in the heap, too."""
    draw = np.random.default_rng(0)
    for name in ("some", "all"):
        (tmp_path / name).mkdir()
    for i in range(220):
        where = tmp_path / ("some" if i < 20 else "all") / f"s{i}.h5"
        with h5py.File(where, "w") as file:
            file["features"] = draw.standard_normal((128, 512)).astype(np.float16)
    rows = [f"s{i},{i % 2}" for i in range(220)]
    (tmp_path / "labels.csv").write_text("\n".join(["slide_id,label", *rows]))
    command = [sys.executable, "-c", GROWTH, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 12_000  # kB; it was 20 MB, of 26 MB of features in half precision


def test_a_folder_by_url_is_the_folder(bucket, folder: Path, tmp_path: Path) -> None:
    (folder / "masks").mkdir()
    np.save(folder / "masks" / "c.npy", np.array([True, False]))
    labels = write_labels(tmp_path / "labels.csv", ["a,0,p", "b,1,q", "c,1,r"])
    put(bucket, folder)
    here, there = read_bags(folder, labels), read_bags("s3://b/in/", labels)
    assert there.name == "in" and there.digest == here.digest
    assert there.sizes == (5, 3, 1)  # one of the two of c is masked
    where = there.coordinates(0)
    assert where is not None and where.xy[1].tolist() == [512, 0] and where.side == 512
    assert there.coordinates(1) is None
    bucket.files["b/in/c.npy"] = b"no array"
    with pytest.raises(ConfigError, match=r"^s3://b/in/c\.npy: not readable as features"):
        read_bags("s3://b/in/", labels)


def test_an_npz_by_url(bucket, make_npz: Npz) -> None:
    path = make_npz(slides=10)
    bucket.files["b/x.npz"] = path.read_bytes()
    assert read_bags(f"{bucket.url}/b/x.npz").digest == read_bags(path).digest
    bucket.files["b/x.npz"] = b"no npz"
    with pytest.raises(ConfigError, match=r"^s3://b/x\.npz: not readable as npz"):
        read_bags("s3://b/x.npz")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://b/in", r"s3://b/in: expected a folder .*; a folder's URL ends in /"),
        ("s3://b/none.npz", "does not exist"),
        ("{http}/b/in/", "web servers don't list folders"),
        ("s3://b/none/", "no slide has both features and a label"),
    ],
)
def test_urls_refused(bucket, tmp_path: Path, url: str, message: str) -> None:
    labels = write_labels(tmp_path / "labels.csv", ["a,0,p", "b,1,q"])
    with pytest.raises((ConfigError, RemoteError), match=message):
        read_bags(url.format(http=bucket.url), labels)
