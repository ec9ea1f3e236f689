"""Slides to archives."""

import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch
from damage import damage_tile
from synthetic import paint_region, paint_slide

from compression.conftest import run
from zoomldm.archive import open_archive, verify_archive
from zoomldm.archive.base import halve, stored_chunks
from zoomldm.archive.quantise import cosines
from zoomldm.compression import base as base_layer
from zoomldm.compression import compress as compression
from zoomldm.compression.compress import compress
from zoomldm.encoders.encoder import EncoderOptions, PipelineEncoder
from zoomldm.errors import SlideError, TargetError
from zoomldm.geometry.levels import NAMES
from zoomldm.pipeline import build_pipeline
from zoomldm.slides import Slide, open_slide, tiles
from zoomldm.slides import tissue as tissue_rooms
from zoomldm.slides.content import content_digest
from zoomldm.slides.tissue import find_tissue


def average_tissue(slide: Slide, mask: np.ndarray, image: np.ndarray, level: int) -> None:
    """Replace the tissue tiles of an image of a level by those of 20x, averaged."""
    side = 256 >> level
    for row, col in np.argwhere(mask).tolist():
        fine = halve(slide.read(0, col * 256, row * 256, 256, 256), level)
        height, width = (
            (n >> level) - i * side for n, i in zip(slide.size[::-1], (row, col), strict=True)
        )
        fine = fine[:height, :width]
        image[row * side :, col * side :][: len(fine), : fine.shape[1]] = fine


