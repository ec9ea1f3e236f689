"""CSV files as spreadsheets write them."""

from pathlib import Path

import pytest

from zoomldm.cohort.labels import Label, plain_id, read_labels
from zoomldm.cohort.rows import read_rows
from zoomldm.errors import ConfigError


def labels(tmp_path: Path, text: str | bytes) -> tuple[dict[str, Label], list[str]]:
    path = tmp_path / "l.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(path)


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "N/A", "None", "#N/A", "null", "<NA>", ""])
def test_no_label_is_no_class(tmp_path: Path, word: str) -> None:
    found, left_out = labels(tmp_path, f"slide_id,label\na,0\nb,{word}\nc,1\n")
    assert {slide: row.label for slide, row in found.items()} == {"a": "0", "c": "1"}
    assert left_out == [f"b: no label ({word!r} in line 3 of l.csv)"]


@pytest.mark.parametrize("word", ["nan", "NA", ""])
def test_no_patient_is_no_patient(tmp_path: Path, word: str) -> None:
    found, _ = labels(tmp_path, f"slide_id,case_id,label\na,p,0\nb,{word},1\n")
    assert (found["a"].patient, found["b"].patient) == ("p", None)


def test_empty_rows_and_the_numbers_of_lines(tmp_path: Path) -> None:
    """Excel leaves rows of commas at the end; blank lines count as lines."""
    text = 'slide_id,label\n\na,0\n,\n"b",1\n\n  ,\nc\n"d\n",2\n,3\na,0\n,,\n,,\n'
    found, left_out = labels(tmp_path, text)
    assert list(found) == ["a", "b", "d"]
    assert left_out == [
        "c: no label ('' in line 8 of l.csv)",
        "line 11 of l.csv: no slide id",
        "a: repeated in line 12 of l.csv",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("slide_id,label\na,0\nb,entzündet\n".encode("latin-1"), r"line 3; Latin-1 or Windows"),
        ("slide_id,label\na,0\n".encode("utf-16"), r"is in UTF-16; save it as 'CSV UTF-8'"),
        ("slide_id,label\na,0\n".encode("utf-16-le"), r"is in UTF-16"),
        ("slide_id;label\na;0\n", r"no column 'slide_id'; it has slide_id;label; .*semicolons"),
        ("slide_id\tlabel\na\t0\n", r"separated by tabs: save it with commas"),
        ("sep=;\nslide_id;label\na;0\n", r"the first line belongs to Excel"),
        ("Slide_ID,label\na,0\n", r"did you mean 'Slide_ID'\?"),
        ("slide_id,label,label\na,0,1\n", r"column 'label' is there 2 times"),
        ("slide_id,label,case_id,case_id\na,0,1,2\n", r"column 'case_id' is there 2 times"),
        ("", r"is empty; expected a CSV with a header"),
        ("\n ,\n", r"is empty"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, data: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        labels(tmp_path, data)
    assert "\n" not in str(refused.value)


def test_what_is_allowed(tmp_path: Path) -> None:
    """A mark of the byte order, CR alone, blanks, cells too many, columns without a name."""
    data = b'\xef\xbb\xbf,slide_id, label ,\r0, a.svs ,"x, y",1,2,3\r'
    (tmp_path / "l.csv").write_bytes(data)
    rows = read_rows(tmp_path / "l.csv", ["slide_id", "label"]).rows
    assert [(r.line, r.cells["slide_id"], r.cells["label"]) for r in rows] == [(2, "a.svs", "x, y")]
    assert read_labels(tmp_path / "l.csv")[0] == {"a": Label("x, y", None)}


def test_ids_lose_every_ending() -> None:
    assert plain_id("slide.svs.h5") == plain_id("x/slide.SVS") == plain_id("slide") == "slide"
    assert plain_id("a.ome.tif.zldm") == "a"
    assert plain_id("1007.0") == plain_id("1007.svs") == "1007"
    assert plain_id("0007.h5") == "0007"
    assert plain_id("v1.0") == "v1.0"
    assert plain_id("TCGA-A.B5B.svs") == "TCGA-A.B5B"
    assert plain_id(".svs") == ".svs"
