"""From slides to a pipeline of octaves: compress for training, train both stages, render."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import paint_slide
from tiny import filled_pipeline

from training.calls import train_stage
from zoomldm.archive import open_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.errors import ArchiveError, ConfigError, PipelineError
from zoomldm.pipeline import load_pipeline
from zoomldm.rendering.opening import open_renderer


def test_slides_to_pipeline(tmp_path: Path) -> None:
    slides, archives = tmp_path / "slides", tmp_path / "archives"
    slides.mkdir()
    archives.mkdir()
    for number in range(2):
        paint_slide(slides / f"s{number}.tif", 1600, 1300, tissue=0.9, seed=number)
        compress(
            slides / f"s{number}.tif",
            archives,
            CompressOptions(for_training=True),
            pipeline="tiny-octaves",
        )
    with open_archive(archives / "s0.zldm") as archive:
        assert archive.base is not None
        assert (archive.base.level, archive.base.codec) == (2, "png")
        assert not archive.latent_levels
    changes = {"steps": 3, "save_every": 3, "show_every": 3, "log_every": 1}
    report = train_stage("diffusion", "tiny-octaves", archives, tmp_path / "run", changes=changes)
    decoder = train_stage(
        "autoencoder",
        "tiny-octaves",
        slides,
        tmp_path / "decoder",
        changes=changes,
        pipeline=report.pipeline,
    )
    pipeline = load_pipeline(decoder.pipeline)
    assert not (pipeline.vae.scale == 1).all()  # the bands were fitted
    with open_archive(archives / "s0.zldm") as archive:
        pixels = open_renderer(archive, pipeline).read(0, 300, 300, 256, 256)
    assert pixels.std() > 5
    second = train_stage(
        "autoencoder",
        "tiny-octaves",
        slides,
        tmp_path / "second",
        changes=changes | {"made": 0.5, "restores": True},
        pipeline=decoder.pipeline,
        finetune=True,
    )
    for base, wrong in (
        (decoder.pipeline, changes | {"restores": True}),
        (second.pipeline, changes),
    ):
        with pytest.raises(ConfigError, match="needs latents that a denoiser made"):
            train_stage(
                "autoencoder",
                "tiny-octaves",
                slides,
                tmp_path / "none",
                changes=wrong,
                pipeline=base,
                finetune=True,
            )
    compress(slides / "s0.tif", tmp_path / "s0.zldm", pipeline=str(second.pipeline))
    command = [sys.executable, "-m", "zoomldm", "decompress", str(tmp_path / "s0.zldm"), "--json"]
    command += ["-o", str(tmp_path / "s0.png"), "--pipeline", str(second.pipeline)]
    command += ["--region", "300,300,256,256", "--level", "20x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["steps"] == 1  # its decoder restores


def test_training_needs_a_lossless_base_layer(tmp_path: Path) -> None:
    paint_slide(tmp_path / "s.tif", 1200, 900, tissue=0.9)
    folder = tmp_path / "archives"
    folder.mkdir()
    compress(tmp_path / "s.tif", folder, CompressOptions(base="10x"), pipeline="tiny-octaves")
    with pytest.raises(ArchiveError, match="lossless one at 5x"):
        train_stage("diffusion", "tiny-octaves", folder, tmp_path / "run")


def test_a_preset_of_another_kind_is_refused(tmp_path: Path) -> None:
    pipeline = filled_pipeline("tiny")
    pipeline.save_pretrained(tmp_path / "pipeline")
    paint_slide(tmp_path / "s.tif", 1200, 900, tissue=0.9)
    folder = tmp_path / "archives"
    folder.mkdir()
    compress(
        tmp_path / "s.tif",
        folder,
        CompressOptions(for_training=True),
        pipeline=str(tmp_path / "pipeline"),
    )
    with pytest.raises(PipelineError, match="preset tiny-octaves"):
        train_stage(
            "diffusion",
            "tiny-octaves",
            folder,
            tmp_path / "run",
            pipeline=str(tmp_path / "pipeline"),
        )


def test_the_same_pixels_train(tmp_path: Path) -> None:
    """A raster's finest level is the base layer: tissue of 20x averaged, as the decoder learns."""
    from zoomldm.archive.base import halve
    from zoomldm.data.rasters import load_raster
    from zoomldm.slides import open_slide

    paint_slide(tmp_path / "s.tif", 1200, 900, tissue=0.9)
    compress(
        tmp_path / "s.tif",
        tmp_path / "s.zldm",
        CompressOptions(for_training=True),
        pipeline="tiny-octaves",
    )
    with open_archive(tmp_path / "s.zldm") as archive, open_slide(tmp_path / "s.tif") as slide:
        raster = load_raster(archive, tmp_path)
        tissue = archive.mask[:3, :4].repeat(64, 0).repeat(64, 1)  # whole tiles
        read = halve(slide.read(0, 0, 0, 1024, 768), 2)
    assert tissue.mean() > 0.5
    np.testing.assert_array_equal(raster.pixels[0][:192, :256][tissue], read[tissue])
    assert len(raster.pixels) == 8
