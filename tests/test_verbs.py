"""What all verbs have in common: plain reports, and progress in one form."""

import json
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path

import numpy as np
import pytest

from zoomldm.verbs import Report, silent


@dataclass(frozen=True)
class Inner:
    name: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Outer(Report):
    file: Path
    parts: tuple[Inner, ...]
    counts: dict[int, np.ndarray]
    mean: np.float32
    nothing: None = None


def test_a_report_is_plain_and_frozen() -> None:
    report = Outer(Path("a/b.tif"), (Inner("x", (3, 4)),), {5: np.arange(2)}, np.float32(0.5))
    expected = {
        "file": "a/b.tif",
        "parts": [{"name": "x", "size": [3, 4]}],
        "counts": {"5": [0, 1]},
        "mean": 0.5,
        "nothing": None,
    }
    assert report.as_dict() == expected == json.loads(json.dumps(report.as_dict()))
    with pytest.raises(FrozenInstanceError):
        report.mean = np.float32(1)  # type: ignore[misc]


def test_what_json_has_no_form_for_is_refused() -> None:
    @dataclass(frozen=True)
    class Odd(Report):
        value: object

    with pytest.raises(TypeError, match="a report holds a object"):
        Odd(object()).as_dict()
    assert silent("anything", 1, 2) is None
