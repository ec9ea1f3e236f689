"""Pages of `evaluate fidelity` or `evaluate rates` that were measured apart, as one page.

    python benchmarks/join_pages.py docs/fidelity.md PART/fidelity.json... --command TEXT
    python benchmarks/join_pages.py docs/rates.md PART/rates.json... --command TEXT

Parts are the JSON files beside the pages, one of a slide or of a slide's level; of rates also the
`.rows.json` of a run that was broken off. The sheets of fidelity lie beside them. TEXT is what the
page says it was printed by.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoomldm.evaluation.fidelity_page import write_fidelity, write_rates
from zoomldm.geometry.levels import NAMES


def join_fidelity(paths: list[Path], page: Path, command: str) -> None:
    """Slides in the order of the parts, levels from 20x on."""
    whole: dict[str, Any] = {}
    slides: dict[str, dict[str, Any]] = {}
    sheets = {}
    for path in paths:
        figures = json.loads(path.read_text())
        if whole and figures["digest"] != whole["digest"]:
            raise SystemExit(f"{path}: of pipeline {figures['digest'][:16]}, not of the first's")
        whole = whole or figures
        for slide in figures["slides"]:
            own = slides.setdefault(slide["slide"], {**slide, "levels": []})
            own["levels"] += slide["levels"]
            for level in slide["levels"]:
                name = f"{Path(slide['slide']).stem}-{level['level']}"
                with Image.open(path.with_name(f"{path.stem}-{name}.jpg")) as sheet:
                    sheets[name] = np.asarray(sheet)
    for slide in slides.values():
        slide["levels"].sort(key=lambda level: NAMES.index(level["level"]))
    write_fidelity({**whole, "slides": list(slides.values())}, sheets, page, command)


def join_rates(paths: list[Path], page: Path, command: str) -> None:
    """Rows in the order of the parts."""
    rows, between = [], []
    for path in paths:
        figures = json.loads(path.read_text())
        rows += figures["rows"] if "rows" in figures else list(figures.values())
        between += figures.get("between", ()) if "rows" in figures else ()
    seen = {(r["slide"], r["pictures"]): r for r in between}
    write_rates(rows, list(seen.values()), page, command)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("--command", required=True)
    given = parser.parse_args()
    fidelity = "slides" in json.loads(given.parts[0].read_text())
    join = join_fidelity if fidelity else join_rates
    join(given.parts, given.page, given.command)


if __name__ == "__main__":
    main()
