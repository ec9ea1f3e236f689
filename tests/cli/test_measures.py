"""`zoomldm evaluate fidelity`, `rates` and `nuclei`: what they print and what they refuse."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("skimage", reason="needs the extra `evaluation`")


def test_nuclei_are_drawn_and_counted(run, slide: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "nuclei.jpg"
    outcome = run("evaluate", "nuclei", slide, "-o", sheet, "--tiles", "3", "--json")
    assert outcome.code == 0, outcome.err
    (counts,) = json.loads(outcome.out).values()
    assert len(counts) == 3 and sum(counts) > 3
    assert Image.open(sheet).size == (5 * 512, 512)


def test_a_rate_is_measured_and_kept(run, slide: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `evaluation`")
    page = tmp_path / "rates.md"
    arguments = (
        *("evaluate", "rates", slide, "-o", page, "--setting", "avif:5x:300"),
        *("--level", "20x", "--tiles", "4", "--regions", "0"),
    )
    assert run(*arguments).code == 0
    assert "avif 5x, 300 bytes" in page.read_text()
    again = run(*arguments)
    assert again.code == 0 and "avif" not in again.err  # nothing was measured again


def test_what_is_refused_is_one_line(run, slide: Path, archive: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    fidelity = ("evaluate", "fidelity")
    assert "pairs" in run(*fidelity, slide, "-o", page).line
    assert "ending in .md" in run(*fidelity, slide, archive, "-o", tmp_path / "page.html").line
    assert "does not exist" in run(*fidelity, slide, archive, "-o", tmp_path / "no/page.md").line
    assert (
        "'png' is not one of 'avif'"
        in run(*fidelity, slide, archive, "-o", page, "--codec", "png").line
    )
    assert "CODEC:LEVEL:BYTES" in run("evaluate", "rates", slide, "-o", page, "--setting", "x").line
    assert "ends in .jpg" in run("evaluate", "nuclei", slide, "-o", tmp_path / "n.tif").line
    assert not page.exists()


def test_without_the_extra_it_says_what_to_install(
    run, slide: Path, archive: Path, tmp_path: Path, monkeypatch
) -> None:
    from zoomldm.evaluation.public_features import _network

    _network.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    line = run("evaluate", "fidelity", slide, archive, "-o", tmp_path / "page.md").line
    assert "pip install 'zoomldm[evaluation]'" in line
