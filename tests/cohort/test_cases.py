"""Cases are trained on whole or not at all."""

from pathlib import Path

import pytest

from zoomldm.cohort.cases import case_of, read_cases, split_cases
from zoomldm.errors import ConfigError

TABLE = "file,case,organ\na1.svs,A,colon\na2.svs,A,colon\nb.ome.tif,B,lung\nc.svs,C,skin\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "cases.csv"
    path.write_text(TABLE)
    return path


def test_split(table: Path) -> None:
    split = split_cases(["a1.svs", "a2.svs", "b.ome.tif", "c.svs"], ["A", "B"], table)
    assert split.training == ["c.svs"]
    assert split.held_out == ["a1.svs", "a2.svs", "b.ome.tif"]


def test_names_without_ending_and_of_archives(table: Path) -> None:
    split = split_cases(["a1", "a2.zldm", "b.ome.zldm", "c"], ["A"], table)
    assert split.held_out == ["a1", "a2.zldm"]


def test_without_holdout(table: Path) -> None:
    assert split_cases(["x"], [], None).training == ["x"]
    assert split_cases(["c.svs"], [], table).training == ["c.svs"]


@pytest.mark.parametrize(
    ("names", "holdout", "message"),
    [
        (["a1.svs"], ["a2.svs"], r"a2\.svs: is a slide of case A \(2 in .*never split.*A$"),
        (["a1.svs"], ["a2"], r"a2: is a slide of case A"),
        (["a1.svs"], ["D"], r"no such case; .*A, B, C"),
        (["a1.svs", "c.svs"], ["a"], r"no such case"),
        (["a1.svs", "new.svs", "x.svs"], ["B"], r"does not list new\.svs, x\.svs"),
        (["a1.svs"], ["A"], r"leaves nothing to train on"),
    ],
)
def test_refused(table: Path, names: list[str], holdout: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_cases(names, holdout, table)


def test_holdout_needs_table() -> None:
    with pytest.raises(ConfigError, match="--holdout needs --cases CSV"):
        split_cases(["a1.svs"], ["A"], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,case\na,b\n", "no column file"),
        ("", "no column case or file"),
        ("file,case\na.svs,\n", "line 2 has an empty"),
        ("file,case\na.svs,A\na.svs,B\n", r"a\.svs is of case A and of case B"),
    ],
)
def test_bad_table(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_cases(path)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.csv: can't be read"):
        read_cases(tmp_path / "no.csv")


def test_turned_slides_are_of_their_slides_case() -> None:
    cases = {"scan.svs": "A", "scan.turn3.svs": "B"}
    assert case_of("scan.turn5.zldm", cases) == case_of("scan.turn5.svs", cases) == "A"
    assert case_of("scan.turn3.svs", cases) == "B"  # a name that is listed counts as it is
