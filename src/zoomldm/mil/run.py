"""The benchmark: all models, fractions, seeds and folds; resumable and parallel."""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from zoomldm.cores import cores
from zoomldm.errors import ConfigError, TargetError, ZoomLDMError
from zoomldm.files import claim
from zoomldm.mil.bags import Bags, read_bags
from zoomldm.mil.maps import write_maps
from zoomldm.mil.protocol import (
    MODELS,
    FoldResult,
    Protocol,
    ProtocolName,
    Task,
    pick_protocol,
    run_fold,
    split_name,
)
from zoomldm.mil.report import write_report
from zoomldm.mil.results import MilReport, Source
from zoomldm.mil.splits import Fold, count_leakage, draw_folds, published_folds, read_splits
from zoomldm.pipeline import pick_device
from zoomldm.remote import as_path
from zoomldm.verbs import Progress

_ATTENDING = MODELS[:4]  # models with attention to map

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MilOptions:
    """What to run, and on what data.

    Attributes:
        labels: label CSV; an npz may not need one.
        splits: folder of split files.
        folds: number of folds to draw by patient, if there are no split files.
        models: names from `protocol.MODELS`, each optionally with `:hipt` or `:original`.
        fractions: fractions of the training slides.
        seeds: seeds of initial weights and sampling.
        protocol: see `protocol.PROTOCOLS`.
        epochs: overrides the protocol's 20.
        jobs: processes with one thread each; 0 for one per CPU. A script that requests more than
            one must guard its call with `if __name__ == "__main__":`.
        label_column: column of the CSV, default `label`.
        slide_column: column of the CSV.
        patient_column: column of the CSV, default `case_id` if present.
        positive: class to compare with the rest.
        maps: write attention maps of the test slides (first seed, largest fraction).
        plots: write plots (needs matplotlib).
        device: device of the networks; `auto` is the first GPU, or the CPU if there is none. Bags
            of a few hundred features are faster on the CPU.

    Raises:
        ConfigError: an unknown model, or a fraction or count out of range.
    """

    labels: Path | str | None = None
    splits: Path | str | None = None
    folds: int | None = None
    models: tuple[str, ...] = MODELS
    fractions: tuple[float, ...] = (0.25, 1.0)
    seeds: tuple[int, ...] = (1,)
    protocol: ProtocolName = "hipt"
    epochs: int | None = None
    jobs: int = 0
    label_column: str | None = None
    slide_column: str = "slide_id"
    patient_column: str | None = None
    positive: str | None = None
    maps: bool = False
    plots: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        for model in self.models:
            split_name(model, self.rules)
        if not self.models or not self.fractions or not self.seeds:
            raise ConfigError("nothing to run: expected a model, a fraction and a seed at least")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ConfigError(f"fraction {fraction}: expected above 0, up to 1")
        if self.rules.epochs < 1 or self.jobs < 0:
            raise ConfigError("epochs must be 1 or more and jobs 0 or more")
        if self.splits is not None and self.folds is not None:
            raise ConfigError("--splits and --folds exclude each other: pass one")
        # Remove duplicates: fractions sorted, the others in the given order.
        object.__setattr__(self, "models", tuple(dict.fromkeys(self.models)))
        object.__setattr__(self, "seeds", tuple(dict.fromkeys(self.seeds)))
        object.__setattr__(self, "fractions", tuple(sorted(set(self.fractions))))

    @property
    def rules(self) -> Protocol:
        """The protocol, with `epochs` applied."""
        protocol = pick_protocol(self.protocol)
        return protocol if self.epochs is None else replace(protocol, epochs=self.epochs)