class TestWhatIsStored:
    def test_every_tissue_tile_as_the_encoder_gave_it(self, slide, tmp_path, pipeline):
        report = run(slide, tmp_path / "a.zldm", pipeline)
        with open_slide(slide) as opened, open_archive(tmp_path / "a.zldm") as archive:
            mask = find_tissue(opened).mask
            np.testing.assert_array_equal(archive.mask, mask)
            assert 0 < mask.sum() < mask.size
            assert report.tissue_tiles == mask.sum()
            rows, cols = np.nonzero(mask)
            tiles = np.stack(
                [
                    opened.read(0, c * 256, r * 256, 256, 256)
                    for r, c in zip(rows.tolist(), cols.tolist(), strict=True)
                ]
            )
            exact = pipeline.encode_tiles(tiles)
            worst = cosines(exact, archive.embeddings_of(rows, cols)).min()
            assert worst >= 0.999
            assert archive.manifest.quantisation.cosine_min >= 0.999
            white = np.full((1, 256, 256, 3), 255, np.uint8)
            np.testing.assert_allclose(
                archive.background, pipeline.encode_tiles(white)[0], atol=1e-5
            )
        assert verify_archive(tmp_path / "a.zldm") == []

    def test_metadata(self, slide, tmp_path, pipeline):
        report = run(slide, tmp_path, pipeline)
        assert report.archive == str(tmp_path / "a.zldm")
        with open_archive(report.archive) as archive:
            m = archive.manifest
        assert m.slide.name == "a.tif" and m.slide.native_size == (3000, 2600)
        assert m.slide.size == (round(3000 * 0.2526 / 0.5), round(2600 * 0.2526 / 0.5))
        assert m.slide.mpp_source == "tiff resolution"
        assert m.slide.mpp_x == pytest.approx(0.2526, rel=1e-4)
        assert m.tissue.mode == "otsu" and m.tissue.view_mpp == 8 and m.tissue.threshold > 0
        assert m.encoder.id == "tiny" and m.encoder.digest == pipeline.digest("patch_encoder")
        assert m.autoencoder is None and m.latents == [] and m.unreadable == []
        assert report.bytes == (tmp_path / "a.zldm").stat().st_size
        assert report.source_bytes == slide.stat().st_size
        assert report.ratio == report.source_bytes / report.bytes
        assert report.raw_bytes == 3 * m.slide.size[0] * m.slide.size[1]
        assert not report.done_before

    @pytest.mark.parametrize("level", ["1.25x", "5x", "20x", "0.3125x"])
    @pytest.mark.parametrize("codec", ["avif", "png"])
    def test_the_base_layer_is_the_slide_at_that_level(
        self, slide, tmp_path, pipeline, level, codec
    ):
        report = run(slide, tmp_path / "a.zldm", pipeline, base=level, base_codec=codec)
        with open_slide(slide) as opened, open_archive(tmp_path / "a.zldm") as archive:
            base = archive.base
            assert base is not None and base.codec == codec
            k = base.level
            assert archive.manifest.base is not None and NAMES[k] == level
            expected = opened.read(k, 0, 0, *opened.level_size(k))
            if codec == "png":
                average_tissue(opened, archive.mask, expected, k)
            for row, col in stored_chunks(archive.manifest.base, archive.mask):
                side = base.chunk[0]
                y, x = row * side, col * side
                part = expected[y : y + side, x : x + side]
                found = base.read(x, y, part.shape[1], part.shape[0])
                error = np.abs(found.astype(int) - part)
                assert error.max() <= 1 if codec == "png" else error.mean() < 10
        assert report.base_bytes == archive.manifest.base_bytes > 0
        assert verify_archive(report.archive) == []

    def test_defaults_of_the_base_layer(self, slide, tmp_path, pipeline):
        run(slide, tmp_path / "a.zldm", pipeline)
        with open_archive(tmp_path / "a.zldm") as archive:
            assert archive.base is not None
            assert (archive.base.level, archive.base.codec) == (2, "avif")
            assert 24 <= archive.base.quality <= 60
            assert archive.manifest.base.ratio == 45
        run(slide, tmp_path / "b.zldm", pipeline, mpp=4)
        with open_archive(tmp_path / "b.zldm") as archive:
            assert archive.base is not None and archive.base.level == 3

    def test_chunks_come_in_order_whatever_the_threads(
        self, slide, tmp_path, pipeline, monkeypatch
    ):
        run(slide, tmp_path / "a.zldm", pipeline, base="20x")
        for module, name in ((base_layer, "FEW"), (tissue_rooms, "FEW"), (tiles, "MANY")):
            monkeypatch.setattr(module, name, 5)
        run(slide, tmp_path / "b.zldm", pipeline, base="20x")
        assert (tmp_path / "a.zldm").read_bytes() == (tmp_path / "b.zldm").read_bytes()

    def test_no_base_layer(self, slide, tmp_path, pipeline):
        report = run(slide, tmp_path / "a.zldm", pipeline, base="none")
        with open_archive(tmp_path / "a.zldm") as archive:
            assert archive.overview() is None and archive.base is None
        assert report.base_bytes == 0

    def test_a_slide_smaller_than_a_chunk_and_than_a_tile(self, tmp_path, pipeline):
        small = paint_slide(tmp_path / "a.tif", 150, 130, tissue=1.0)
        run(small, tmp_path, pipeline, tissue="all", base_codec="png")
        with open_slide(small) as opened, open_archive(tmp_path / "a.zldm") as archive:
            assert archive.base is not None and archive.base.size == (38, 33)
            expected = opened.read(2, 0, 0, 38, 33)
            average_tissue(opened, archive.mask, expected, 2)
            np.testing.assert_array_equal(archive.base.read(0, 0, 38, 33), expected)

    def test_all_tissue_and_float16(self, slide, tmp_path, pipeline):
        report = run(slide, tmp_path, pipeline, tissue="all", precision="float16")
        assert report.tissue_tiles == report.grid[0] * report.grid[1]
        with open_archive(tmp_path / "a.zldm") as archive:
            assert archive.mask.all()
            assert archive.manifest.tissue.mode == "all"
            assert archive.manifest.quantisation.precision == "float16"
            assert archive.manifest.quantisation.cosine_min >= 0.99999

    def test_mpp_given_is_the_one_used(self, slide, tmp_path, pipeline):
        run(slide, tmp_path, pipeline, mpp=0.5)
        with open_archive(tmp_path / "a.zldm") as archive:
            assert archive.size == (3000, 2600)
            assert archive.manifest.slide.mpp_source == "option"

    def test_another_encoder(self, slide, tmp_path, pipeline):
        other = build_pipeline("tiny", seed=7)
        other.save_pretrained(str(tmp_path / "other"))
        folder = str(tmp_path / "other")
        compress(slide, tmp_path / "a.zldm", pipeline=pipeline, name="tiny", encoder=folder)
        with open_archive(tmp_path / "a.zldm") as archive:
            assert archive.manifest.encoder.id == folder
            assert archive.manifest.encoder.digest == other.digest("patch_encoder")

    def test_colours_go_through_the_profile(self, tmp_path, pipeline):
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        slide = paint_slide(tmp_path / "a.tif", 600, 600, tissue=1.0, icc=profile)
        run(slide, tmp_path, pipeline)
        with open_archive(tmp_path / "a.zldm") as archive:
            assert "sRGB" in (archive.manifest.slide.icc or "")


