"""CSV tables as spreadsheets and pandas write them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoomldm.errors import ConfigError

_MISSING = frozenset(
    ("", "-nan", "<na>", "#n/a", "#n/a n/a", "#na", "na", "n/a", "nan", "nat", "none", "null")
)


def is_missing(value: str) -> bool:
    """Whether a cell holds no value: empty, or nan, NA, N/A, None, null, #N/A."""
    return value.strip().lower() in _MISSING


@dataclass(frozen=True)
class Row:
    """A row that isn't empty.

    Attributes:
        line: line of the file on which it begins, from 1.
        cells: by column, stripped of surrounding blanks; empty where the row is too short.
    """

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Rows:
    """The contents of a table.

    Attributes:
        columns: names as in the header, stripped of surrounding blanks.
        rows: in order; rows without any text are left out.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_rows(path: Path, needed: Sequence[str] = (), optional: Sequence[str] = ()) -> Rows:
    """Read a comma-separated UTF-8 CSV whose first row is the header.

    Args:
        path: the file.
        needed: columns that must occur exactly once.
        optional: columns that may occur at most once.

    Raises:
        ConfigError: another encoding or separator, a needed column is missing, or a needed or
            optional one occurs twice.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    found: list[tuple[int, list[str]]] = []
    begin = 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                found.append((begin, cells))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path}: line {begin} can't be read as CSV ({error})") from error
    if not found:
        raise ConfigError(f"{path}: is empty; expected a CSV with a header")
    header = found[0][1]
    for column in needed:
        if column not in header:
            raise ConfigError(
                f"{path}: no column {column!r}; it has {', '.join(header)}{_hint(header, needed)}"
            )
    for column in (*needed, *optional):
        if header.count(column) > 1:
            raise ConfigError(
                f"{path}: column {column!r} is there {header.count(column)} times; "
                "rename those that aren't meant"
            )
    return Rows(
        tuple(header),
        tuple(
            Row(line, dict.fromkeys(header, "") | dict(zip(header, cells, strict=False)))
            for line, cells in found[1:]
        ),
    )


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read as a CSV ({error.strerror})") from error
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:1000]
    try:
        if not utf16:
            return data.decode("utf-8-sig")
        encoding = "UTF-16"
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        encoding = f"another encoding than UTF-8 (line {line}; Latin-1 or Windows-1252?)"
    raise ConfigError(f"{path}: is in {encoding}; save it as 'CSV UTF-8'")


def _hint(header: list[str], needed: Sequence[str]) -> str:
    """Likely reason why a column is missing."""
    first = header[0].lower()
    if first.startswith("sep="):
        return "; the first line belongs to Excel: delete it, and separate columns by commas"
    if len(header) == 1:
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if separator in first:
                return f"; columns are separated by {name}: save it with commas"
    lower = {column.lower(): column for column in header}
    near = [lower[c.lower()] for c in needed if c not in header and c.lower() in lower]
    return f"; did you mean {near[0]!r}?" if near else ""
