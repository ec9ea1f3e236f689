"""`zoomldm sample` and `zoomldm evaluate copies` from the command line."""

import json
from pathlib import Path

import pytest
from training.archives import make_archive

from zoomldm.pipeline import build_pipeline

QUICK = ("--pipeline", "tiny", "--steps", 1, "--context-steps", 1)


def test_samples_of_a_level(run, tmp_path: Path) -> None:
    done = run("sample", "--level", "5x", "-n", 3, "-o", tmp_path / "out", *QUICK)
    assert done.code == 0 and "3 images" in done.out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("5x-0000.png", "5x-0001.png", "5x-0002.png", "contact-sheet.png", "samples.json")
    ]


def test_all_levels_like_a_place(run, archive, tmp_path: Path) -> None:
    arguments = ("-n", 1, "--like", f"{archive}@300,300", "--seed", 4, "--json")
    done = run("sample", "--level", "all", "-o", tmp_path / "out", *arguments, *QUICK)
    report = json.loads(done.out)
    assert len(report["samples"]) == 8 and report["seed"] == 4
    assert report["reference"]["archive"] == archive.name


def test_a_zoom(run, tmp_path: Path) -> None:
    quick = ("--pipeline", "tiny", "--steps", 2, "--context-steps", 1)
    done = run("sample", "--zoom", "-o", tmp_path / "out", "--json", *quick)
    report = json.loads(done.out)
    assert report["zoom"] and len(report["samples"]) == 8


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--level", "7x"), "7x"),
        (("--zoom", "--level", "5x"), "--zoom shows all levels"),
        (("-n", 0), "0 samples"),
        (("--zoom", "--steps", 1), "none is up to the start"),
        (("--seed", -1), "seed is -1"),
        (("--context-steps", 2000), "context steps is 2000"),
        (("--precision", "float8"), "float8"),
        (("--like", "none.png"), "none.png: no such image"),
        (("--slide", "--steps", 3), "leave them out with --slide"),
    ],
)
def test_refused(run, tmp_path: Path, arguments: tuple, line: str) -> None:
    assert line in run("sample", "-o", tmp_path / "o", "--pipeline", "tiny", *arguments).line


def test_copies(run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for seed, name in enumerate("abc"):
        make_archive(data / f"{name}.zldm", build_pipeline("tiny"), 8, 8, seed, levels=(0, 1))
    (tmp_path / "cases.csv").write_text("file,case\na.svs,A\nb.svs,B\nc.svs,C\n")
    command = ("evaluate", "copies", "--data", data, "-o", tmp_path, "--pipeline", "tiny")
    done = run(*command, "-n", 3, "--cases", tmp_path / "cases.csv", "--holdout", "C", "--json")
    figures = json.loads(done.out)
    assert (figures["archives"], figures["held_out"]) == (["a.zldm", "b.zldm"], ["c.zldm"])
    assert [r["level"] for r in figures["levels"]] == ["20x", "10x"]
    written = [Path(file).name for file in figures.pop("files")]
    assert written == ["copies.md", "copies.json", "copies.jpg"]
    assert figures == json.loads((tmp_path / "copies.json").read_text())
    page = (tmp_path / "copies.md").read_text()
    assert "| 10x | " in page and figures["digest"][:16] in page and "](copies.jpg)" in page
    assert (tmp_path / "copies.jpg").is_file()
    assert "--cases CSV" in run(*command, "--holdout", "C").line
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "copies --data data -o" in page
    assert "share is 2" in run(*command, "--fraction", 2).line
    assert "holds no archives" in run("evaluate", "copies", "--data", empty, "-o", tmp_path).line


def test_a_pipeline_of_an_embedding_diffusion_alone(run, tmp_path: Path) -> None:
    alone = build_pipeline("tiny")
    for name in ("unet", "vae", "summarizer", "patch_encoder"):
        alone.register_modules(**{name: None})
    alone.save_pretrained(tmp_path / "alone")
    command = ("sample", "-o", tmp_path / "o", "--pipeline", tmp_path / "alone")
    assert "pipeline has no summarizer" in run(*command).line


def test_devices(run, tmp_path: Path) -> None:
    done = run("sample", "--level", "20x", "-n", 1, "-o", tmp_path / "o", "--device", "cpu", *QUICK)
    assert done.code == 0
    assert (
        "device 'abc' can't be used"
        in run("sample", "-o", tmp_path / "o", "--device", "abc", *QUICK).line
    )
