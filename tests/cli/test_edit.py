"""`zoomldm edit` from the command line."""

import json
from pathlib import Path

import pytest


def test_a_transplant(run, archive, tmp_path: Path) -> None:
    out = tmp_path / "b.zldm"
    where = ("--replace", "0,0,256,256", "--with", f"{archive}@512,256")
    done = run("edit", archive, "-o", out, *where, "--json")
    report = json.loads(done.out)
    assert report["edit"]["kind"] == "transplant" and report["base_level"] == "5x"
    metadata = json.loads(run("info", out, "--json").out)
    assert metadata["edits"] == [report["edit"]] and run("verify", out).code == 0
    assert "base layer kept: 5x avif" in run("edit", archive, "-o", tmp_path, *where).out


def test_a_strip(run, archive, tmp_path: Path) -> None:
    done = run(
        "edit", archive, "-o", tmp_path / "s.zldm", "--interpolate", "256,256,512,256,3",
        *("--side", 1),
    )  # fmt: skip
    assert "step 2: cosine" in done.out and "to the last" in done.out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "expected one thing to do"),
        (("--replace", "0,0,256,256"), "takes both"),
        (("--replace", "0,0,256", "--with", "0,0"), "X,Y,W,H"),
        (("--replace", "0,0,256,256", "--with", "0"), "expected ARCHIVE@X,Y"),
        (("--interpolate", "1,2,3"), "expected A,B,STEPS"),
        (("--replace", "0,0,256,256", "--with", "none.zldm@0,0"), "none.zldm"),
    ],
)
def test_refused(run, archive, tmp_path: Path, arguments: tuple, line: str) -> None:
    assert line in run("edit", archive, "-o", tmp_path / "b.zldm", *arguments).line
