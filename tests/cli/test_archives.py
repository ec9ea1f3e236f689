"""Verbs that take archives, and what bad archives get."""

import json

import pytest
from archive.making import forge, make_archive

from zoomldm.pipeline import build_pipeline


def flipped(archive, path):
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)
    return path


def test_verify_tells_sound_from_damaged(run, archive, tmp_path):
    bad = flipped(archive, tmp_path / "b.zldm")
    assert run("verify", archive, archive).code == 0
    done = run("verify", archive, bad)
    assert done.code == 3 and run("verify", bad).code == 2
    assert f"{archive}: sound" in done.out and f"{bad}: DAMAGED" in done.out
    assert "member" in done.err
    report = json.loads(run("verify", archive, bad, "--json").out)
    assert not report["sound"]
    assert report["archives"][str(archive)] == [] and report["archives"][str(bad)]


def test_verify_of_what_is_no_archive(run, tmp_path, slide):
    for path in (tmp_path / "none.zldm", tmp_path, slide):
        assert run("verify", path).code == 2


VERBS = {"info": [], "decompress": ["-o", "out.png", "--level", "1.25x", "--pipeline", "tiny"]}


@pytest.fixture(params=list(VERBS))
def refused(request, run, tmp_path, monkeypatch):
    """Runs a verb on an archive in an empty folder; the one line that it prints."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(path) -> str:
        line = run(request.param, path, *VERBS[request.param]).line
        assert list(folder.iterdir()) == []
        return line

    return call


def test_missing(refused, tmp_path):
    assert "does not exist; expected a .zldm archive" in refused(tmp_path / "none.zldm")


def test_folder_empty_and_slide(refused, tmp_path, slide):
    (tmp_path / "e.zldm").touch()
    (tmp_path / "none").mkdir()
    assert "is a folder" in refused(tmp_path / "none")
    assert "is empty" in refused(tmp_path / "e.zldm")
    assert "is not a .zldm archive" in refused(slide)


def test_cut(refused, archive, tmp_path):
    path = tmp_path / "cut.zldm"
    path.write_bytes(archive.read_bytes()[:-100])
    assert "cut.zldm" in refused(path)


def test_newer_version(refused, tmp_path):
    make_archive(tmp_path / "a.zldm", latents=False)

    def newer(root):
        root["attributes"]["version"] = "9.0"

    path = forge(tmp_path / "a.zldm", tmp_path / "new.zldm", root=newer)
    line = refused(path)
    assert "9.0" in line and "update" in line


def test_encoder_that_is_not_the_pipelines(run, archive, tmp_path):
    build_pipeline("tiny", seed=3).save_pretrained(str(tmp_path / "other"))
    done = run("decompress", archive, "-o", tmp_path / "a.png", "--level", "2.5x",
               "--pipeline", tmp_path / "other")  # fmt: skip
    assert "encoder" in done.line
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--region", "900,700,500,500", "--level", "20x"], "which is 1000 x 800"),
        (["--region", "-1,0,10,10", "--level", "20x"], "not inside"),
        (["--region", "1,2,3", "--level", "20x"], "X,Y,W,H"),
        (["--level", "40x"], "levels are 20x"),
        (["--level", "20x", "--steps", "0"], "steps"),
        (["--level", "20x", "--pipeline", "/nowhere"], "/nowhere"),
    ],
)
def test_decompress_options(run, archive, tmp_path, options, expected):
    line = run("decompress", archive, "-o", tmp_path / "a.png", "--pipeline", "tiny", *options).line
    assert expected in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["none/a.png", "a.jpg", "/proc/a.png"])
def test_decompress_targets(run, archive, tmp_path, out):
    options = ["--level", "1.25x", "--pipeline", "tiny"]
    assert "a." in run("decompress", archive, "-o", tmp_path / out, *options).line
    assert list(tmp_path.iterdir()) == []
