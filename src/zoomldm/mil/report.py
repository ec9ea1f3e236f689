"""Writes what a run found: tables as text, CSV and Markdown, one JSON document, plots."""

import json
from pathlib import Path

from zoomldm.mil.results import Report
from zoomldm.tables import as_csv, as_markdown, as_text


def write_report(report: Report, out: Path, *, plots: bool) -> None:
    """Write `results.json`; `table2`, `models`, `tests` as .txt, .csv and .md; the plots."""
    (out / "results.json").write_text(json.dumps(report.as_dict(), indent=1, allow_nan=False))
    tables = {
        "table2": report.table2(),
        "models": report.all_models(),
        "tests": report.tests_table(),
    }
    for name, table in tables.items():
        (out / f"{name}.csv").write_text(as_csv(*table))
        (out / f"{name}.md").write_text(as_markdown(*table) + "\n")
        (out / f"{name}.txt").write_text(as_text(*table) + "\n")
    (out / "notes.txt").write_text("\n".join(report.notes()) + "\n")
    if plots:
        from zoomldm.mil.plots import write_plots

        write_plots(report, out)
