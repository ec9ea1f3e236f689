"""Parquet tables, read into the same rows as a CSV."""

from pathlib import Path

from zoomldm.cohort.rows import Row, Rows
from zoomldm.errors import ConfigError


def read_parquet(path: Path) -> Rows:
    """Read a Parquet file as text; a row's line is its row number, from 1.

    Raises:
        ConfigError: pyarrow is missing, or not such a file.
    """
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(
            f"{path}: Parquet needs pyarrow; run pip install 'zoomldm[parquet]', or give a CSV"
        ) from error
    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[0][:160]
        raise ConfigError(f"{path}: can't be read as Parquet ({reason})") from error
    columns = tuple(str(name) for name in table.column_names)
    rows = tuple(
        Row(line, {name: "" if row[name] is None else str(row[name]).strip() for name in columns})
        for line, row in enumerate(table.to_pylist(), 1)
    )
    return Rows(columns, rows)
