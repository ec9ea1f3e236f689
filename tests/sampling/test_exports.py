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
from zoomldm.sampling.exports import write_samples
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.reference import Reference
from zoomldm.sampling.sampler import Sampler

QUICK = SampleOptions(steps=1, context_steps=1, seed=3)


def test_samples(tmp_path: Path, pipeline: ZoomLDMPipeline) -> None:
    out, seen = tmp_path / "out", []
    reference = Reference(np.ones(32, np.float32), {"picture": "x.png"})
    report = write_samples(
        pipeline, out, [5, 0], 18, QUICK, reference, advance=lambda *a: seen.append(a)
    )
    assert json.loads((out / "samples.json").read_text()) == report
    assert len(report["samples"]) == 36 and report["samples"][0]["file"] == "0.625x-0000.png"
    assert report["seed"] == report["options"]["seed"] == 3
    assert report["reference"] == {"picture": "x.png"}
    assert report["pipeline_digest"] == pipeline.digest()
    assert seen[0] == ("pictures", 0, 36) and seen[-1] == ("pictures", 36, 36)
    expected = Sampler(pipeline, QUICK).sample(0, 1, 17, reference.embedding)[0]
    with Image.open(out / "20x-0017.png") as picture:
        assert np.array_equal(np.asarray(picture), expected)
        facts = json.loads(picture.text["zoomldm"])
    assert (facts["level"], facts["index"], facts["mpp"]) == ("20x", 17, 0.5)
    assert facts["reference"] == report["reference"]
    with Image.open(out / "contact-sheet.png") as sheet:
        assert sheet.width > 18 * 128 and sheet.height > 2 * 128


def test_zooms(tmp_path: Path, pipeline: ZoomLDMPipeline) -> None:
    quick = SampleOptions(steps=2, context_steps=1)
    report = write_samples(pipeline, tmp_path / "one", [], 1, quick, zoom=True)
    assert [r["level"] for r in report["samples"]] == list(reversed(NAMES))
    assert all(("quarter" in r) == (r["level"] != NAMES[-1]) for r in report["samples"])
    assert (tmp_path / "one" / "zoom-0000-20x.png").is_file()
    report = write_samples(pipeline, tmp_path / "two", [], 2, quick, zoom=True)
    assert len(report["samples"]) == 2 * COUNT
    same = [(tmp_path / f / "zoom-0000-2.5x.png").read_bytes() for f in ("one", "two")]
    assert same[0] == same[1]


@pytest.mark.parametrize(("batch", "n", "calls"), [(32, 40, 2), (12, 24, 2), (5, 16, 4)])
def test_no_batch_is_made_twice(
    tmp_path: Path, pipeline: ZoomLDMPipeline, monkeypatch, batch: int, n: int, calls: int
) -> None:
    made: list[int] = []
    pixels = np.zeros((batch, 256, 256, 3), np.uint8)
    monkeypatch.setattr(
        "zoomldm.sampling.sampler.make_pixels", lambda *a: made.append(len(a[3])) or pixels
    )
    options = SampleOptions(steps=1, context_steps=1, batch=batch)
    write_samples(pipeline, tmp_path / "out", [0], n, options)
    assert made == [batch] * calls


def test_refused(tmp_path: Path, pipeline: ZoomLDMPipeline) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="is a file; expected a folder"):
        write_samples(pipeline, tmp_path / "file", [0], 1, QUICK)
    with pytest.raises(TargetError, match="does not exist; create it first"):
        write_samples(pipeline, tmp_path / "no" / "where", [0], 1, QUICK)
    with pytest.raises(ConfigError, match="0 samples of 1 levels"):
        write_samples(pipeline, tmp_path / "x", [0], 0, QUICK)
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