def run_mil(
    features: Path | str | Mapping[str, Path | str],
    out: Path | str,
    options: MilOptions | None = None,
    *,
    progress: Progress | None = None,
) -> MilReport:
    """Train and measure MIL models over folds; a second call resumes where the first stopped.

    While it runs, `out` holds a copy of all features in float32, one file per source. The files
    are memory-mapped, so neither memory nor open files grow with the number of slides.

    Args:
        features: a feature source, see `bags.read_bags`, or its URL; or several by name, compared
            on the slides that all of them have.
        out: existing folder for results, tables, plots and maps.
        options: see MilOptions.
        progress: called when a training run ends.

    Returns:
        The report, also written to `out`.

    Raises:
        ConfigError: invalid options, features, labels or splits.
        TargetError: `out` is not a folder, is in use, or holds results of other settings.

    Examples:
        >>> import numpy as np
        >>> import zoomldm
        >>> label = np.arange(12) % 2  # of twelve slides, each a bag of three instances
        >>> X = np.random.default_rng(0).normal(label.repeat(3)[:, None], 1, (36, 4))
        >>> np.savez("bags.npz", X=X, bag=np.arange(12).repeat(3), y=label)
        >>> options = zoomldm.MilOptions(folds=2, models=("logistic",), fractions=(1,), jobs=1)
        >>> report = zoomldm.run_mil("bags.npz", "features", options)
        >>> report.models, len(report.folds)
        (('logistic',), 2)
    """
    options, out = options or MilOptions(), Path(out)
    pick_device(options.device)
    if not out.is_dir():
        raise TargetError(f"{out}: no such folder; -o takes an existing one")
    named = features if isinstance(features, Mapping) else {as_path(features).stem: features}
    with claim(out / "results.json"), _packing(out) as packing:
        sources = _common(
            [
                _read(path, name, options, packing / f"{number}.f32")
                for number, (name, path) in enumerate(named.items())
            ]
        )
        folds = [
            count_leakage(f, sources[0], separate=options.rules.separate)
            for f in _folds(sources[0], options)
        ]
        for fold in folds:
            if not len(fold.train) or not len(fold.test):
                raise ConfigError(
                    f"fold {fold.index}: {len(fold.train)} training and "
                    f"{len(fold.test)} test slides; use fewer folds"
                )
        reported = []
        for bags in sources:
            results = _run_source(bags, folds, options, out, progress)
            reported.append(Source.of(bags, results))
        report = MilReport(
            tuple(reported), tuple(folds), options.models, options.fractions, options.rules
        )
        write_report(report, out, plots=options.plots)
    return report


@contextmanager
def _packing(out: Path) -> Iterator[Path]:
    """Provide an empty folder for features in `out` (cleared of a killed run's), then remove it."""
    folder = out / ".features"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path | str, name: str, options: MilOptions, pack: Path) -> Bags:
    bags = read_bags(
        path,
        Path(options.labels) if options.labels is not None else None,
        name=name,
        label_column=options.label_column,
        slide_column=options.slide_column,
        patient_column=options.patient_column,
        positive=options.positive,
        pack=pack,
    )
    log.info("%s: %d slides, %d left out", name, len(bags), len(bags.skipped))
    return bags


def _common(sources: list[Bags]) -> list[Bags]:
    """Select the slides that all sources have, in the order of the first."""
    if len({bags.name for bags in sources}) < len(sources):
        raise ConfigError("two feature sources of one name: give them as NAME=PATH")
    shared = set(sources[0].slides).intersection(*(bags.slides for bags in sources[1:]))
    order = [slide for slide in sources[0].slides if slide in shared]
    if not order:
        raise ConfigError("the feature sources have no slide in common")
    chosen = []
    for bags in sources:
        where = {slide: i for i, slide in enumerate(bags.slides)}
        lost = [f"{s}: not in every feature source" for s in bags.slides if s not in shared]
        bags = bags.choose(np.array([where[s] for s in order]))
        chosen.append(replace(bags, skipped=(*bags.skipped, *lost)))
        if chosen[0].classes != bags.classes or (chosen[0].labels != bags.labels).any():
            raise ConfigError(f"{bags.name} and {chosen[0].name} label the same slides differently")
    return chosen


def _folds(bags: Bags, options: MilOptions) -> list[Fold]:
    if options.splits is not None:
        return read_splits(Path(options.splits), bags)
    if options.folds is not None:
        validation = options.rules.choose == "validation"
        return draw_folds(bags, options.folds, seed=0, validation=validation)
    return published_folds(bags)


