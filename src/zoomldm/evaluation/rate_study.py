"""Rate study: slides stored at many rates, measured and written as a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoomldm.evaluation.archive_rates import measure_archives, parse_archive
from zoomldm.evaluation.codecs import Setting, parse_setting
from zoomldm.evaluation.comparison import Judges
from zoomldm.evaluation.fidelity_page import check_page, write_rates
from zoomldm.evaluation.judge import load_judge
from zoomldm.evaluation.options import EvaluateReport, RatesOptions
from zoomldm.evaluation.public_features import PublicFeatures
from zoomldm.evaluation.rates import (
    archive_settings,
    between_cases,
    bytes_per_tile,
    measure_settings,
)
from zoomldm.geometry.levels import parse_level
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline, load_pipeline
from zoomldm.verbs import Progress, silent

_COMPARED = 20  # slides compared with one another


def evaluate_rates(
    slides: Sequence[Path],
    out: Path | str,
    options: RatesOptions | None = None,
    *,
    pipeline: str | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
    command: str = "zoomldm.evaluation",
) -> EvaluateReport:
    """Measure slides stored at many rates; rows are stored, so an interrupted run resumes.

    Args:
        slides: the slides.
        out: the page, .md; figures and images are written beside it.
        options: see RatesOptions.
        pipeline: makes the archives, if any.
        progress: called as work goes on.
        command: command that the page names.

    Raises:
        ConfigError: an invalid setting.
        TargetError: the page can't be written.
    """
    out, options = Path(out), options or RatesOptions()
    check_page(out)
    model = (
        (load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline)
        if options.archives
        else None
    )
    device = model.device if model else "cpu"
    judges = Judges(PublicFeatures(device), load_judge(options.judge, device))
    cache_path, rows = out.with_suffix(".rows.json"), []
    for path in slides:
        rows += rates_of(path, judges, options, model, cache_path, progress or silent)
    return rates_page(rows, slides, judges, out, options, command)


def rates_of(
    slide: Path,
    judges: Judges,
    options: RatesOptions,
    pipeline: ZoomLDMPipeline | None = None,
    cache_path: Path | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Measure one slide for `evaluate_rates`; see `measure_settings`, `measure_archives`."""
    every, measured = [parse_setting(s) for s in options.settings], []
    levels = [parse_level(one) for one in options.levels or ()] or [0, 1, 2]
    if options.archives:
        assert pipeline is not None
        measured = measure_archives(
            slide,
            [parse_archive(s) for s in options.archives],
            judges,
            pipeline,
            tiles=options.tiles,
            levels=levels,
            cache_path=cache_path,
            progress=progress,
        )
        sizes = [round(m["bytes"]) for m in measured]
        every += [*(Setting("avif", 2, n) for n in sizes), Setting("avif", 0, max(sizes))]
    elif not every:
        every = [s for group in archive_settings(bytes_per_tile(slide)).values() for s in group]
    return measured + measure_settings(
        slide,
        list(dict.fromkeys(every)),
        judges,
        tiles=options.tiles,
        regions=options.regions,
        levels=levels,
        cache_path=cache_path,
        progress=progress,
    )


def rates_page(
    rows: list[dict[str, Any]],
    slides: Sequence[Path],
    judges: Judges,
    out: Path,
    options: RatesOptions,
    command: str,
) -> EvaluateReport:
    """Write the page of `evaluate_rates`; the first 20 slides are compared with one another."""
    archives = {}
    if not options.settings and not options.archives:
        archives = {s.name: archive_settings(bytes_per_tile(s)) for s in slides}
    between = between_cases(slides[:_COMPARED], judges, options.tiles)
    files = write_rates(rows, between, out, command, archives)
    return EvaluateReport({"rows": rows, "between": between}, tuple(files))
