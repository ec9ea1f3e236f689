"""Labels of slides: the class and patient of each slide."""

import re
from dataclasses import dataclass
from pathlib import Path

from zoomldm.cohort.rows import is_missing, read_rows
from zoomldm.errors import ConfigError

_ENDINGS = re.compile(
    r"\.(svs|tiff?|ome|ndpi|mrxs|scn|bif|czi|vms|vmu|svslide|isyntax|dcm|zldm|h5|hdf5|pt|npy)$",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"(\d+)\.0+")


@dataclass(frozen=True)
class Label:
    """A row of the label file."""

    label: str
    patient: str | None


def plain_id(name: str) -> str:
    """A slide's id without folders and without the file endings of slides and feature files.

    All endings are removed (`a.svs.h5`, `a.ome.tif`), and so is the `.0` that pandas appends to
    whole numbers if a column has gaps.
    """
    name = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    while (shorter := _ENDINGS.sub("", name)) and shorter != name:
        name = shorter
    number = _WHOLE.fullmatch(name)
    return number[1] if number else name


def read_labels(
    path: Path,
    label_column: str | None = None,
    slide_column: str = "slide_id",
    patient_column: str | None = None,
) -> tuple[dict[str, Label], list[str]]:
    """Read a label CSV.

    Args:
        path: CSV with a header.
        label_column: column name, by default `label`.
        slide_column: column name.
        patient_column: column name, by default `case_id` if there is such a column.

    Returns:
        Rows by plain slide id in the file's order, and a line for each row left out: repeated, or
        without a slide or a label (`cohort.rows.is_missing`).

    Raises:
        ConfigError: no such file or column, one slide under two labels or patients.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such label file; --labels takes a CSV with a header")
    label_column = label_column or "label"
    needed = [slide_column, label_column, *([patient_column] if patient_column else [])]
    table = read_rows(path, needed, optional=["case_id"])
    if patient_column is None and "case_id" in table.columns:
        patient_column = "case_id"
    found: dict[str, Label] = {}
    left_out = []
    for row in table.rows:
        slide, label = plain_id(row.cells[slide_column]), row.cells[label_column]
        if not slide:
            left_out.append(f"line {row.line} of {path.name}: no slide id")
            continue
        if is_missing(label):
            left_out.append(f"{slide}: no label ({label!r} in line {row.line} of {path.name})")
            continue
        patient = row.cells[patient_column] if patient_column else ""
        entry = Label(label, None if is_missing(patient) else patient)
        if slide not in found:
            found[slide] = entry
        elif found[slide] == entry:
            left_out.append(f"{slide}: repeated in line {row.line} of {path.name}")
        else:
            raise ConfigError(f"{path}: {slide} is there twice, with different labels or patients")
    return found, left_out
