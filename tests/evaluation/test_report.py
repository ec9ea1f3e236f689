"""The report runs from slides to a page on an untrained pipeline."""

import json

import numpy as np
import pytest
import torch

from zoomldm.errors import ConfigError
from zoomldm.evaluation.report import measure_networks, write_report
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.pipeline import load_pipeline


def test_from_slide_to_page(tmp_path) -> None:
    from synthetic import paint_slide

    from zoomldm.compression.compress import CompressOptions, compress

    slide = tmp_path / "slide.tif"
    paint_slide(slide, 2048, 1536, mpp=0.5, seed=3)
    torch.manual_seed(0)
    judge = TileCNN(dim=16, layout=0, widths=(8, 8, 8, 8), map_channels=2, grey=True)
    judge.save_pretrained(tmp_path / "judge")
    pipeline = load_pipeline("tiny")
    pipeline.set_progress_bar_config(disable=True)
    archive = tmp_path / "slide.zldm"
    compress(slide, archive, CompressOptions(for_training=True), pipeline=pipeline)
    figures, picture = measure_networks(
        pipeline, [slide], [archive], tiles=4, judge=tmp_path / "judge"
    )
    assert np.isfinite(figures["autoencoder"][0]["psnr"])
    assert len(figures["losses"]) == 8
    assert {r["pictures"] for r in figures["retrieval"]} == {"generated", "round trip"}
    assert all(0 <= r["judge"] <= 1 for r in figures["retrieval"])
    page, data, image = write_report(figures, picture, tmp_path, "command")
    assert "| 0.15625x |" in page.read_text()
    assert json.loads(data.read_text())["digest"] == pipeline.digest()
    assert image.stat().st_size > 1000


def test_no_slides() -> None:
    with pytest.raises(ConfigError, match="no held-out slides"):
        measure_networks(load_pipeline("tiny"), [])