class TestDeterminism:
    def test_two_runs_give_the_same_bytes(self, slide, tmp_path, pipeline):
        for name in ("b", "c"):
            run(slide, tmp_path / f"{name}.zldm", pipeline, for_training=True)
        assert (tmp_path / "b.zldm").read_bytes() == (tmp_path / "c.zldm").read_bytes()

    def test_blocks_and_stripes_change_nothing(self, slide, tmp_path, pipeline, monkeypatch):
        run(slide, tmp_path / "b.zldm", pipeline)
        monkeypatch.setattr(tiles, "BLOCK", 3)
        monkeypatch.setattr(tiles, "STRIPE", 6)
        encoder = PipelineEncoder(pipeline, "tiny", EncoderOptions(batch=5))
        compress(slide, tmp_path / "c.zldm", pipeline=pipeline, name="tiny", encoder=encoder)
        with open_archive(tmp_path / "b.zldm") as b, open_archive(tmp_path / "c.zldm") as c:
            rows, cols = np.nonzero(b.mask)
            np.testing.assert_array_equal(b.mask, c.mask)
            found = cosines(b.embeddings_of(rows, cols), c.embeddings_of(rows, cols))
            assert found.min() > 0.999


class TestRunAgain:
    def test_done_is_skipped(self, slide, tmp_path, pipeline, monkeypatch):
        target = tmp_path / "a.zldm"
        run(slide, target, pipeline)
        before = target.stat()
        monkeypatch.setattr(compression, "_embed", None)
        report = run(slide, target, pipeline)
        assert report.done_before and report.tissue_tiles > 0
        assert target.stat().st_mtime_ns == before.st_mtime_ns

    @pytest.mark.parametrize(
        "options",
        [
            {"base": "none"},
            {"base_codec": "webp"},
            {"base_quality": 50},
            {"ratio": 30.0},
            {"precision": "float16"},
            {"mpp": 0.26},
            {"tissue": "all"},
            {"for_training": True},
        ],
    )
    def test_other_options_are_not_skipped(self, slide, tmp_path, pipeline, options):
        run(slide, tmp_path, pipeline)
        assert not run(slide, tmp_path, pipeline, **options).done_before

    def test_another_encoder_is_not_skipped(self, slide, tmp_path, pipeline):
        run(slide, tmp_path, pipeline)
        assert not run(slide, tmp_path, build_pipeline("tiny", seed=1)).done_before

    def test_damaged_archive_is_made_again(self, slide, tmp_path, pipeline):
        target = tmp_path / "a.zldm"
        run(slide, target, pipeline)
        sound = target.read_bytes()
        target.write_bytes(sound[:300] + bytes([sound[300] ^ 1]) + sound[301:])
        assert not run(slide, target, pipeline).done_before
        assert target.read_bytes() == sound

    def two(self, folder):
        """Two slides of one name, size and number of bytes."""
        picture = np.full((300, 400, 3), 245, np.uint8)
        picture[:256, :256] = paint_region(256, 256, tissue=1.0)
        paths = []
        for name, pixels in (("a", picture), ("b", picture[::-1, ::-1])):
            (folder / name).mkdir()
            paths.append(folder / name / "scan.tif")
            tifffile.imwrite(
                paths[-1], np.ascontiguousarray(pixels), photometric="rgb", tile=(64, 64),
                resolution=(2e4, 2e4), resolutionunit=3, metadata=None,
            )  # fmt: skip
        assert paths[0].stat().st_size == paths[1].stat().st_size
        return paths

    def test_another_slide_of_that_name_is_refused(self, tmp_path, pipeline):
        one, other = self.two(tmp_path)
        report = run(one, tmp_path, pipeline, tissue="all", base="none")
        before = (tmp_path / "scan.zldm").read_bytes()
        with pytest.raises(TargetError, match=r"scan.zldm: is the archive of another slide"):
            run(other, tmp_path, pipeline, tissue="all", base="none")
        assert (tmp_path / "scan.zldm").read_bytes() == before
        with open_archive(report.archive) as archive:
            assert archive.manifest.version == "1.2"
            assert archive.manifest.slide.content == content_digest(one)
        assert run(one, tmp_path, pipeline, tissue="all", base="none").done_before

    def test_archive_that_does_not_say_is_made_again(self, tmp_path, pipeline, monkeypatch):
        """As those before version 1.2, which stay readable."""
        one, other = self.two(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr("zoomldm.slides.Slide.content", lambda self: None)
            report = run(one, tmp_path, pipeline, tissue="all", base="none")
        with open_archive(report.archive) as archive:
            assert archive.manifest.slide.content is None
            assert archive.manifest.version == "1.0"
        assert not run(other, tmp_path, pipeline, tissue="all", base="none").done_before
        with open_archive(report.archive) as archive:
            assert archive.manifest.slide.content == content_digest(other)


class TestUnreadable:
    def test_one_tile_costs_that_tile(self, tmp_path, pipeline):
        slide = paint_slide(tmp_path / "a.tif", 2560, 2816, tissue=1.0)
        damage_tile(slide, 27)
        report = run(slide, tmp_path, pipeline, tissue="all")
        assert report.unreadable == [(2, 7)]
        assert report.tissue_tiles == 10 * 11 - 1
        with open_archive(tmp_path / "a.zldm") as archive:
            assert [tuple(v) for v in archive.manifest.unreadable] == [(2, 7)]
            assert not archive.mask[2, 7] and archive.mask.sum() == 109
            np.testing.assert_array_equal(archive.embeddings(2, 3, 7, 8)[0, 0], archive.background)
        assert verify_archive(tmp_path / "a.zldm") == []

    def test_over_one_in_a_hundred_fails(self, tmp_path, pipeline):
        slide = paint_slide(tmp_path / "a.tif", 2560, 2816, tissue=1.0)
        damage_tile(slide, 27)
        damage_tile(slide, 61)
        with pytest.raises(SlideError, match="over 1% of its 110 tissue tiles can't be read"):
            run(slide, tmp_path / "a.zldm", pipeline, tissue="all")
        assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]

    def test_unreadable_place_of_the_view_is_white(self, tmp_path, pipeline):
        slide = paint_slide(tmp_path / "a.tif", 2560, 2816, levels=1, tissue=1.0)
        damage_tile(slide, 27)
        for tissue in ("otsu", "all"):
            run(slide, tmp_path / f"{tissue}.zldm", pipeline, tissue=tissue)
            with open_archive(tmp_path / f"{tissue}.zldm") as archive:
                assert [tuple(v) for v in archive.manifest.unreadable] == [(2, 7)]
                overview = archive.overview()
                assert overview is not None
                side = 256 >> overview[0]
                edge = side // 8
                place = overview[1][2 * side : 3 * side, 7 * side : 8 * side]
                assert place[edge:-edge, edge:-edge].min() > 230
                assert overview[1][:side].min() < 200


