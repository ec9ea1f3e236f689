"""The cascade in overlapping windows: no borders, and pixels as a function of place alone."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoomldm.archive import open_archive
from zoomldm.caching import Recent
from zoomldm.generation.grids import averaged_cells, window_context, window_grid
from zoomldm.generation.windows import SCALE, STRIDE
from zoomldm.geometry.levels import TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering import Cascade, DecompressOptions, RenderedSlide, RenderOptions, decompress
from zoomldm.rendering.blended import BlendedCascade
from zoomldm.rendering.opening import open_renderer
from zoomldm.rendering.render_cache import RenderCache, Spool

Make = Callable[..., Path]
QUICK = RenderOptions(steps=2)
STEP = STRIDE * SCALE


def whole(renderer: Cascade, level: int) -> np.ndarray:
    return renderer.read(level, 0, 0, *renderer.size(level))


def pixels(slide: RenderedSlide, x: int, y: int, w: int, h: int) -> np.ndarray:
    return np.asarray(slide.read_region((x, y), 0, (w, h)).convert("RGB"))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_region_is_the_same_alone_in_the_whole_and_in_any_order(
    make: Make, pipeline: ZoomLDMPipeline, batch: int
) -> None:
    quick = RenderOptions(steps=2, batch=batch)
    with open_archive(make(700, 500, overview=3)) as archive:
        with BlendedCascade(archive, pipeline, quick) as cascade:
            full, coarse = whole(cascade, 0), whole(cascade, 1)
        with BlendedCascade(archive, pipeline, quick) as cascade:
            part = cascade.read(0, 199, 201, 301, 77)
            np.testing.assert_array_equal(part, full[201:278, 199:500])
            np.testing.assert_array_equal(whole(cascade, 1), coarse)
            np.testing.assert_array_equal(whole(cascade, 0), full)
        # No memory at all for windows: everything is made again, or comes back from the disk.
        cache = RenderCache(Recent(0), disk=Spool(1 << 30))
        with BlendedCascade(archive, pipeline, quick, cache) as cascade:
            np.testing.assert_array_equal(cascade.read(0, 600, 400, 100, 100), full[400:, 600:])
            np.testing.assert_array_equal(whole(cascade, 0), full)


def test_blocks_meet_without_a_trace(
    make: Make, pipeline: ZoomLDMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_archive(make(600, 300, overview=1)) as archive:
        full = whole(BlendedCascade(archive, pipeline, QUICK), 0)
        monkeypatch.setattr("zoomldm.rendering.blended.BLOCK", 128)
        np.testing.assert_array_equal(whole(BlendedCascade(archive, pipeline, QUICK), 0), full)


def test_borders_of_the_plain_cascade_are_gone(
    make: Make, pipeline: ZoomLDMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    strength = [0]

    def stained(*given: Any) -> np.ndarray:
        """In place of networks: what a patch begins with, and a stain of its context."""
        context, starts = given[3], given[5]
        stain = strength[-1] * torch.sin(400 * context[:, 0, 0])[:, None, None, None]
        return (starts.float() / 2 + 64 + stain).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    monkeypatch.setattr("zoomldm.rendering.cascade.make_pixels", stained)
    steps = {}
    with open_archive(make(1024, 1024, overview=1)) as archive:
        for kind in (Cascade, BlendedCascade):
            found = []
            for amount in (0, 20):
                strength.append(amount)
                found.append(whole(kind(archive, pipeline, QUICK), 0).astype(int))
            stain = found[1] - found[0]
            steps[kind] = [int(np.abs(np.diff(stain, axis=axis)).max()) for axis in (0, 1)]
            assert stain.std() > 5
    assert min(steps[Cascade]) > 20
    assert max(steps[BlendedCascade]) <= 3  # 40 over 32 px, and rounding


def test_windows_see_one_picture_of_the_level_above_and_one_noise(
    make: Make, pipeline: ZoomLDMPipeline
) -> None:
    with open_archive(make(700, 500, overview=2)) as archive:
        cascade = BlendedCascade(archive, pipeline, QUICK)
        parents = cascade.patches(1, cascade._above(0, [(0, 0), (0, 1)]))
        left, right = (cascade._start(0, key, parents) for key in ((0, 0), (0, 1)))
        np.testing.assert_array_equal(left[:, STEP:], right[:, : TILE - STEP])
        schedule = cascade._part
        one, other = (cascade._noise(0, key, schedule) for key in ((0, 0), (0, 1)))
        cells = one.shape[2] * STEP // TILE
        torch.testing.assert_close(one[:, :, cells:], other[:, :, : one.shape[2] - cells])
        # At the slide's edge it begins with real pixels, none of them white from outside.
        stored = cascade._region(2, -2, -2, 20, 20)
        np.testing.assert_array_equal(stored[2:, 2:], cascade.read(2, 0, 0, 18, 18))
        np.testing.assert_array_equal(stored[0, 2:], stored[2, 2:])


def test_a_window_between_tiles_knows_of_all_that_it_covers(
    make: Make, pipeline: ZoomLDMPipeline
) -> None:
    with open_archive(make(5000, 5000)) as archive:
        grid, shift = window_grid(archive, 0, (1, 8))  # 0.875 of a tile down, 7 tiles right
        assert grid.shape[:2] == (2, 2) and shift == (7, 0)
        expected = archive.embeddings(0, 1, 7, 8) / 8 + 7 * archive.embeddings(1, 2, 7, 8) / 8
        np.testing.assert_allclose(averaged_cells(grid, 0, shift), expected, atol=1e-5)
        # On a whole tile it is a patch's own context, and so it is at levels of whole tiles.
        for level, key, tile in ((0, (8, 8), 7), (2, (2, 4), None), (3, (1, 1), 7)):
            found = window_context(archive, pipeline, level, key)
            if tile is None:
                assert found.isfinite().all()
                continue
            own = pipeline.context(archive.grid(level, tile, tile)[None], level)[0]
            torch.testing.assert_close(found, own)


def test_cost_is_counted_before_and_after(make: Make, pipeline: ZoomLDMPipeline) -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    counts: list[int] = []
    with open_archive(make(1024, 1024, overview=2, mask=mask)) as archive:
        cascade = BlendedCascade(archive, pipeline, QUICK, on_patch=counts.append)
        count = cascade.count({0: (0, 0, 1024, 1024), 2: (0, 0, 256, 256)})
        full = whole(cascade, 0)
        generated = sum(c.generated for c in count.values())
        assert sum(counts) == generated == cascade.cost.windows
        # Tile (0, 0) lies under windows 0 and 1 along each axis: at 10x as well, 112 px to one.
        assert (count[0].generated, count[0].background) == (4, 21)
        assert count[2].real == 1
        # What lies off is not generated: it is the stored pixels, upsampled twice.
        bicubic = Image.Resampling.BICUBIC
        stored = Image.fromarray(cascade.read(2, 0, 0, 256, 256))
        expected = np.asarray(stored.resize((512, 512), bicubic).resize((1024, 1024), bicubic))
        off = np.abs(full[600:960, 600:960].astype(int) - expected[600:960, 600:960])
        assert off.max() <= 1  # windows with one picture of it are rounded once more
        lone = BlendedCascade(archive, pipeline, QUICK)
        lone.read(0, 0, 0, 200, 200)
        one = lone.count({0: (0, 0, 200, 200)})
        assert lone.cost.windows == sum(c.generated for c in one.values()) == 2


def test_it_is_what_a_slide_without_parents_is_drawn_by(
    make: Make, pipeline: ZoomLDMPipeline
) -> None:
    path = make(600, 300, base=1)
    with RenderedSlide(path, pipeline, options=QUICK) as slide:
        assert slide.properties["zoomldm.method"] == "blended"
        assert slide.properties["zoomldm.background"].startswith("windows without tissue")
        full = pixels(slide, 0, 0, 600, 300)
        assert slide.cost.windows == slide.cost.tiles == 6
        there = pickle.loads(pickle.dumps(slide))
    found: dict[int, np.ndarray] = {}

    def read(index: int) -> None:
        found[index] = pixels(there, 90 * index, 50, 200, 200)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert there.cost.windows == 4  # what two asked for was made once
    for index in range(3):
        np.testing.assert_array_equal(found[index], full[50:250, 90 * index : 90 * index + 200])
    there.close()
    plain = RenderOptions(steps=2, method="cascade")
    with RenderedSlide(path, pipeline, options=plain) as slide:
        assert slide.properties["zoomldm.method"] == "cascade"
        assert (pixels(slide, 0, 0, 600, 300) != full).any()


def test_another_process_and_an_export_give_the_same_pixels(
    make: Make, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    path = make(600, 300, overview=1)
    pipeline.save_pretrained(tmp_path / "pipeline")
    code = f"""
import torch; torch.set_num_threads(1)
import numpy as np
import zoomldm
from zoomldm.rendering import RenderOptions
with zoomldm.open_slide({str(path)!r}, {str(tmp_path / "pipeline")!r},
                        options=RenderOptions(steps=2)) as slide:
    np.save({str(tmp_path / "out.npy")!r}, np.asarray(slide.read_region((100, 20), 0, (300, 200))))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with open_archive(path) as archive, open_renderer(archive, pipeline, QUICK) as cascade:
        assert isinstance(cascade, BlendedCascade)
        full = whole(cascade, 0)
    there = np.load(tmp_path / "out.npy")[..., :3]
    np.testing.assert_array_equal(there, full[20:220, 100:400])
    options = DecompressOptions(steps=2, level=0, region=(100, 20, 300, 200))
    report = decompress(path, tmp_path / "out.png", options, pipeline=pipeline)
    assert report.provenance["method"] == "blended"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), there)
