"""Samples on the disk: names, provenance, contact sheets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoomldm.errors import ConfigError, TargetError
from zoomldm.generation.sheets import draw_sheet
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.sampling.exports import SheetOptions, write_samples
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.reference import Reference
from zoomldm.sampling.sampler import Sampler

QUICK = SampleOptions(steps=1, context_steps=1, seed=3)


def test_samples(tmp_path: Path, pipeline: ZoomLDMPipeline) -> None:
    out, seen = tmp_path / "out", []
    reference = Reference(np.ones(32, np.float32), {"picture": "x.png"})
    options = SheetOptions(("0.625x", "20x"), 18, like=reference, samples=QUICK)
    found = write_samples(out, options, pipeline=pipeline, progress=lambda *a: seen.append(a))
    report = found.as_dict()
    assert json.loads((out / "samples.json").read_text()) == report
    assert len(report["samples"]) == 36 and report["samples"][0]["file"] == "0.625x-0000.png"
    assert report["seed"] == report["options"]["seed"] == 3
    assert report["reference"] == {"picture": "x.png"}
    assert report["pipeline_digest"] == pipeline.digest()
    assert seen[0] == ("images", 0, 36) and seen[-1] == ("images", 36, 36)
    expected = Sampler(pipeline, QUICK).sample(0, 1, 17, reference.embedding)[0]
    with Image.open(out / "20x-0017.png") as picture:
        assert np.array_equal(np.asarray(picture), expected)
        provenance = json.loads(picture.text["zoomldm"])
    assert (provenance["level"], provenance["index"], provenance["mpp"]) == ("20x", 17, 0.5)
    assert provenance["reference"] == report["reference"]
    with Image.open(out / "contact-sheet.png") as sheet:
        assert sheet.width > 18 * 128 and sheet.height > 2 * 128


def test_zooms(tmp_path: Path, pipeline: ZoomLDMPipeline) -> None:
    quick = SampleOptions(steps=2, context_steps=1)
    one = SheetOptions(zoom=True, samples=quick)
    report = write_samples(tmp_path / "one", one, pipeline=pipeline).as_dict()
    assert [r["level"] for r in report["samples"]] == list(reversed(NAMES))
    assert all(("quarter" in r) == (r["level"] != NAMES[-1]) for r in report["samples"])
    assert (tmp_path / "one" / "zoom-0000-20x.png").is_file()
    two = SheetOptions(n=2, zoom=True, samples=quick)
    report = write_samples(tmp_path / "two", two, pipeline=pipeline).as_dict()
    assert len(report["samples"]) == 2 * COUNT
    same = [(tmp_path / f / "zoom-0000-2.5x.png").read_bytes() for f in ("one", "two")]
    assert same[0] == same[1]


@pytest.mark.parametrize(("batch", "n", "calls"), [(32, 40, 2), (12, 24, 2), (5, 16, 4)])
def test_no_batch_is_made_twice(
    tmp_path: Path, pipeline: ZoomLDMPipeline, monkeypatch, batch: int, n: int, calls: int
) -> None:
    sizes: list[int] = []
    pixels = np.zeros((batch, 256, 256, 3), np.uint8)
    monkeypatch.setattr(
        "zoomldm.sampling.sampler.make_pixels", lambda *a: sizes.append(len(a[3])) or pixels
    )
    options = SampleOptions(steps=1, context_steps=1, batch=batch)
    write_samples(tmp_path / "out", SheetOptions(["20x"], n, samples=options), pipeline=pipeline)
    assert sizes == [batch] * calls


def test_a_folder_is_finished_when_its_index_is_there(
    tmp_path: Path, pipeline: ZoomLDMPipeline, monkeypatch
) -> None:
    options = SheetOptions(["20x"], 2, samples=QUICK)
    write_samples(tmp_path / "out", options, pipeline=pipeline)
    monkeypatch.setattr("zoomldm.sampling.exports.draw_sheet", lambda parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_samples(tmp_path / "out", options, pipeline=pipeline)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"20x-0000.png", "20x-0001.png", "contact-sheet.png"}


def test_refused(tmp_path: Path, pipeline: ZoomLDMPipeline) -> None:
    (tmp_path / "file").touch()
    one = SheetOptions(["20x"], 1, samples=QUICK)
    with pytest.raises(TargetError, match="is a file; expected a folder"):
        write_samples(tmp_path / "file", one, pipeline=pipeline)
    with pytest.raises(TargetError, match="does not exist; create it first"):
        write_samples(tmp_path / "no" / "where", one, pipeline=pipeline)
    with pytest.raises(ConfigError, match="0 samples"):
        SheetOptions(["20x"], 0)
    assert not (tmp_path / "x").exists()


def test_sheets() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 200, (9, 256, 256, 3), np.uint8)
    square = draw_sheet({2: pictures})
    assert square.width == 3 * 260 + 4
    top = square.height - 3 * 260 - 4
    shown = np.asarray(square)[top : top + 260]
    assert any(np.array_equal(shown[y : y + 256, 4:260], pictures[0]) for y in range(5))
    rows = draw_sheet({0: pictures, 7: pictures[:3]})
    assert rows.width == 9 * 260 + 4
    many = draw_sheet({0: np.concatenate([pictures, pictures])})
    assert many.width == 5 * 132 + 4
