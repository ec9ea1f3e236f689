"""Bags: features of many slides with labels, from h5, pt, npy or a single npz."""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomldm.cohort.labels import Label, plain_id, read_labels
from zoomldm.cohort.rows import is_missing
from zoomldm.errors import ConfigError
from zoomldm.features.reading import SUFFIXES, Coordinates, as_mask, read_features
from zoomldm.mil.packed import Packed, Packer
from zoomldm.remote import RemotePath, as_path, download, listed, local_copy


@dataclass(frozen=True)
class Bags:
    """Labelled slides of one feature source.

    Attributes:
        name: name of the source.
        features: per slide (N, D) float32, with the same D for all.
        sizes: N of each slide.
        means: (slides, D) float64, the mean over each slide's instances.
        labels: (slides,) int64, indices into `classes`.
        classes: names of the classes.
        slides: slide ids.
        patients: patient ids; the slide's own id if its patient is unknown.
        files: per slide the h5 file with its coordinates (local or at a URL), or None.
        folds: boolean (folds, slides), true for training slides, if the file publishes folds.
        unknown_patients: number of slides without a patient.
        skipped: one line per slide left out: its id and the reason.
    """

    name: str
    features: Sequence[Tensor]
    sizes: tuple[int, ...]
    means: NDArray[np.float64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    slides: tuple[str, ...]
    patients: tuple[str, ...]
    files: tuple[Path | RemotePath | None, ...]
    folds: NDArray[np.bool_] | None = None
    unknown_patients: int = 0
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of slides."""
        return len(self.slides)

    @property
    def dim(self) -> int:
        """Feature dimension, D."""
        return self.means.shape[1]

    @property
    def patients_known(self) -> bool:
        """Whether every slide's patient was given."""
        return not self.unknown_patients

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

    def coordinates(self, row: int) -> Coordinates | None:
        """Read the coordinates of a slide's instances from its file; None if it has none."""
        file = self.files[row]
        if file is None:
            return None
        with local_copy(str(file)) as local:
            return read_features(local)[1]

    def choose(self, keep: NDArray[np.int64]) -> "Bags":
        """Select the slides at the given indices, in that order."""
        rows = keep.tolist()
        features = self.features
        packed = isinstance(features, Packed)
        return replace(
            self,
            features=features.choose(rows) if packed else tuple(features[i] for i in rows),
            sizes=tuple(self.sizes[i] for i in rows),
            means=self.means[keep],
            labels=self.labels[keep],
            slides=tuple(self.slides[i] for i in rows),
            patients=tuple(self.patients[i] for i in rows),
            files=tuple(self.files[i] for i in rows),
            folds=None if self.folds is None else self.folds[:, keep],
        )


def read_bags(
    path: Path | RemotePath | str,
    labels: Path | None = None,
    *,
    name: str | None = None,
    label_column: str | None = None,
    slide_column: str = "slide_id",
    patient_column: str | None = None,
    positive: str | None = None,
    pack: Path | None = None,
) -> Bags:
    """Read a feature source.

    Args:
        path: an npz with `X` (instances, D), `bag` (instances,), and optionally `y`, `slide_id`,
            `case_id`, `train_mask`; or a folder with one `.h5`, `.pt` or `.npy` per slide; or the
            URL of either (a folder's URL ends in `/`). Files of a remote folder are fetched one
            at a time.
        labels: label CSV; not needed for an npz with `y`.
        name: name of the source; by default the file's.
        label_column: column of the CSV.
        slide_column: column of the CSV.
        patient_column: column of the CSV.
        positive: makes two classes, this one against the rest.
        pack: file to write the features to, instead of holding all of them in memory; it must
            exist as long as the bags are used.

    Raises:
        ConfigError: nothing there, features of different dimensions, fewer than two classes.
        RemoteError: a URL can't be listed or read.
    """
    path, rows, skipped = as_path(path), None, []
    if labels is not None:
        rows, skipped = read_labels(labels, label_column, slide_column, patient_column)
    folds = None
    if path.url.endswith("/") if isinstance(path, RemotePath) else path.is_dir():
        if rows is None:
            raise ConfigError(f"{path}: a folder of features needs --labels with a CSV")
        found, missing = _read_folder(path, rows)
    elif path.suffix == ".npz" and (isinstance(path, RemotePath) or path.is_file()):
        with _local(path) as local:
            found, missing, folds = _read_npz(local, rows)
    else:
        hint = "; a folder's URL ends in /" if isinstance(path, RemotePath) else ""
        raise ConfigError(
            f"{path}: expected a folder of {', '.join(SUFFIXES)} files, or an npz{hint}"
        )
    retained: list[_BagInfo] = []
    means = array("d")  # one block: many small ones between large ones keep the heap from shrinking
    with Packer(pack) as packer:
        for slide, bag, label, file, index in found:
            if problem := _problem(bag):
                skipped.append(f"{slide}: {problem}")
                continue
            packer.add(bag)
            means.frombytes(bag.double().mean(0).numpy().tobytes())
            retained.append(_BagInfo(slide, label, file, index, *bag.shape))
        features = packer.done()
    reported = {line.split(": no label (")[0] for line in skipped if ": no label (" in line}
    skipped += [line for line in missing if line.removesuffix(": no label") not in reported]
    if not retained:
        raise ConfigError(f"{path}: no slide has both features and a label{_unmatched(missing)}")
    dims = Counter(b.dim for b in retained)
    if len(dims) > 1:
        odd = dims.most_common()[-1][0]
        example = next(b.slide for b in retained if b.dim == odd)
        found_dims = ", ".join(f"{d} ({n} slides)" for d, n in dims.most_common())
        raise ConfigError(f"{path}: features of different dimensions: {found_dims}; see {example}")
    named = [b.label.label for b in retained]
    if positive is not None:
        named = [positive if n == positive else "rest" for n in named]
    classes = ("rest", positive) if positive else tuple(sorted(set(named), key=_order))
    if len(set(named)) < 2:
        raise ConfigError(f"{path}: only the class {named[0]!r} is there, expected two or more")
    if folds is not None:
        folds = folds[:, [b.index for b in retained]]
    return Bags(
        name=name or path.stem,
        features=features,
        sizes=tuple(b.size for b in retained),
        means=np.frombuffer(means).reshape(len(retained), -1),
        labels=np.array([classes.index(n) for n in named]),
        classes=classes,
        slides=tuple(b.slide for b in retained),
        patients=tuple(b.label.patient or b.slide for b in retained),
        files=tuple(b.file for b in retained),
        folds=folds,
        unknown_patients=sum(not b.label.patient for b in retained),
        skipped=tuple(skipped),
    )


Source = Path | RemotePath
Entry = tuple[str, Tensor, Label, Source | None, int]
"""Slide, its features, its label, the h5 file with its coordinates, its index in the source."""


class _BagInfo(NamedTuple):
    slide: str
    label: Label
    file: Source | None
    index: int
    size: int
    dim: int


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


def _unmatched(missing: Iterable[str]) -> str:
    """Describe one unmatched id of each side, if no slide has both features and a label."""
    ends = {"no features in": "a label", ": no label": "features"}
    shown = [
        f"{line.rsplit(':', 1)[0]!r} has {what} alone"
        for end, what in ends.items()
        if (line := next((m for m in missing if end in m), None))
    ]
    return f" ({', '.join(shown)})" if shown else ""


def _read_folder(path: Source, rows: dict[str, Label]) -> tuple[Iterator[Entry], list[str]]:
    files: dict[str, Source] = {}
    for file in _files_in(path, frozenset(SUFFIXES)):
        slide = plain_id(file.name)
        if slide in files:
            raise ConfigError(f"{path}: {slide} is there twice: {files[slide].name}, {file.name}")
        files[slide] = file
    missing = [f"{slide}: no features in {path.name}" for slide in rows if slide not in files]
    missing += [f"{slide}: no label" for slide in files if slide not in rows]
    masks: dict[str, RemotePath] = {}
    if isinstance(path, RemotePath) and any(f.suffix != ".h5" for f in files.values()):
        found = _files_in(RemotePath(f"{path.url}masks/"), frozenset([".npy"]))
        masks = {file.stem: file for file in found if isinstance(file, RemotePath)}

    def entries() -> Iterator[Entry]:
        both = [(slide, label) for slide, label in rows.items() if slide in files]
        for index, (slide, label) in enumerate(both):
            with _local(files[slide], masks) as local:
                bag, where = read_features(local)
            yield slide, bag, label, files[slide] if where is not None else None, index

    return entries(), missing


def _files_in(folder: Source, endings: frozenset[str]) -> list[Source]:
    if isinstance(folder, RemotePath):
        return [RemotePath(url) for url in listed(folder.url, endings)]
    visible = (file for file in sorted(folder.iterdir()) if not file.name.startswith("."))
    return [file for file in visible if file.suffix in endings]


@contextmanager
def _local(file: Source, masks: Mapping[str, RemotePath] | None = None) -> Iterator[Path]:
    """Yield a local path: the file itself, or a temporary download of it and its mask."""
    if isinstance(file, Path):
        yield file
        return
    with TemporaryDirectory(prefix="zoomldm-") as name:
        folder = Path(name)
        download(file.url, folder / file.name)
        if masks and file.suffix != ".h5" and file.stem in masks:
            (folder / "masks").mkdir()
            download(masks[file.stem].url, folder / "masks" / f"{file.stem}.npy")
        try:
            yield folder / file.name
        except ConfigError as error:  # the message names the temporary copy
            message = str(error).replace(f"{folder}{os.sep}", f"{file.url.rpartition('/')[0]}/")
            raise ConfigError(message) from error


def _read_npz(
    path: Path, rows: dict[str, Label] | None
) -> tuple[list[Entry], list[str], NDArray[np.bool_] | None]:
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
    slides = [plain_id(s) for s in _words(arrays.get("slide_id", np.arange(count)))]
    patients: list[str | None] = [None] * count
    if "case_id" in arrays:
        patients = [None if is_missing(c) else c for c in _words(arrays["case_id"])]
    if len(slides) != count or len(patients) != count:
        raise ConfigError(f"{path}: {count} bags, but slide_id or case_id of another length")
    if repeated := [s for s, n in Counter(slides).items() if n > 1]:
        raise ConfigError(
            f"{path}: slide id {repeated[0]} is there {slides.count(repeated[0])} times"
        )
    if rows is None:
        if "y" not in arrays:
            raise ConfigError(f"{path}: has no y: pass --labels with a CSV")
        labels = _words(arrays["y"])
        rows = {
            slide: Label(label, patient)
            for slide, label, patient in zip(slides, labels, patients, strict=True)
            if not is_missing(label)
        }
    known = set(slides)
    missing = [f"{slide}: no features in {path.name}" for slide in rows if slide not in known]
    missing += [f"{slide}: no label" for slide in slides if slide not in rows]
    entries: list[Entry] = [
        (slide, part, replace(rows[slide], patient=rows[slide].patient or patient), None, index)
        for index, (slide, part, patient) in enumerate(zip(slides, parts, patients, strict=True))
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


def _words(values: NDArray[Any]) -> list[str]:
    """Convert an array's values to stripped text; bytes are UTF-8."""
    plain = values.tolist()
    words = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in plain]
    return [word.strip() for word in words]
