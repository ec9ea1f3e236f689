"""What all verbs have in common: progress while they run, a report when they are done.

A verb is `verb(input, output, options=None, *, pipeline=..., progress=None) -> XReport`: `options`
is a frozen `XOptions`, and what `--json` prints is `report.as_dict()`.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel


class Progress(Protocol):
    """A function that is called as work goes on."""

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Take note of progress.

        Args:
            what: is being done, a few words; several things may be under way at once.
            done: items of it done.
            total: items of it in all, as far as is known.
        """


def silent(what: str, done: int, total: int, /) -> None:
    """The `Progress` of a caller who gave none."""


@dataclass(frozen=True)
class Report:
    """What a verb did; each verb's own says which fields it has."""

    def as_dict(self) -> dict[str, object]:
        """The fields as plain values, which JSON has: what `--json` prints.

        Examples:
            >>> from dataclasses import dataclass
            >>> @dataclass(frozen=True)
            ... class Wrote(Report):
            ...     file: Path
            ...     size: tuple[int, int]
            >>> Wrote(Path("a.tif"), (3, 4)).as_dict()
            {'file': 'a.tif', 'size': [3, 4]}
        """
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def plain(value: object) -> object:
    """A value as JSON has it: dataclasses and mappings as dicts, sequences as lists, paths as text.

    Raises:
        TypeError: a value that JSON has no form for.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Report):
        return value.as_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, AbstractSet):
        return [plain(item) for item in sorted(value)]
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a report holds a {type(value).__name__}, which JSON has no form for")