class TestFixtures:
    def test_ome_tiff_at_its_exact_mpp(self, shared, tmp_path, pipeline):
        report = run(shared / "fixtures" / "OS-1-detail.ome.tif", tmp_path / "a.zldm", pipeline)
        with open_archive(tmp_path / "a.zldm") as archive:
            m = archive.manifest
        assert m.slide.mpp_source == "ome" and 0.22 < m.slide.mpp_x < 0.23
        assert m.slide.size == tuple(round(1101 * mpp / 0.5) for mpp in (m.slide.mpp_x,) * 2)
        assert report.grid == (2, 2)

    def test_slide_without_mpp_is_right_with_it(self, shared, tmp_path, pipeline):
        slide = shared / "fixtures" / "TCGA-CR-7395-jp2k-no-mpp.svs"
        with pytest.raises(SlideError, match="no mpp in the file; pass --mpp"):
            run(slide, tmp_path / "a.zldm", pipeline)
        run(slide, tmp_path / "a.zldm", pipeline, mpp=0.5)
        with open_archive(tmp_path / "a.zldm") as archive, open_slide(slide, 0.5) as opened:
            assert archive.size == opened.native_size
            assert archive.manifest.slide.mpp_source == "option"

    def test_single_level_aperio(self, shared, tmp_path, pipeline):
        report = run(shared / "fixtures" / "CMU-1-Small-Region.svs", tmp_path, pipeline)
        assert report.tissue_tiles > 40
        assert verify_archive(report.archive) == []

    def test_real_slide_is_a_fortieth(self, shared, tmp_path):
        demo = build_pipeline("demo")
        slide = shared / "slides" / "PDAC-tru-cut__HE3.svs"  # the least compressible
        torch.set_num_threads(2)
        try:
            report = run(slide, tmp_path / "a.zldm", demo)
        finally:
            torch.set_num_threads(1)
        assert report.ratio >= 40
        with open_archive(tmp_path / "a.zldm") as archive:
            m = archive.manifest
        assert m.quantisation.cosine_min >= 0.999
        assert report.source_bytes / (report.bytes - report.base_bytes) >= 50


