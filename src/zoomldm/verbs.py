"""What all verbs have in common: progress while they run, a report when they are done.

A verb is `verb(input, output, options=None, *, pipeline=..., progress=None) -> XReport`: `options`
is a frozen `XOptions`, and `--json` prints `report.as_dict()`.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel


class Progress(Protocol):
    """A function that is called as work proceeds."""

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Report progress.

        Args:
            what: the current work in a few words; several kinds may be in progress at once.
            done: items of it done.
            total: total number of its items, as far as known.
        """


def silent(what: str, done: int, total: int, /) -> None:
    """The default `Progress`, which does nothing."""


@dataclass(frozen=True)
class Report:
    """What a verb did; each verb has its own subclass with its fields."""

    def as_dict(self) -> dict[str, object]:
        """The fields as plain JSON values, as `--json` prints them.

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
    """Convert a value for JSON: dataclasses, mappings to dicts, sequences to lists, paths to text.

    Raises:
        TypeError: a value that JSON can't represent.
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
