"""Pages of `evaluate fidelity` or `evaluate rates` that were measured apart, as one page.

    python benchmarks/join_pages.py docs/fidelity.md PART/fidelity.json... --command TEXT
    python benchmarks/join_pages.py docs/rates.md PART/rates.json... --command TEXT

Parts are the JSON files beside the pages, one of a slide or of a slide's level; of rates also the
`.rows.json` of a run that was broken off. The sheets of fidelity lie beside them. TEXT is what the
page says it was printed by. Sections of an earlier page that this one would not have (what is said
of the figures, figures of another kind) stay where they were: before its first section, or at its
end. Read them again: their figures are the earlier ones.
"""

import argparse
import json
import re
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


def written_by_hand(before: str, after: str) -> str:
    """A page (Markdown) with the sections (`## ...`) that only an earlier one has."""
    (_, *old), (head, *new) = (re.split(r"^(?=## )", page, flags=re.M) for page in (before, after))
    names = {part.splitlines()[0] for part in new}
    first = next((i for i, part in enumerate(old) if part.splitlines()[0] in names), len(old))
    kept = [(i < first, part) for i, part in enumerate(old) if part.splitlines()[0] not in names]
    parts = [head, *(p for leads, p in kept if leads), *new, *(p for leads, p in kept if not leads)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("--command", required=True)
    given = parser.parse_args()
    fidelity = "slides" in json.loads(given.parts[0].read_text())
    join = join_fidelity if fidelity else join_rates
    before = given.page.read_text() if given.page.is_file() else ""
    join(given.parts, given.page, given.command)
    given.page.write_text(written_by_hand(before, given.page.read_text()))


if __name__ == "__main__":
    main()
