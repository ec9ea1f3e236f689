"""Write the results of a run: tables as text, CSV and Markdown, one JSON document, plots."""

import json
from pathlib import Path

from zoomldm.files import atomic_path
from zoomldm.mil.results import MilReport
from zoomldm.tables import as_csv, as_markdown, as_text


def write_report(report: MilReport, out: Path, *, plots: bool) -> None:
    """Write `results.json`; `table2`, `models`, `tests` as .txt, .csv and .md; plots if asked."""
    files = {"results.json": json.dumps(report.as_dict(), indent=1, allow_nan=False)}
    tables = {
        "table2": report.table2(),
        "models": report.all_models(),
        "tests": report.tests_table(),
    }
    for name, table in tables.items():
        files[f"{name}.csv"] = as_csv(*table)
        files[f"{name}.md"] = as_markdown(*table) + "\n"
        files[f"{name}.txt"] = as_text(*table) + "\n"
    files["notes.txt"] = "\n".join(report.notes()) + "\n"
    for name, text in files.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if plots:
        from zoomldm.mil.plots import write_plots

        write_plots(report, out)
