"""Resolves command arguments (files, folders, globs, tables) to the slides of a cohort."""

import difflib
import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoomldm.cohort.rows import Rows, is_missing, read_rows
from zoomldm.errors import ConfigError, ZoomLDMError
from zoomldm.remote import as_path, is_url, listed

SLIDES = frozenset(
    [
        *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide"),
        *(".bif", ".czi", ".dcm"),
    ]
)
ARCHIVES = frozenset([".zldm"])
FEATURES = frozenset([".h5", ".hdf5"])
TABLES = frozenset([".csv", ".parquet"])
COLUMNS = ("slide", "case", "label", "split")


@dataclass(frozen=True)
class Item:
    """One slide (or archive, or feature file) of a cohort.

    Attributes:
        source: path or URL.
        key: name of its state and its output; unique within a cohort.
        case: patient, if a table gives it.
        label: class, if a table gives it.
        split: such as `train` or `test`, if a table gives it.
        problem: why it isn't processed, in one line.
        mate: another file that is read with it, such as the archive of a slide.
    """

    source: str
    key: str
    case: str | None = None
    label: str | None = None
    split: str | None = None
    problem: str | None = None
    mate: str | None = None


@dataclass(frozen=True)
class Cohort:
    """The slides that a command names.

    Attributes:
        items: in order, each once.
        named: whether each was named individually, not by a folder, glob or table.
    """

    items: list[Item]
    named: bool


def stem(source: str) -> str:
    """The file name of a path or URL, without its ending."""
    return as_path(source).stem


def find_items(
    arguments: Sequence[str | Path],
    endings: frozenset[str],
    what: str,
    key: Callable[[str], str] = stem,
    split: str | None = None,
) -> Cohort:
    """Find the slides that files, folders, globs and tables name.

    Args:
        arguments: files; folders, whose files with `endings` are taken; globs, with `**` for
            nested folders; tables (CSV or Parquet) with the column `slide` and optionally `case`,
            `label` and `split`, whose paths are relative to the table's folder; URLs of files, and
            of folders, which end in `/`.
        endings: endings that files in folders must have, lower case.
        what: what the files are, for error messages: `slides`, `archives`.
        key: maps a source to the name of its output.
        split: take only the table's rows of this split.

    Returns:
        The cohort. A slide has a `problem` if its rows contradict each other, if it shares its key
        with another, or if its case is in two splits.

    Raises:
        ConfigError: nothing found, or a table that can't be read.
    """
    items: list[Item] = []
    named = True
    for argument in map(str, arguments):
        path = Path(argument)
        if is_url(argument) and argument.endswith("/"):
            named = False
            found = listed(argument, endings)
            if not found:
                raise ConfigError(f"{argument}: holds no {what}; expected {_listed(endings)}")
            items += [Item(u, key(u)) for u in found]
        elif is_url(argument):
            items.append(Item(argument, key(argument)))
        elif path.suffix.lower() in TABLES and not path.is_dir():
            named = False
            items += read_table(path, key, split)
        elif path.is_dir() and path.suffix.lower() not in endings:
            named = False
            items += [Item(str(p), key(str(p))) for p in _in_folder(path, endings, what)]
        elif not path.exists() and glob.has_magic(argument):
            named = False
            found = sorted(
                p
                for p in glob.glob(argument, recursive=True)  # noqa: PTH207 (takes absolute ones)
                if Path(p).suffix.lower() in endings
            )
            if not found:
                raise ConfigError(
                    f"{argument}: fits no {what}; expected files ending in {_listed(endings)}"
                )
            items += [Item(p, key(p)) for p in found]
        else:
            items.append(Item(argument, key(argument)))
    if not items:
        raise ConfigError(f"no {what} given")
    return Cohort(_checked(items, what), named)


def _in_folder(folder: Path, endings: frozenset[str], what: str) -> list[Path]:
    visible = (p for p in sorted(folder.iterdir()) if not p.name.startswith("."))
    found = [p for p in visible if p.suffix.lower() in endings and p.is_file()]
    if not found:
        raise ConfigError(
            f"{folder}: is a folder that holds no {what}; expected files ending in "
            f"{_listed(endings)} (of folders within it: '{folder}/**/*')"
        )
    return found


def _listed(endings: frozenset[str]) -> str:
    return ", ".join(sorted(endings))


