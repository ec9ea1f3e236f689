"""Results of a run, as numbers and tables."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from zoomldm.mil.bags import Bags
from zoomldm.mil.metrics import Paired, auc, case_interval, mean_sd, paired
from zoomldm.mil.protocol import FoldResult, Protocol, pooled_scores
from zoomldm.mil.splits import Fold
from zoomldm.tables import as_text
from zoomldm.verbs import Report

_MEASURES = ("auc", "balanced_accuracy", "f1")
_FORMATS = ("+.3f", ".3f", ".3f")  # of a test's difference and its two p-values


@dataclass(frozen=True)
class Source:
    """A feature source and its results.

    Attributes:
        name: name of the source.
        slides: number of slides.
        classes: number of slides of each class, by name.
        instances: median number of features per slide.
        dim: dimension of each feature.
        unknown_patients: number of slides without a patient.
        skipped: one line per slide left out.
        results: results of all training runs.
        patients: patient of each slide.
    """

    name: str
    slides: int
    classes: dict[str, int]
    instances: float
    dim: int
    unknown_patients: int
    skipped: tuple[str, ...]
    results: tuple[FoldResult, ...]
    patients: dict[str, str]
    _pooled: dict[tuple[str, float], tuple[float, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )  # cache: tables, plots and JSON all need the same bootstraps

    @classmethod
    def of(cls, bags: Bags, results: Sequence[FoldResult]) -> "Source":
        """Summarise bags and results."""
        counts = {name: int((bags.labels == i).sum()) for i, name in enumerate(bags.classes)}
        return cls(
            bags.name,
            len(bags),
            counts,
            statistics.median(bags.sizes),
            bags.dim,
            bags.unknown_patients,
            bags.skipped,
            tuple(results),
            dict(zip(bags.slides, bags.patients, strict=True)),
        )

    def of_model(self, model: str, fraction: float) -> list[FoldResult]:
        """Return the results of one model at one fraction."""
        return [r for r in self.results if (r.model, r.fraction) == (model, fraction)]

    def one_class(self, model: str, fraction: float) -> bool:
        """Whether no fold's test set has an AUC; then a fold's other measures are meaningless."""
        return all(math.isnan(r.auc) for r in self.of_model(model, fraction))

    def pooled(self, model: str, fraction: float) -> tuple[float, ...]:
        """AUC over the test slides of all folds pooled, mean over seeds, and its interval."""
        key = model, fraction
        if key not in self._pooled:
            self._pooled[key] = _pooled(self.of_model(model, fraction), self.patients)
        return self._pooled[key]

    def per_fold(self, model: str, fraction: float, measure: str = "auc") -> dict[int, float]:
        """Return a measure by fold, averaged over the seeds; NaN if no seed has one."""
        found: dict[int, list[float]] = {}
        for result in self.of_model(model, fraction):
            found.setdefault(result.fold, []).append(getattr(result, measure))
        return {fold: mean_sd(values)[0] for fold, values in sorted(found.items())}


def _pooled(results: Sequence[FoldResult], patients: dict[str, str]) -> tuple[float, ...]:
    by_seed: dict[int, list[FoldResult]] = {}
    for result in results:
        by_seed.setdefault(result.seed, []).append(result)
    found = [pooled_scores(seed) for seed in by_seed.values()]
    positive = found[0][0] if found else np.empty(0, bool)
    if not positive.any() or positive.all():
        return math.nan, math.nan, math.nan
    scores = np.array([scores for _, scores, _ in found])
    mean = float(np.mean([auc(positive, s) for s in scores]))
    return mean, *case_interval(positive, scores, [patients[s] for s in found[0][2]])


@dataclass(frozen=True)
class MilReport(Report):
    """Results of a whole run.

    Attributes:
        sources: feature sources with their results.
        folds: the folds, with their leakage.
        models: models in the requested order.
        fractions: ascending fractions of the training slides.
        protocol: how models were trained.
    """

    sources: tuple[Source, ...]
    folds: tuple[Fold, ...]
    models: tuple[str, ...]
    fractions: tuple[float, ...]
    protocol: Protocol

    def as_dict(self) -> dict[str, object]:
        """Return one JSON document: `results`, one per source, model and fraction; `tests`."""
        return {
            "protocol": asdict(self.protocol),
            "sources": [
                {
                    "name": s.name,
                    "slides": s.slides,
                    "classes": s.classes,
                    "instances": s.instances,
                    "dim": s.dim,
                    "patients_known": not s.unknown_patients,
                    "unknown_patients": s.unknown_patients,
                    "skipped": s.skipped,
                }
                for s in self.sources
            ],
            "splits": [
                {
                    "fold": f.index,
                    "train": len(f.train),
                    "val": len(f.val),
                    "test": len(f.test),
                    "patients_in_train_and_test": f.shared,
                    "slides_dropped_for_that": f.dropped,
                    "unknown_ids": f.unknown,
                }
                for f in self.folds
            ],
            "results": [
                self._entry(s, m, f)
                for s in self.sources
                for m in self.models
                for f in self.fractions
            ],
            "tests": self.tests,
        }

    def _entry(self, source: Source, model: str, fraction: float) -> dict[str, Any]:
        entry: dict[str, Any] = {"source": source.name, "model": model, "fraction": fraction}
        one_class = source.one_class(model, fraction)
        for measure in _MEASURES:
            values = [] if one_class else list(source.per_fold(model, fraction, measure).values())
            mean, sd = mean_sd(values)
            entry |= {f"{measure}_mean": _finite(mean), f"{measure}_std": _finite(sd)}
        if one_class:
            names = ("auc_pooled", "auc_pooled_low", "auc_pooled_high")
            values = map(_finite, source.pooled(model, fraction))
            entry |= dict(zip(names, values, strict=True))
        dropped = ("slides", "labels", "probabilities", "model", "fraction")
        entry["folds"] = [
            {k: v for k, v in r.to_json().items() if k not in dropped}
            for r in source.of_model(model, fraction)
        ]
        return entry

    @cached_property
    def tests(self) -> list[dict[str, Any]]:
        """Paired tests of the AUC: models within a source, and sources within a model."""
        ratio = mean_sd([len(f.test) / len(f.train) for f in self.folds])[0]
        found = []
        for fraction in self.fractions:
            for source in self.sources:
                for i, first in enumerate(self.models):
                    for second in self.models[i + 1 :]:
                        test = self._compare(source, first, source, second, fraction, ratio)
                        labels = {"source": source.name, "first": first, "second": second}
                        found.append({"fraction": fraction, **labels, **_row(test)})
            for model in self.models:
                for i, one in enumerate(self.sources):
                    for other in self.sources[i + 1 :]:
                        test = self._compare(one, model, other, model, fraction, ratio)
                        labels = {"model": model, "first": one.name, "second": other.name}
                        found.append({"fraction": fraction, **labels, **_row(test)})
        return found

    def _compare(
        self, one: Source, first: str, other: Source, second: str, fraction: float, ratio: float
    ) -> Paired:
        a, b = one.per_fold(first, fraction), other.per_fold(second, fraction)
        both = [fold for fold in a if fold in b]
        return paired([a[f] for f in both], [b[f] for f in both], ratio / fraction)

    def table2(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows in the layout of the paper's Table 2; compression is against row one."""
        models = [m for m in self.models if m.split(":")[0] in ("clam-sb", "dsmil")]
        header = [
            "Feature source",
            "# features per WSI",
            "Feature dimension",
            "x times compression",
        ]
        header += [f"{f:.0%} {m}" for f in self.fractions for m in models]
        first = self.sources[0].instances * self.sources[0].dim
        rows = []
        for source in self.sources:
            ratio = first / (source.instances * source.dim)
            row = [source.name, f"{source.instances:g}", str(source.dim), f"{ratio:.3g}x"]
            row += [self.cell(source, m, f, "auc") for f in self.fractions for m in models]
            rows.append(row)
        return header, rows

    def all_models(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of all models: AUC, balanced accuracy and F1, mean ± sd over folds."""
        header = ["Feature source", "Model", "Training", "AUC", "Balanced accuracy", "F1"]
        rows = [
            [s.name, m, f"{f:.0%}", *(self.cell(s, m, f, measure) for measure in _MEASURES)]
            for s in self.sources
            for m in self.models
            for f in self.fractions
        ]
        return header, rows

    def tests_table(self, *, chosen: bool = False) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the paired tests.

        Args:
            chosen: only tests against logistic regression and between sources, where folds have
                an AUC.
        """
        header = ["Training", "Of", "First", "Second", "Difference", "p corrected", "p sign flip"]
        rows = []
        for test in self.tests:
            if chosen and "model" not in test and "logistic" not in (test["first"], test["second"]):
                continue
            values = (test["difference"], test["p_corrected"], test["p_sign_flip"])
            if chosen and values[0] is None:
                continue
            cells = [
                "-" if v is None else f"{v:{f}}" for v, f in zip(values, _FORMATS, strict=True)
            ]
            of = test.get("model") or test["source"]
            rows.append([f"{test['fraction']:.0%}", of, test["first"], test["second"], *cells])
        return header, rows

    def cell(self, source: Source, model: str, fraction: float, measure: str) -> str:
        """Format a measure as mean ± sd over folds, or a dash if there is none."""
        mean, sd = mean_sd(list(source.per_fold(model, fraction, measure).values()))
        if math.isnan(mean) or source.one_class(model, fraction):
            if measure != "auc":
                return "-"
            pooled, low, high = source.pooled(model, fraction)
            return "-" if math.isnan(pooled) else f"{pooled:.2f} pooled ({low:.2f} to {high:.2f})"
        return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"

    def notes(self, most: int | None = None) -> list[str]:
        """Return lines to print with every table: sizes, leakage, skipped slides.

        Args:
            most: largest number of skipped slides to list per source; by default all.
        """
        lines = []
        for source in self.sources:
            counts = ", ".join(f"{name}: {n}" for name, n in source.classes.items())
            lines.append(f"{source.name}: {source.slides} slides ({counts})")
            if source.skipped:
                lines.append(f"{source.name}: {len(source.skipped)} slides skipped:")
                lines += [f"  {line}" for line in source.skipped[:most]]
                if most is not None and len(source.skipped) > most:
                    lines.append(f"  ... and {len(source.skipped) - most} more, see notes.txt")
            failed = [r for r in source.results if r.skipped]
            lines += [f"{r.model} {r.fraction:.0%} fold {r.fold}: {r.skipped}" for r in failed]
            empty = sorted({r.fold for r in source.results if not r.skipped and math.isnan(r.auc)})
            if len(empty) == len(self.folds):
                lines.append(
                    f"{source.name}: each test set holds one class, so the AUC is that of all "
                    "folds together, with its 95 % bootstrap interval over cases"
                )
            elif empty:
                lines.append(
                    f"{source.name}: no AUC in folds {', '.join(map(str, empty))}: "
                    "a class is absent from the test set; they are left out of the mean"
                )
        shared = [f.shared for f in self.folds]
        unknown, slides = max((s.unknown_patients, s.slides) for s in self.sources)
        if unknown:
            of = f" of {unknown} of {slides} slides" if unknown < slides else ""
            lines.append(f"patients{of} unknown: leakage between train and test can't be counted")
        else:
            lines.append(f"patients in both train and test, by fold: {', '.join(map(str, shared))}")
        if dropped := sum(f.dropped for f in self.folds):
            lines.append(
                f"their slides were taken out of the training sets: {dropped} over all folds"
            )
        if any(f.unknown for f in self.folds):
            lines.append(
                "ids of the split files without features or label, by fold: "
                + ", ".join(str(f.unknown) for f in self.folds)
            )
        return lines

    def text(self) -> str:
        """Return the tables and the notes."""
        parts = [
            "AUC in the layout of Table 2, mean ± sd over folds",
            as_text(*self.table2()),
            f"All models, protocol {self.protocol.name}",
            as_text(*self.all_models()),
        ]
        compared = self.tests_table(chosen=True)
        if compared[1]:
            parts += ["Paired tests of the AUC over folds", as_text(*compared)]
        parts.append("\n".join(self.notes(most=20)))
        return "\n\n".join(parts)


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _row(test: Paired) -> dict[str, Any]:
    return {k: _finite(v) if isinstance(v, float) else v for k, v in asdict(test).items()}
