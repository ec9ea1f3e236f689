"""Bags: the features of many slides with their labels, from h5, pt, npy or one npz."""

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoomldm.errors import ConfigError

SUFFIXES = (".h5", ".pt", ".npy")
_SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".dcm", ".zldm", *SUFFIXES)
_FEATURE_NAMES = ("features", "feats", "patch_embeddings")


@dataclass(frozen=True)
class Coordinates:
    """Where the instances of a slide are.

    Attributes:
        xy: (N, 2) top-left corners, x and y, in pixels of whatever raster the file says.
        side: side of an instance's square in the same pixels.
        size: (width, height) of the raster, or None if the file doesn't say.
    """

    xy: np.ndarray
    side: float
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Bags:
    """Labelled slides of one feature source.

    Attributes:
        name: of the source.
        features: per slide (N, D) float32, all of one D.
        labels: (slides,) int64, indices into `classes`.
        classes: names of the classes.
        slides: ids.
        patients: ids; the slides' own where nothing is known of patients.
        coordinates: per slide, or None.
        folds: boolean (folds, slides), true where a slide trains, if the file publishes folds.
        patients_known: whether `patients` was given.
        skipped: a line for each slide left out: its id and the reason.
    """

    name: str
    features: tuple[Tensor, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    slides: tuple[str, ...]
    patients: tuple[str, ...]
    coordinates: tuple[Coordinates | None, ...]
    folds: np.ndarray | None = None
    patients_known: bool = True
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of slides."""
        return len(self.slides)

    @property
    def dim(self) -> int:
        """Numbers per instance, D."""
        return self.features[0].shape[1]

    @property
    def digest(self) -> str:
        """SHA-256 over features, labels and ids."""
        hashed = hashlib.sha256()
        for bag in self.features:
            hashed.update(str(tuple(bag.shape)).encode())
            hashed.update(bag.numpy().tobytes())
        for part in (self.labels.tolist(), self.classes, self.slides, self.patients):
            hashed.update(repr(part).encode())
        return hashed.hexdigest()

    def choose(self, keep: np.ndarray) -> "Bags":
        """The slides of the given indices, in that order."""
        rows = keep.tolist()
        return replace(
            self,
            features=tuple(self.features[i] for i in rows),
            labels=self.labels[keep],
            slides=tuple(self.slides[i] for i in rows),
            patients=tuple(self.patients[i] for i in rows),
            coordinates=tuple(self.coordinates[i] for i in rows),
            folds=None if self.folds is None else self.folds[:, keep],
        )


@dataclass(frozen=True)
class Label:
    """A row of the label file."""

    label: str
    patient: str | None


def plain_id(name: str) -> str:
    """A slide's id without folders and without a slide's or feature file's ending."""
    name = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    for suffix in _SLIDE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_labels(
    path: Path,
    label_column: str | None = None,
    slide_column: str = "slide_id",
    patient_column: str | None = None,
) -> tuple[dict[str, Label], list[str]]:
    """Read a label CSV.

    Args:
        path: CSV with a header.
        label_column: name, by default `label`.
        slide_column: name.
        patient_column: name, by default `case_id` where there is one.

    Returns:
        Rows by plain slide id in the file's order, and a line for each repeated row skipped.

    Raises:
        ConfigError: no such file or column, an empty label, one slide under two labels.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such label file; --labels takes a CSV with a header")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        rows = list(reader)
    if patient_column is None and "case_id" in columns:
        patient_column = "case_id"
    label_column = label_column or "label"
    for column in (slide_column, label_column, *([patient_column] if patient_column else [])):
        if column not in columns:
            raise ConfigError(f"{path}: no column {column!r}; it has {', '.join(columns)}")
    found: dict[str, Label] = {}
    repeated = []
    for number, row in enumerate(rows, 2):
        slide = plain_id(row[slide_column] or "")
        label = (row[label_column] or "").strip()
        if not slide or not label:
            raise ConfigError(f"{path}: line {number} has no slide id or no label")
        entry = Label(label, (row[patient_column] or "").strip() if patient_column else None)
        if slide not in found:
            found[slide] = entry
        elif found[slide] == entry:
            repeated.append(f"{slide}: repeated in line {number} of {path.name}")
        else:
            raise ConfigError(f"{path}: {slide} is there twice, with different labels or patients")
    return found, repeated


def read_features(path: Path) -> tuple[Tensor, Coordinates | None]:
    """Read one slide's features.

    Args:
        path: `.h5` with `features` (or `feats`, `patch_embeddings`) and perhaps `coords` and a
            boolean `mask`, TRIDENT's, CLAM's and STAMP's layouts; `.pt` with a bare tensor;
            `.npy`. The last two may have their mask in `masks/<name>.npy` beside them, and int8
            in h5 its `scales`. A leading dimension of 1 is dropped, a single vector is a bag of
            one, and further dimensions between the first and last are taken as instances.

    Returns:
        (N, D) float32 and the coordinates, if there are any.

    Raises:
        ConfigError: unreadable, or not an array of numbers.
    """
    coordinates = None
    try:
        if path.suffix == ".h5":
            values, coordinates = _read_h5(path)
        elif path.suffix == ".pt":
            values = torch.load(path, map_location="cpu", weights_only=True)
        else:
            values = np.load(path, allow_pickle=False)
        values = torch.as_tensor(values)
        mask = path.parent / "masks" / f"{path.stem}.npy"
        if path.suffix != ".h5" and mask.is_file():
            keep = as_mask(np.load(mask, allow_pickle=False), str(mask)).ravel()
            if values.ndim > 2 and values.shape[0] == 1:
                values = values[0]
            if len(keep) != len(values):
                raise ConfigError(f"{path}: {len(values)} instances but a mask of {len(keep)}")
            values = values[torch.from_numpy(keep)]
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0][:200]
        raise ConfigError(f"{path}: not readable as features ({reason})") from error
    if not (values.is_floating_point() or values.dtype == torch.int8) or values.ndim == 0:
        raise ConfigError(f"{path}: found {values.dtype}, expected an array of floats (N, D)")
    if values.ndim == 1:
        values = values[None]
    return values.reshape(-1, values.shape[-1]).float(), coordinates


def _read_h5(path: Path) -> tuple[np.ndarray, Coordinates | None]:
    import h5py

    with h5py.File(path, "r") as file:
        names = [n for n in _FEATURE_NAMES if n in file]
        if not names:
            raise ConfigError(f"{path}: has {sorted(file)}, expected a dataset 'features'")
        values = np.asarray(file[names[0]])
        if values.ndim > 2 and values.shape[0] == 1:
            values = values[0]
        if values.ndim == 1:
            return values, None
        count = values.size // values.shape[-1]
        if "scales" in file:  # int8 codes, a scale per instance
            values = values * np.asarray(file["scales"])[:, None]
        keep = (
            as_mask(np.asarray(file["mask"]), f"{path}: mask").ravel() if "mask" in file else None
        )
        if keep is not None:
            if len(keep) != count:
                raise ConfigError(f"{path}: {count} instances but a mask of {len(keep)}")
            values = values.reshape(count, -1)[keep]
        if "coords" not in file:
            return values, None
        xy, attributes = np.asarray(file["coords"]), dict(file["coords"].attrs)
        if xy.ndim == 3 and xy.shape[0] == 1:
            xy = xy[0]
    if len(xy) != count:
        raise ConfigError(f"{path}: {count} instances but {len(xy)} coordinates")
    if keep is not None:
        xy = xy[keep]
    width, height = (_number(attributes.get(f"level0_{side}")) for side in ("width", "height"))
    size = (int(width), int(height)) if width and height else None
    return values, Coordinates(xy[:, :2].astype(np.float64), _side(xy, attributes), size)


def as_mask(values: np.ndarray, where: str) -> np.ndarray:
    """A mask as booleans, whatever type it was stored in.

    On integers `~mask` and `array[mask]` mean other things than on booleans, without an error.

    Args:
        values: any shape; booleans, or numbers that are all 0 or 1.
        where: what the error names.

    Raises:
        ConfigError: other values.
    """
    if values.dtype == bool:
        return values
    if values.dtype.kind not in "iuf":
        raise ConfigError(f"{where}: found {values.dtype}, expected booleans, or 0 and 1")
    odd = values[(values != 0) & (values != 1)]
    if odd.size:
        raise ConfigError(f"{where}: found {odd.flat[0]}, expected booleans, or 0 and 1")
    return values.astype(bool)


def _number(value: Any) -> float | None:
    return None if value is None else float(np.asarray(value).ravel()[0])


def _side(xy: np.ndarray, attributes: Mapping[str, Any]) -> float:
    for name in ("patch_size_level0", "patch_size"):
        if (side := _number(attributes.get(name))) is not None:
            return side
    steps = np.concatenate([np.diff(np.unique(xy[:, axis])) for axis in (0, 1)])
    return float(steps.min()) if len(steps) else 1.0


def read_bags(
    path: Path,
    labels: Path | None = None,
    *,
    name: str | None = None,
    label_column: str | None = None,
    slide_column: str = "slide_id",
    patient_column: str | None = None,
    positive: str | None = None,
) -> Bags:
    """Read a feature source.

    Args:
        path: an npz with `X` (instances, D), `bag` (instances,), and perhaps `y`, `slide_id`,
            `case_id`, `train_mask`; or a folder of one `.h5`, `.pt` or `.npy` per slide.
        labels: label CSV; not needed for an npz with `y`.
        name: of the source, by default the file's.
        label_column: of the CSV.
        slide_column: of the CSV.
        patient_column: of the CSV.
        positive: makes two classes, this one against the rest.

    Raises:
        ConfigError: nothing there, features of different dimensions, fewer than two classes.
    """
    rows, skipped = None, []
    if labels is not None:
        rows, skipped = read_labels(labels, label_column, slide_column, patient_column)
    if path.is_dir():
        if rows is None:
            raise ConfigError(f"{path}: a folder of features needs --labels with a CSV")
        found, missing = _read_folder(path, rows)
        folds = None
    elif path.suffix == ".npz" and path.is_file():
        found, missing, folds = _read_npz(path, rows)
    else:
        raise ConfigError(f"{path}: expected a folder of {', '.join(SUFFIXES)} files, or an npz")
    kept = []
    for entry in found:
        if problem := _problem(entry[1]):
            skipped.append(f"{entry[0]}: {problem}")
        else:
            kept.append(entry)
    skipped += missing
    if not kept:
        raise ConfigError(f"{path}: no slide has both features and a label")
    dims = Counter(entry[1].shape[1] for entry in kept)
    if len(dims) > 1:
        odd = dims.most_common()[-1][0]
        example = next(entry[0] for entry in kept if entry[1].shape[1] == odd)
        found_dims = ", ".join(f"{d} ({n} slides)" for d, n in dims.most_common())
        raise ConfigError(f"{path}: features of different dimensions: {found_dims}; see {example}")
    named = [("rest", positive)[e[2].label == positive] if positive else e[2].label for e in kept]
    classes = ("rest", positive) if positive else tuple(sorted(set(named), key=_order))
    if len(set(named)) < 2:
        raise ConfigError(f"{path}: only the class {named[0]!r} is there, expected two or more")
    if folds is not None and len(kept) < folds.shape[1]:
        folds = folds[:, [entry[4] for entry in kept]]
    return Bags(
        name=name or path.stem,
        features=tuple(entry[1] for entry in kept),
        labels=np.array([classes.index(n) for n in named]),
        classes=classes,
        slides=tuple(entry[0] for entry in kept),
        patients=tuple(entry[2].patient or entry[0] for entry in kept),
        coordinates=tuple(entry[3] for entry in kept),
        folds=folds,
        patients_known=all(entry[2].patient for entry in kept),
        skipped=tuple(skipped),
    )


Entry = tuple[str, Tensor, Label, Coordinates | None, int]


def _order(label: str) -> tuple[int, float, str]:
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)


def _problem(bag: Tensor) -> str | None:
    if not len(bag):
        return "no instances"
    if not bool(torch.isfinite(bag).all()):
        bad = int((~torch.isfinite(bag)).any(1).sum())
        return f"{bad} of {len(bag)} instances hold NaN or infinity"
    return None


def _read_folder(path: Path, rows: dict[str, Label]) -> tuple[list[Entry], list[str]]:
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix in SUFFIXES and not file.name.startswith("."):
            slide = plain_id(file.name)
            if slide in files:
                raise ConfigError(
                    f"{path}: {slide} is there twice: {files[slide].name}, {file.name}"
                )
            files[slide] = file
    missing = [f"{slide}: no features in {path.name}" for slide in rows if slide not in files]
    missing += [f"{slide}: no label" for slide in files if slide not in rows]
    entries = []
    for index, (slide, label) in enumerate((s, r) for s, r in rows.items() if s in files):
        bag, coordinates = read_features(files[slide])
        entries.append((slide, bag, label, coordinates, index))
    return entries, missing


def _read_npz(
    path: Path, rows: dict[str, Label] | None
) -> tuple[list[Entry], list[str], np.ndarray | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:
        raise ConfigError(f"{path}: not readable as npz ({error})") from error
    if not {"X", "bag"} <= arrays.keys():
        raise ConfigError(f"{path}: has {sorted(arrays)}, expected arrays X and bag")
    x, bag = torch.from_numpy(arrays["X"].astype(np.float32)), arrays["bag"].astype(np.int64)
    count = len(arrays["y"]) if "y" in arrays else int(bag.max(initial=-1)) + 1
    if x.ndim != 2 or len(x) != len(bag) or bag.min(initial=0) < 0 or bag.max(initial=0) >= count:
        raise ConfigError(f"{path}: X {tuple(x.shape)} and bag {bag.shape} don't fit {count} bags")
    order = torch.from_numpy(np.argsort(bag, kind="stable"))
    parts = x[order].split(np.bincount(bag, minlength=count).tolist())
    slides = [plain_id(str(s)) for s in arrays.get("slide_id", np.arange(count))]
    patients = [str(c) for c in arrays["case_id"]] if "case_id" in arrays else [None] * count
    if len(slides) != count or len(patients) != count:
        raise ConfigError(f"{path}: {count} bags, but slide_id or case_id of another length")
    if repeated := [s for s, n in Counter(slides).items() if n > 1]:
        raise ConfigError(
            f"{path}: slide id {repeated[0]} is there {slides.count(repeated[0])} times"
        )
    if rows is None:
        if "y" not in arrays:
            raise ConfigError(f"{path}: has no y: pass --labels with a CSV")
        rows = {s: Label(str(v), p) for s, v, p in zip(slides, arrays["y"], patients, strict=True)}
    missing = [f"{slide}: no features in {path.name}" for slide in rows if slide not in set(slides)]
    missing += [f"{slide}: no label" for slide in slides if slide not in rows]
    entries: list[Entry] = [
        (slide, part, rows[slide], None, index)
        for index, (slide, part) in enumerate(zip(slides, parts, strict=True))
        if slide in rows
    ]
    if "train_mask" not in arrays:
        return entries, missing, None
    masks = as_mask(arrays["train_mask"], f"{path}: train_mask")
    if masks.ndim == 0 or masks.shape[-1] != count:
        raise ConfigError(
            f"{path}: train_mask of shape {masks.shape}; expected (folds, {count}), a row per fold"
        )
    return entries, missing, masks.reshape(-1, count)
