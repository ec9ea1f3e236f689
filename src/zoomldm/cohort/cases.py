"""Which slides belong to which case, so that every case is entirely training or held-out."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoomldm.cohort.items import Item, find_items, stem
from zoomldm.cohort.rows import is_missing, read_rows
from zoomldm.errors import ConfigError

_TURN = re.compile(r"\.turn[1-7](?=\.|$)")
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Split:
    """Names of the training and held-out files, in order."""

    training: list[str]
    held_out: list[str]


def read_cases(path: Path, column: str = "case") -> dict[str, str]:
    """Read the case of each slide from a CSV with the columns `file` and `case`.

    Args:
        path: the CSV.
        column: column to read instead of `case`.

    Returns:
        Case by file name.

    Raises:
        ConfigError: not such a table, or a file listed under two cases.
    """
    cases: dict[str, str] = {}
    for row in read_rows(path, ["file", column]).rows:
        name, case = row.cells["file"], row.cells[column]
        if not name or is_missing(case):
            raise ConfigError(
                f"{path}: line {row.line} has file {name!r} and {column} {case!r}; expected both"
            )
        if cases.setdefault(name, case) != case:
            raise ConfigError(f"{path}: {name} is of {column} {cases[name]} and of {column} {case}")
    return cases


def labels_of_files(path: Path, column: str, names: Iterable[str]) -> list[str]:
    """Label of each of `names` (slides or their archives), in order.

    Raises:
        ConfigError: not a CSV with the columns `file` and `column`, or files are not listed in it.
    """
    return list(_cases_of(names, read_cases(path, column), path, column).values())


class Lookup:
    """Finds the case of a slide or archive, whatever file endings its name and the table use.

    Matches the full name first, then the name without its ending; the `.turnN` suffix of an
    oriented slide is ignored. A stem shared by slides of several cases matches nothing.

    Args:
        cases: case by file name.
    """

    def __init__(self, cases: Mapping[str, str]) -> None:
        self._cases = cases
        self._stems: dict[str, set[str]] = {}
        for name, case in cases.items():
            self._stems.setdefault(Path(name).stem, set()).add(case)

    def __call__(self, name: str) -> str | None:
        """The case, or None if the table has no such slide or several cases match."""
        if name in self._cases:
            return self._cases[name]
        name = _TURN.sub("", name)
        if name in self._cases:
            return self._cases[name]
        stem = name.removesuffix(".zldm")
        named = {self._cases[n] for n in (stem, Path(stem).stem) if n in self._cases}
        found = named | self._stems.get(stem, set()) or self._stems.get(Path(name).stem, set())
        return next(iter(found)) if len(found) == 1 else None


def split_cases(
    names: Iterable[str],
    holdout: Sequence[str],
    table: Path | None,
    cases: Mapping[str, str] | None = None,
) -> Split:
    """Split files into training and held-out ones, keeping cases whole.

    Args:
        names: names of slides (or their archives).
        holdout: cases to hold out.
        table: CSV of cases; may be None if nothing is held out.
        cases: contents of `table`, if already read.

    Raises:
        ConfigError: no table; a name that is not a case, even if it is a slide of one; files that
            the table does not list; nothing left to train on.
    """
    names = list(names)
    if table is None:
        if holdout:
            raise ConfigError(
                "--holdout needs --cases CSV (columns file, case) to keep cases whole"
            )
        return Split(names, [])
    cases = read_cases(table) if cases is None else cases
    for case in holdout:
        _check_case(case, cases, table)
    found = _cases_of(names, cases, table)
    held = [name for name in names if found[name] in holdout]
    training = [name for name in names if found[name] not in holdout]
    if not training:
        raise ConfigError(f"--holdout {','.join(holdout)}: leaves nothing to train on")
    return Split(training, held)


def read_cohort(table: Path, endings: frozenset[str], what: str) -> list[Item]:
    """Read the rows of a cohort table (`slide,case,label,split`) that a run may use.

    If the table has splits, only rows of train and val are returned; `validation` means val, and
    test rows are left out.

    Args:
        table: CSV or Parquet.
        endings: file endings that its slides must have, lower case.
        what: what the files are, for error messages: `slides`, `archives`.

    Raises:
        ConfigError: not such a table, a slide that contradicts itself or is of another kind; an
            unknown or missing split, a case (or, for rows without one, a slide) in two splits, no
            row of train.
    """
    # Archives of the same slide in several orientations are told apart when they are opened.
    items = find_items([table], endings, what, key=str).items
    for item in items:
        if item.problem:
            raise ConfigError(item.problem)
        if Path(item.source).suffix.lower() not in endings:
            raise ConfigError(
                f"{table}: names {item.source}; expected {what}, ending in "
                f"{', '.join(sorted(endings))}"
            )
    if not any(item.split for item in items):
        return items
    seen: dict[tuple[str, str], Item] = {}
    for item in items:
        split = _known_split(item, table)
        key = ("case", item.case) if item.case else ("slide", _TURN.sub("", stem(item.source)))
        before = seen.setdefault(key, item)
        if _known_split(before, table) != split:
            raise ConfigError(
                f"{table}: {key[0]} {key[1]} is in two splits, {before.split} ({before.source}) "
                f"and {item.split} ({item.source}); it belongs to one"
            )
    items = [replace(item, split=_known_split(item, table)) for item in items]
    if not any(item.split == "train" for item in items):
        raise ConfigError(f"{table}: no row of split train; nothing is left to train on")
    return [item for item in items if item.split != "test"]


def _known_split(item: Item, table: Path) -> str:
    if item.split is None:
        raise ConfigError(
            f"{table}: {item.source} has no split, and others have; expected train, val or test"
        )
    if item.split not in _SPLITS:
        near = difflib.get_close_matches(item.split.lower(), _SPLITS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"{table}: {item.source} is of split {item.split!r}; expected train, val (or "
            f"validation) or test{hint}"
        )
    return _SPLITS[item.split]


def group_cases(names: Iterable[str], table: Path | None) -> dict[str, list[str]]:
    """Files by case, in order; all under one unnamed case if there is no table.

    Raises:
        ConfigError: files that the table does not list.
    """
    if table is None:
        return {"another case": list(names)}
    grouped: dict[str, list[str]] = {}
    for name, case in _cases_of(names, read_cases(table), table).items():
        grouped.setdefault(case, []).append(name)
    return grouped


def _cases_of(
    names: Iterable[str], cases: Mapping[str, str], table: Path, column: str = "case"
) -> dict[str, str]:
    find = Lookup(cases)
    found = {name: find(name) for name in names}
    unknown = [name for name, case in found.items() if case is None]
    if unknown:
        listed = ", ".join(unknown)
        raise ConfigError(f"{table}: does not list {listed}; add file and {column} of each")
    return {name: case for name, case in found.items() if case is not None}


def _check_case(case: str, cases: Mapping[str, str], table: Path) -> None:
    known = sorted(set(cases.values()))
    if case in known:
        return
    owner = Lookup(cases)(case)
    if owner is not None:
        count = sum(c == owner for c in cases.values())
        raise ConfigError(
            f"--holdout {case}: is a slide of case {owner} ({count} in {table}); a case is never "
            f"split: give --holdout {owner}"
        )
    near = difflib.get_close_matches(case, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"cases are {', '.join(known[:20])}"
    raise ConfigError(f"--holdout {case}: {table} has no such case; {hint}")
