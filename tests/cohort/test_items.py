"""What a command may name: files, folders, globs, tables."""

from pathlib import Path

import pytest

from zoomldm.cohort.items import ARCHIVES, SLIDES, Cohort, find_items, refuse_all
from zoomldm.errors import ConfigError, ZoomLDMError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.svs", "b.tif", "c.zldm", ".hidden.svs", "notes.txt", "sub/d.svs"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def keys(cohort: Cohort) -> list[str]:
    return [item.key for item in cohort.items]


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(folder: Path, text: str, **options) -> dict[str, str | None]:
    cohort = find_items([table(folder, text)], SLIDES, "slides", **options)
    return {item.key: item.problem for item in cohort.items}


def test_folders_globs_and_files(folder: Path) -> None:
    assert keys(find_items([folder], SLIDES, "slides")) == ["a", "b"]
    assert keys(find_items([folder], ARCHIVES, "archives")) == ["c"]
    assert keys(find_items([f"{folder}/*.svs"], SLIDES, "slides")) == ["a"]
    assert keys(find_items([f"{folder}/**/*"], SLIDES, "slides")) == ["a", "b", "d"]
    named = find_items([folder / "a.svs", folder / "none.svs"], SLIDES, "slides")
    assert keys(named) == ["a", "none"] and named.named
    assert not find_items([folder], SLIDES, "slides").named
    assert keys(find_items([folder, folder / "a.svs"], SLIDES, "slides")) == ["a", "b"]


def test_a_table_of_the_whole_project(folder: Path) -> None:
    text = "slide,case,label,split\na.svs,p1,0,train\nsub/d.svs,p2,1,test\n/x/e.svs,,,\n"
    a, d, e = find_items([table(folder, text)], SLIDES, "slides").items
    assert (a.source, a.case, a.label, a.split) == (str(folder / "a.svs"), "p1", "0", "train")
    assert d.source == str(folder / "sub/d.svs")
    assert (e.source, e.case, e.label, e.split) == ("/x/e.svs", None, None, None)
    assert keys(find_items([folder / "t.csv"], SLIDES, "slides", split="test")) == ["d"]
    with pytest.raises(ConfigError, match="no row of split 'val'; it has test, train"):
        find_items([folder / "t.csv"], SLIDES, "slides", split="val")


def test_parquet(folder: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = arrow.table({"slide": ["a.svs", "b.tif"], "case": ["p", None], "label": [0, 1]})
    parquet.write_table(rows, folder / "t.parquet")
    a, b = find_items([folder / "t.parquet"], SLIDES, "slides").items
    assert (a.case, a.label, b.case, b.label) == ("p", "0", None, "1")
    (folder / "bad.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match=r"bad\.parquet: can't be read as Parquet"):
        find_items([folder / "bad.parquet"], SLIDES, "slides")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Slide,case\na.svs,p\n", "no column 'slide'; it has Slide, case: did you mean 'Slide'"),
        ("slides,case\na.svs,p\n", "did you mean 'slides'"),
        ("slide_id,case\na.svs,p\n", "did you mean 'slide_id'"),
        ("file,x\na.svs,p\n", "no column 'slide'; it has file, x: add it"),
        ("slide,Case\na.svs,p\n", "column 'Case'; did you mean 'case'"),
        ("slide\n", "has a header and no rows"),
        ("", "is empty"),
    ],
)
def test_tables_that_are_none(folder: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        problems(folder, text)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_slide_twice(folder: Path) -> None:
    same = problems(folder, "slide,case\na.svs,p\na.svs,p\nb.tif,q\n")
    assert same == {"a": None, "b": None}
    other = problems(folder, "slide,case\na.svs,p\na.svs,q\nb.tif,q\n")
    assert other["b"] is None
    assert "is in the table twice, as case p and as case q" in str(other["a"])


def test_two_slides_of_one_name(folder: Path) -> None:
    (folder / "sub" / "a.svs").touch()
    cohort = find_items([f"{folder}/**/*"], SLIDES, "slides")
    found = {item.source: item.problem for item in cohort.items}
    assert "has the same name as" in str(found[str(folder / "a.svs")])
    assert "has the same name as" in str(found[str(folder / "sub" / "a.svs")])
    assert found[str(folder / "b.tif")] is None
    with pytest.raises(ZoomLDMError, match="same name"):
        refuse_all(find_items([folder / "a.svs", folder / "sub/a.svs"], SLIDES, "slides"))
    refuse_all(cohort)


def test_a_case_in_two_splits(folder: Path) -> None:
    text = "slide,case,split\na.svs,p,train\nb.tif,p,test\nsub/d.svs,q,test\n"
    found = problems(folder, text)
    assert "case p is in two splits, train (a.svs) and test (b.tif)" in str(found["a"])
    assert found["b"] and found["d"] is None
    assert problems(folder, text, split="test")["b"]  # also where only one split is taken


def test_rows_without_a_slide(folder: Path) -> None:
    found = problems(folder, "slide,case\na.svs,p\n,q\n")
    assert "line 3 names no slide" in str(found["line 3"]) and found["a"] is None


def test_nothing_found(folder: Path) -> None:
    for argument in (f"{folder}/*.ndpi", folder / "sub"):
        with pytest.raises(ConfigError, match="archives; expected files ending in"):
            find_items([argument], ARCHIVES, "archives")
