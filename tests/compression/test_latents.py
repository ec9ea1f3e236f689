"""Training patches: where they start and what is stored of them."""

import numpy as np
import pytest
import torch
from damage import damage_tile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic import paint_slide

from zoomldm.archive import open_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.geometry.lattice import patch_offsets
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.pipeline import build_pipeline
from zoomldm.slides import open_slide

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(masks, st.integers(0, 7))
@settings(deadline=None)
def test_offsets_are_all_strides_that_overlap_tissue(mask, level):
    side = 2**level
    stride = max(1, side // 4)
    found = {(int(r), int(c)) for r, c in patch_offsets(mask, level)}
    first = -(side // stride + 1) * stride
    expected = set()
    for row in range(first, mask.shape[0], stride):
        for col in range(first, mask.shape[1], stride):
            rows = slice(max(0, row), max(0, row + side))
            if mask[rows, max(0, col) : max(0, col + side)].any():
                expected.add((row, col))
    assert found == expected
    assert len(found) == len(patch_offsets(mask, level))


def test_coarse_levels_have_many_views_of_one_tile():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    counts = [len(patch_offsets(mask, level)) for level in range(COUNT)]
    assert counts == [1, 4, 16, 16, 16, 16, 16, 16]
    assert (patch_offsets(mask, 7).min(0) < 0).all()


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline("tiny")


def test_latents_are_those_of_the_pixels(tmp_path, pipeline):
    slide = paint_slide(tmp_path / "a.tif", 700, 520, tissue=1.0)
    compress(slide, tmp_path, CompressOptions(for_training=True), pipeline=pipeline, name="tiny")
    with open_archive(tmp_path / "a.zldm") as archive, open_slide(slide) as opened:
        assert archive.latent_levels == list(range(COUNT))
        assert archive.manifest.autoencoder and archive.manifest.pipeline
        assert archive.manifest.autoencoder.digest == pipeline.digest("vae")
        for level in (0, 1, 5):
            offsets = archive.offsets(level)
            np.testing.assert_array_equal(offsets, patch_offsets(archive.mask, level))
            index = len(offsets) // 2
            row, col = (int(v) * 256 // 2**level for v in offsets[index])
            pixels = torch.from_numpy(opened.read(level, col, row, 256, 256)[None])
            pictures = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
            expected = pipeline.encode_images(pictures).numpy()
            stored = archive.latents(level, [index])
            assert np.abs(stored - expected).mean() < 0.02 * expected.std()


def test_a_patch_that_cannot_be_read_is_left_out_and_counted(tmp_path, pipeline, caplog):
    slide = paint_slide(tmp_path / "a.tif", 2560, 2816, tissue=1.0)
    damage_tile(slide, 27)
    options = CompressOptions(for_training=True, tissue="all")
    with caplog.at_level("WARNING"):
        report = compress(slide, tmp_path / "a.zldm", options, pipeline=pipeline, name="tiny")
    with open_archive(tmp_path / "a.zldm") as archive:
        there = {k: len(archive.offsets(k)) for k in range(COUNT)}
        lost = np.array(archive.manifest.unreadable)
        assert [tuple(v) for v in lost] == [(2, 7)]
        assert len(archive.offsets(0)) == 109
        assert not (archive.offsets(0) == lost[0]).all(1).any()
        every = {k: len(patch_offsets(np.ones_like(archive.mask), k)) for k in range(COUNT)}
    missing = {NAMES[k]: every[k] - n for k, n in there.items() if every[k] > n}
    assert missing == {"20x": 1}  # the file's coarser levels are stored apart, and sound
    assert report.unreadable_patches == missing
    (message,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert all(f"{n} at {level}" in message for level, n in missing.items())
