"""`zoomldm evaluate fidelity`, `rates` and `nuclei`: what they print and what they refuse."""

import json
import shutil
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


@pytest.fixture
def folder(slide: Path, tmp_path: Path) -> Path:
    """Two slides and a file that is none."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("a.tif", "b.tif"):
        shutil.copy(slide, slides / name)
    (slides / "c.tif").write_text("no slide")
    return slides


def test_rates_of_a_folder_go_on(run, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `evaluation`")
    page, state = tmp_path / "rates.md", tmp_path / "cohort-rates"
    (folder / "b.tif").unlink()
    arguments = (
        *("evaluate", "rates", folder, "-o", page, "--setting", "avif:5x:300"),
        *("--level", "20x", "--tiles", "4", "--regions", "0", "--json"),
    )
    for _ in range(2):
        done = run(*arguments)
        assert done.code == 3 and "1 of 2 slides failed" in done.err, done.err
        printed = json.loads(done.out)
        assert [row["slide"] for row in printed["rows"]] == ["a.tif"]
        assert [f["slide"] for f in printed["failed"]] == [str(folder / "c.tif")]
        attempts = {
            n: json.loads((state / f"slides/{n}.json").read_text())["attempts"] for n in "ac"
        }
    assert attempts == {"a": 1, "c": 2}
    assert "a.tif" in page.read_text() and (state / "summary.md").is_file()


def test_fidelity_of_slides_whose_archives_lie_in_a_folder(
    run, folder: Path, archive: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `evaluation`")
    (folder / "c.tif").unlink()
    page = tmp_path / "page.md"
    arguments = (
        *("evaluate", "fidelity", folder, "--archives", archive.parent, "-o", page),
        *("--level", "20x", "--tiles", "4", "--regions", "0", "--no-alone", "--pipeline", "tiny"),
        *("--steps", "2", "--json"),
    )
    plan = json.loads(run(*arguments, "--dry-run").out)
    assert len(plan["todo"]) == 2 and sorted(p.name for p in tmp_path.iterdir()) == ["slides"]
    done = run(*arguments)
    assert done.code == 3 and "b.zldm: does not exist" in done.err, done.err
    (found,) = json.loads(done.out)["slides"]
    assert (found["slide"], found["archive"]) == ("a.tif", "a.zldm")
    assert (tmp_path / "page-a-20x.jpg").is_file() and "## a.tif" in page.read_text()
    line = run("evaluate", "fidelity", folder, archive, "-o", page).line
    assert "need --archives FOLDER" in line


def test_networks_measured_apart_are_as_measured_together(
    run, folder: Path, tmp_path: Path
) -> None:
    from zoomldm.evaluation.report import measure_networks
    from zoomldm.pipeline import load_pipeline

    (folder / "c.tif").unlink()
    done = run("evaluate", folder, "-o", tmp_path, "--pipeline", "tiny", "--tiles", "3", "--json")
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    slides = [folder / "a.tif", folder / "b.tif"]
    together, strips = measure_networks(load_pipeline("tiny", "cpu"), slides, tiles=3)
    for name in ("digest", "autoencoder", "retrieval"):
        assert printed[name] == json.loads(json.dumps(together[name])), name
    assert Image.open(tmp_path / "results.jpg").size == (strips.shape[1] // 2, strips.shape[0] // 2)


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