def test_painted_slide_stays_in_the_picture(tmp_path, pipeline):
    """A plain TIFF that only tifffile opens gives what OpenSlide gives of the same pixels."""
    picture = paint_region(900, 700, tissue=1.0)
    tifffile.imwrite(tmp_path / "plain.tif", picture, resolution=(2e4, 2e4), resolutionunit=3)
    tiled = paint_slide(tmp_path / "tiled.tif", 900, 700, jpeg=False, picture=picture)
    for slide in (tmp_path / "plain.tif", tiled):
        run(slide, tmp_path, pipeline, tissue="all")
    with open_archive(tmp_path / "plain.zldm") as a, open_archive(tmp_path / "tiled.zldm") as b:
        assert a.size == b.size == (900, 700)
        rows, cols = np.nonzero(a.mask)
        np.testing.assert_array_equal(a.embeddings_of(rows, cols), b.embeddings_of(rows, cols))


def test_killed_run_leaves_nothing_under_the_name(slide, tmp_path, pipeline):
    code = (
        "import os, sys, zoomldm.compression.compress as c\n"
        "c.add_base = lambda *a: os.kill(os.getpid(), 9)\n"
        "c.compress(sys.argv[1], sys.argv[2], pipeline='tiny')\n"
    )
    target = tmp_path / "a.zldm"
    done = subprocess.run([sys.executable, "-c", code, slide, target], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert not target.exists() and list(tmp_path.iterdir())
    run(slide, target, pipeline)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zldm"]
