"""Plots of ROC curves and AUC per fold, as PNG."""

import math
from pathlib import Path

import numpy as np

from zoomldm.errors import ConfigError
from zoomldm.mil.metrics import roc
from zoomldm.mil.protocol import pooled_scores
from zoomldm.mil.results import MilReport


def write_plots(report: MilReport, out: Path) -> None:
    """Write `roc-<source>.png` (two classes) and `folds-<source>.png`, at the largest fraction.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib: pip install 'zoomldm[mil]', or --no-plots"
        ) from error
    fraction = max(report.fractions)
    for source in report.sources:
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in source.name)
        if len(source.classes) == 2:
            figure = Figure(figsize=(5.5, 5.5), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
            axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
            grid = np.linspace(0, 1, 201)
            for model in report.models:
                curves = []
                for result in source.of_model(model, fraction):
                    if not math.isnan(result.auc):
                        labels = np.array(result.labels) == 1
                        scores = np.array([p[1] for p in result.probabilities])
                        curves.append(np.interp(grid, *roc(labels, scores)))
                pooled, scores, _ = pooled_scores(source.of_model(model, fraction))
                if not curves and pooled.any() and not pooled.all():
                    curves.append(np.interp(grid, *roc(pooled, scores)))  # one class per fold
                if curves:
                    mean = report.cell(source, model, fraction, "auc")
                    axes.plot(grid, np.mean(curves, axis=0), label=f"{model} {mean}")
            axes.set(
                xlabel="false positive rate",
                ylabel="true positive rate",
                title=f"{source.name}, {fraction:.0%} of training slides, mean over folds",
            )
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="lower right", fontsize=8)
            figure.savefig(out / f"roc-{name}.png", dpi=120)
        figure = Figure(figsize=(1.5 + 1.1 * len(report.models), 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for position, model in enumerate(report.models):
            values = np.array(list(source.per_fold(model, fraction).values()))
            offsets = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
            axes.scatter(position + offsets, values, s=16)
            if not np.isnan(values).all():
                axes.hlines(np.nanmean(values), position - 0.3, position + 0.3, color="0.2")
        axes.set_xticks(range(len(report.models)), report.models, rotation=30, ha="right")
        axes.set(ylabel="AUC", title=f"{source.name}, {fraction:.0%}: each fold and the mean")
        figure.savefig(out / f"folds-{name}.png", dpi=120)