def _run_source(
    bags: Bags, folds: list[Fold], options: MilOptions, out: Path, progress: Progress | None
) -> list[FoldResult]:
    folder = out / "folds" / _plain(bags.name)
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder / "settings.json", bags, folds, options)
    tasks = [
        Task(model, fraction, seed, fold.index)
        for fraction in reversed(options.fractions)  # longest runs first
        for model in options.models
        for seed in options.seeds
        for fold in folds
    ]
    results: dict[Task, FoldResult] = {}
    left = []
    for task in tasks:
        result = _read_result(_file(folder, task))
        if result is None or (options.maps and _maps_missing(out, bags, task, options)):
            left.append(task)
        else:
            results[task] = result
    if progress:
        progress(bags.name, len(results), len(tasks))
    for result in _train_all(left, bags, folds, options, out):
        task = Task(result.model, result.fraction, result.seed, result.fold)
        _write_json(_file(folder, task), result.to_json())
        results[task] = result
        if progress:
            progress(bags.name, len(results), len(tasks))
    return [results[task] for task in tasks]


def _train_all(
    tasks: list[Task], bags: Bags, folds: list[Fold], options: MilOptions, out: Path
) -> Iterator[FoldResult]:
    jobs = min(options.jobs or cores(), len(tasks))
    if jobs <= 1:
        threads = torch.get_num_threads()
        _prepare(bags, folds, options, out)
        try:
            for task in tasks:
                yield _work(task)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _prepare_worker, (bags, folds, options, out)) as pool:
        futures: list[Future[FoldResult]] = [pool.submit(_work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise ZoomLDMError(
                "a training process was killed (out of memory?): the same command goes on, "
                "with fewer --jobs if need be"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_held: list = []  # set by `_prepare` for `_work` in each process


def _prepare(bags: Bags, folds: list[Fold], options: MilOptions, out: Path) -> None:
    torch.set_num_threads(1)
    _held[:] = [bags, {fold.index: fold for fold in folds}, options, out]


def _prepare_worker(bags: Bags, folds: list[Fold], options: MilOptions, out: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # only the parent reports the interruption
    _prepare(bags, folds, options, out)


def _work(task: Task) -> FoldResult:
    bags, folds, options, out = _held
    device = pick_device(options.device)
    result, model = run_fold(task, bags, folds[task.fold], options.rules, device)
    if model is not None and options.maps and _mapped(task, options):
        write_maps(model, bags, folds[task.fold].test, _map_folder(out, bags, task))
    return result


def _mapped(task: Task, options: MilOptions) -> bool:
    return task.seed == options.seeds[0] and task.fraction == max(options.fractions)


def _map_folder(out: Path, bags: Bags, task: Task) -> Path:
    return out / "maps" / _plain(bags.name) / _plain(task.model) / f"fold-{task.fold}"


def _maps_missing(out: Path, bags: Bags, task: Task, options: MilOptions) -> bool:
    attends = split_name(task.model, options.rules)[0] in _ATTENDING
    return attends and _mapped(task, options) and not _map_folder(out, bags, task).is_dir()


def _file(folder: Path, task: Task) -> Path:
    name = f"{_plain(task.model)}_{task.fraction:g}_seed-{task.seed}_fold-{task.fold}.json"
    return folder / name


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _check_settings(file: Path, bags: Bags, folds: list[Fold], options: MilOptions) -> None:
    """Refuse to mix results of different data, folds or protocols in one folder."""
    rows = [[f.index, f.train.tolist(), f.val.tolist(), f.test.tolist()] for f in folds]
    settings = {
        "features": bags.digest,
        "folds": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        **{f"protocol {k}": v for k, v in asdict(options.rules).items()},
    }
    device = pick_device(options.device).type
    if device != "cpu":  # omitted for the CPU: older results have no device
        settings["device"] = device
    if file.exists():
        stored = json.loads(file.read_text())
        changed = [k for k in {**settings, **stored} if stored.get(k) != settings.get(k)]
        if changed:
            raise TargetError(
                f"{file.parent} holds results of other {', '.join(changed)}: choose another -o"
            )
    else:
        _write_json(file, settings)


def _read_result(file: Path) -> FoldResult | None:
    try:
        values = json.loads(file.read_text())
        for key in ("slides", "labels"):
            values[key] = tuple(values[key])
        values["probabilities"] = tuple(tuple(row) for row in values["probabilities"])
        return FoldResult.from_json(values)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_json(file: Path, values: Mapping) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values, allow_nan=False))
    temporary.replace(file)
