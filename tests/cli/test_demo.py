"""README's first command."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cli.conftest import Run
from zoomldm.archive import verify_archive


def test_demo_makes_no_parents(run: Run, tmp_path: Path) -> None:
    assert "made" in run("demo", "--out", tmp_path / "none" / "made").line


def test_demo_from_end_to_end(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped archive and pipeline, at two levels and on a small region."""
    monkeypatch.setattr("zoomldm.cli.demonstration.LEVELS", (2, 4))
    monkeypatch.setattr("zoomldm.cli.demonstration.SIDE", 256)
    done = run("demo", "--out", tmp_path / "demo", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["ratio"] > 20 and len(report["parts"]) == 3
    assert not verify_archive(report["again"])
    with Image.open(report["compare"]) as sheet:
        assert sheet.width > 2 * 256 and sheet.height > 4 * 256
    with Image.open(report["region"]) as region:
        assert region.size == (256, 256)
    assert [part["bytes"] for part in report["parts"]] == [
        Path(report[name]).stat().st_size for name in ("compare", "region", "again")
    ]
