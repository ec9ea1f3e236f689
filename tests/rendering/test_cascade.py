"""Pixels as a function of archive, pipeline, options and seed alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoomldm.archive import open_archive
from zoomldm.caching import Recent
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.geometry.levels import COUNT, TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering import Cascade, RenderOptions
from zoomldm.rendering.render_cache import RenderCache, Spool

Make = Callable[..., Path]
QUICK = RenderOptions(steps=4)


def whole(cascade: Cascade, level: int) -> np.ndarray:
    return cascade.read(level, 0, 0, *cascade.size(level))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_region_is_the_same_alone_in_the_whole_and_in_any_order(
    make: Make, pipeline: ZoomLDMPipeline, batch: int
) -> None:
    quick = RenderOptions(steps=4, batch=batch)
    path = make()
    with open_archive(path) as archive:
        with Cascade(archive, pipeline, quick) as cascade:
            full = whole(cascade, 0)
            coarse = whole(cascade, 1)
        with Cascade(archive, pipeline, quick) as cascade:
            np.testing.assert_array_equal(
                cascade.read(0, 300, 500, 333, 77), full[500:577, 300:633]
            )
        with Cascade(archive, pipeline, quick) as cascade:
            np.testing.assert_array_equal(whole(cascade, 1), coarse)
            rows, cols = cascade.shape(0)
            for row, col in reversed([(r, c) for r in range(rows) for c in range(cols)]):
                patch = cascade.patch(0, row, col)
                part = full[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
                np.testing.assert_array_equal(patch[: part.shape[0], : part.shape[1]], part)
        # No memory at all for patches: everything is made again, or comes back from the disk.
        with Cascade(
            archive, pipeline, quick, RenderCache(Recent(0), disk=Spool(1 << 30))
        ) as cascade:
            np.testing.assert_array_equal(whole(cascade, 0), full)
            np.testing.assert_array_equal(whole(cascade, 1), coarse)


def test_pixels_are_those_of_the_versions_before(make: Make, pipeline: ZoomLDMPipeline) -> None:
    with open_archive(make(600, 500, overview=None)) as archive:
        pixels = Cascade(archive, pipeline, QUICK).read(0, 200, 200, 96, 96)
    golden = np.asarray(Image.open(Path(__file__).with_name("golden-cascade.png")))
    # Bits on the machine that wrote it; another one's convolutions may round otherwise.
    assert np.abs(pixels.astype(int) - golden).max() <= 1


def test_another_process_gives_the_same_pixels(
    make: Make, pipeline: ZoomLDMPipeline, tmp_path: Path, elsewhere: Callable[[str], None]
) -> None:
    path = make(700, 600, overview=None)
    pipeline.save_pretrained(tmp_path / "pipeline")
    code = f"""
import numpy as np
from zoomldm.archive import open_archive
from zoomldm.pipeline import load_pipeline
from zoomldm.rendering import Cascade, RenderOptions
from zoomldm.rendering.render_cache import RenderCache, Spool
pipeline = load_pipeline({str(tmp_path / "pipeline")!r})
with open_archive({str(path)!r}) as archive:
    cascade = Cascade(archive, pipeline, RenderOptions(steps=4))
    np.save({str(tmp_path / "out.npy")!r}, cascade.read(0, 100, 100, 300, 300))
