"""Cases are trained on whole or not at all."""

from pathlib import Path

import pytest

from zoomldm.cohort.cases import Lookup, read_cases, read_cohort, split_cases
from zoomldm.cohort.items import ARCHIVES
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
        ("slide,case\na,b\n", "no column 'file'; it has slide, case"),
        ("file;case\na;b\n", "separated by semicolons"),
        ("", "is empty"),
        ("file,case\n\na.svs,\n", "line 3 has file 'a.svs' and case ''"),
        ("file,case\na.svs,nan\n", "line 2 has file 'a.svs' and case 'nan'"),
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
    find = Lookup(cases)
    assert find("scan.turn5.zldm") == find("scan.turn5.svs") == "A"
    assert find("scan.turn3.svs") == "B"  # a name that is listed counts as it is


def test_names_by_stem() -> None:
    find = Lookup({"a.svs": "A", "b": "B", "c.svs": "C", "c.tif": "D", "d.ome.tif": "E"})
    assert [find(n) for n in ("a", "a.zldm", "a.svs.zldm", "b.svs", "b.svs.zldm")] == [*"AAABB"]
    assert find("d.ome.zldm") == "E"
    assert find("c") is None  # of two cases
    assert find("x.svs") is None


def test_a_thousand_names_take_no_million_steps(tmp_path: Path, monkeypatch) -> None:
    """Every row's name was taken apart for every archive."""
    count = 300
    path = tmp_path / "cases.csv"
    path.write_text("file,case\n" + "".join(f"s{i}.svs,c{i}\n" for i in range(count)))
    taken, stem = [], Path.stem.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Path, "stem", property(lambda p: taken.append(p) or stem(p)))
    split = split_cases([f"s{i}.zldm" for i in range(count)], [], path)
    assert len(split.training) == count
    assert len(taken) < 10 * count


ROWS = """slide,case,split
a1.zldm,A,train
a2.zldm,A,train
b.zldm,B,val
c.zldm,C,validation
d.zldm,D,test
"""


def test_cohort_of_splits(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_text(ROWS)
    rows = read_cohort(path, ARCHIVES, "archives")
    assert [Path(r.source).name for r in rows] == ["a1.zldm", "a2.zldm", "b.zldm", "c.zldm"]
    assert [r.split for r in rows] == ["train", "train", "val", "val"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROWS + "x.zldm,A,val\n", "case A is in two splits, train .* and val"),
        (ROWS + "b.turn2.zldm,,train\nb.turn1.zldm,,val\n", r"slide b is in two splits, train"),
        (ROWS + "x.zldm,X,trian\n", r"x\.zldm is of split 'trian'; .*did you mean train\?"),
        (ROWS + "x.zldm,X,\n", r"x\.zldm has no split, and others have"),
        (ROWS + "x.svs,X,train\n", r"names .*x\.svs; expected archives, ending in \.zldm"),
        (ROWS + "a1.zldm,X,train\n", r"a1\.zldm: is in the table twice"),
        (ROWS.replace(",train", ",test"), "no row of split train"),
        ("file,case\na.svs,A\n", "no column 'slide'"),
    ],
)
def test_cohort_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cohort.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_cohort(path, ARCHIVES, "archives")