def read_table(
    path: Path, key: Callable[[str], str] = stem, split: str | None = None
) -> list[Item]:
    """Read the slides of a table (`slide,case,label,split`); relative paths start at its folder.

    Args:
        path: CSV or Parquet.
        key: see `find_items`.
        split: take only the rows of this split.

    Raises:
        ConfigError: not such a table; no row of the split.
    """
    table = _read(path)
    splits = {}  # of each case, over all rows, before some of them are left out
    items = []
    for row in table.rows:
        cells = {name: row.cells.get(name, "") for name in COLUMNS}
        slide = cells["slide"]
        if is_missing(slide):
            items.append(
                Item(f"{path}:{row.line}", f"line {row.line}", problem=f"{path}: line {row.line} "
                     "names no slide; fill the column slide or remove the row")
            )  # fmt: skip
            continue
        metadata = {n: None if is_missing(cells[n]) else cells[n] for n in COLUMNS[1:]}
        source = slide if is_url(slide) else str(path.parent / slide)
        items.append(Item(source, key(source), **metadata))
        if metadata["case"] and metadata["split"]:
            splits.setdefault(metadata["case"], {}).setdefault(metadata["split"], slide)
    crossed = {case: found for case, found in splits.items() if len(found) > 1}
    for at, item in enumerate(items):
        if item.case in crossed:
            (one, first), (other, second) = list(crossed[item.case].items())[:2]
            problem = (
                f"{item.source}: case {item.case} is in two splits, {one} ({first}) and {other} "
                f"({second}); a case belongs to one: correct {path.name}"
            )
            items[at] = replace(item, problem=problem)
    if split is not None:
        known = sorted({i.split for i in items if i.split})
        items = [i for i in items if i.split == split]
        if not items:
            raise ConfigError(
                f"{path}: no row of split {split!r}; it has {', '.join(known) or 'no splits'}"
            )
    if not items:
        raise ConfigError(f"{path}: has a header and no rows; expected a row for each slide")
    return items


def _read(path: Path) -> Rows:
    if path.suffix.lower() == ".parquet":
        from zoomldm.cohort.parquet import read_parquet

        table = read_parquet(path)
    else:
        table = read_rows(path)
    if "slide" not in table.columns:
        lower = {name.lower(): name for name in table.columns}
        near = difflib.get_close_matches("slide", lower, 1, 0.5)
        hint = f"did you mean {lower[near[0]]!r}? Rename it" if near else "add it"
        raise ConfigError(
            f"{path}: no column 'slide'; it has {', '.join(table.columns)}: {hint}. Expected "
            f"{','.join(COLUMNS)}, of which slide is needed"
        )
    for name in COLUMNS[1:]:  # don't silently ignore a column that only differs in case
        others = [c for c in table.columns if c.lower() == name and c != name]
        if name not in table.columns and others:
            raise ConfigError(f"{path}: column {others[0]!r}; did you mean {name!r}? Rename it")
    for name in COLUMNS:
        if table.columns.count(name) > 1:
            raise ConfigError(f"{path}: column {name!r} is there twice; rename what isn't meant")
    return table


def _checked(items: list[Item], what: str) -> list[Item]:
    """The items without repeats, each with a `problem` where it contradicts another one."""
    unique: dict[str, Item] = {}
    for item in items:
        before = unique.get(item.source)
        if before is None:
            unique[item.source] = item
        elif before.problem is None and _metadata(before) != _metadata(item):
            unique[item.source] = replace(
                before,
                problem=f"{item.source}: is in the table twice, as {_metadata(before)} and as "
                f"{_metadata(item)}; remove one of the rows",
            )
    by_key: dict[str, list[str]] = {}
    for item in unique.values():
        by_key.setdefault(item.key, []).append(item.source)
    out = []
    for item in unique.values():
        others = by_key[item.key]
        if len(others) > 1 and item.problem is None:
            other = next(o for o in others if o != item.source)
            item = replace(
                item,
                problem=f"{item.source}: has the same name as {other}, and their outputs would "
                f"too; rename one, or take these {what} apart",
            )
        out.append(item)
    return out


def _metadata(item: Item) -> str:
    metadata = [f"{n} {getattr(item, n)}" for n in COLUMNS[1:] if getattr(item, n) is not None]
    return ", ".join(metadata) or "no case"


def refuse_all(cohort: Cohort) -> None:
    """Raise if every slide has a problem.

    Raises:
        ZoomLDMError: the first problem.
    """
    if all(item.problem for item in cohort.items):
        first = str(cohort.items[0].problem)
        more = len(cohort.items) - 1
        raise ZoomLDMError(first + (f" ({more} more like it)" if more > 1 else ""))