"""
    elsewhere(code)
    with open_archive(path) as archive, Cascade(archive, pipeline, QUICK) as cascade:
        full = whole(cascade, 0)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), full[100:400, 100:400])


def test_every_option_counts(make: Make, pipeline: ZoomLDMPipeline) -> None:
    options = [
        QUICK,
        RenderOptions(steps=4, seed=1),
        RenderOptions(steps=6),
        RenderOptions(steps=4, guidance=1),
        RenderOptions(steps=4, start=300),
        RenderOptions(steps=4, precision="bfloat16"),
    ]
    with open_archive(make(512, 512, overview=1)) as archive:
        pictures = [whole(Cascade(archive, pipeline, one), 0) for one in options]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert (one != other).any()


def test_half_the_precision_is_equal_to_the_eye(make: Make, pipeline: ZoomLDMPipeline) -> None:
    half = RenderOptions(steps=4, precision="bfloat16", batch=2)
    with open_archive(make(512, 512, overview=1)) as archive:
        exact, close = (whole(Cascade(archive, pipeline, o), 0) for o in (QUICK, half))
    assert np.abs(exact.astype(int) - close).mean() < 2


def test_levels_from_the_overview_on_are_its_pixels(make: Make, pipeline: ZoomLDMPipeline) -> None:
    with open_archive(make(1501, 1103)) as archive:
        cascade = Cascade(archive, pipeline, QUICK)
        level, stored = archive.overview() or (0, np.empty(0))
        assert level == 2
        np.testing.assert_array_equal(whole(cascade, 2), stored)
        base = archive.base
        assert base is not None
        for k in range(3, COUNT):
            expected = base.read_level(k, 0, 0, *cascade.size(k))
            np.testing.assert_array_equal(whole(cascade, k), expected)
        assert cascade.provenance()["levels_real"] == [
            "5x",
            "2.5x",
            "1.25x",
            "0.625x",
            "0.3125x",
            "0.15625x",
        ]
        assert [cascade.is_real(k) for k in range(3)] == [False, False, True]


def test_without_an_overview_all_levels_are_generated(
    make: Make, pipeline: ZoomLDMPipeline
) -> None:
    with open_archive(make(600, 300, overview=None)) as archive:
        cascade = Cascade(archive, pipeline, QUICK)
        assert len(cascade.provenance()["levels_generated"]) == COUNT
        assert whole(cascade, 7).shape == (3, 5, 3)
        assert whole(cascade, 0).std() > 0


def test_patches_without_tissue_are_not_generated(make: Make, pipeline: ZoomLDMPipeline) -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    counts: list[int] = []
    with open_archive(make(1024, 1024, overview=2, mask=mask)) as archive:
        cascade = Cascade(archive, pipeline, QUICK, on_patch=counts.append)
        count = cascade.count({0: (0, 0, 1024, 1024)})
        whole(cascade, 0)
        assert sum(counts) == 2 == sum(c.generated for c in count.values())
        assert (count[0].background, count[1].background, count[2].real) == (15, 3, 1)
        parent = Image.fromarray(cascade.patch(1, 1, 1))
        box = (128, 0, 256, 128)
        expected = parent.resize((TILE, TILE), Image.Resampling.BICUBIC, box=box)
        np.testing.assert_array_equal(cascade.patch(0, 2, 3), np.asarray(expected))


def test_the_cost_of_a_region_is_its_own_chain(make: Make, pipeline: ZoomLDMPipeline) -> None:
    counts: list[int] = []
    with open_archive(make(5000, 5000, overview=None)) as archive:
        cascade = Cascade(archive, pipeline, QUICK, on_patch=counts.append)
        cascade.read(0, 3000, 3000, 20, 20)
        assert sum(counts) == COUNT
        cascade.read(0, 3030, 3030, 20, 20)
        assert sum(counts) == COUNT


def test_another_encoder_is_refused(make: Make, pipeline: ZoomLDMPipeline) -> None:
    with (
        open_archive(make(digest="ab" * 32)) as archive,
        pytest.raises(ArchiveError, match=r"'tiny' \(abababababab\).*pipeline's is [0-9a-f]{12}"),
    ):
        Cascade(archive, pipeline)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"guidance": -1},
        {"guidance": float("nan")},
        {"start": 0},
        {"steps": 0},
        {"batch": 0},
        {"precision": "half"},
    ],
)
def test_options_out_of_range(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        RenderOptions(**wrong)


def test_outside_is_white_and_no_patch(make: Make, pipeline: ZoomLDMPipeline) -> None:
    with open_archive(make(300, 300, overview=0)) as archive:
        cascade = Cascade(archive, pipeline)
        assert (cascade.read(0, -50, 290, 40, 30) == 255).all()
        assert (cascade.read(0, 290, 290, 20, 20)[10:] == 255).all()
        with pytest.raises(IndexError):
            cascade.patch(0, 2, 0)
