"""The pyramid: pixels as a function of archive, pipeline, options and seed alone."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import filled_pipeline, watch_octaves

from zoomldm.archive import open_archive
from zoomldm.caching import Recent
from zoomldm.errors import PipelineError
from zoomldm.geometry.levels import COUNT
from zoomldm.networks.lowpass import pooled, restoring
from zoomldm.networks.octave_denoiser import BASE
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.rendering import RenderOptions, latents
from zoomldm.rendering import pyramid as module
from zoomldm.rendering.opening import open_renderer
from zoomldm.rendering.pyramid import Pyramid
from zoomldm.rendering.render_cache import RenderCache

Make = Callable[..., Path]
QUICK = RenderOptions(steps=2)


@pytest.fixture(scope="session")
def pipeline() -> ZoomLDMPipeline:
    """In place of the cascade's: its patch encoder is what archives are made with."""
    return filled_pipeline("tiny-octaves")


def whole(pyramid: Pyramid, level: int) -> np.ndarray:
    return pyramid.read(level, 0, 0, *pyramid.size(level))


def means(pixels: np.ndarray, side: int = 2) -> np.ndarray:
    h, w = (n // side * side for n in pixels.shape[:2])
    parts = pixels[:h, :w].reshape(h // side, side, w // side, side, 3)
    return parts.mean((1, 3), dtype=np.float32)


@pytest.mark.parametrize("base", [2, 3, None])
def test_a_region_is_the_same_alone_in_the_whole_and_in_any_order(
    make: Make, pipeline: ZoomLDMPipeline, base: int | None
) -> None:
    with open_archive(make(900, 700, base=base, overview=None)) as archive:
        with Pyramid(archive, pipeline, QUICK) as pyramid:
            full = {k: whole(pyramid, k) for k in range(COUNT)}
        for level in (0, 1, 2, 5):
            with Pyramid(archive, pipeline, QUICK) as pyramid:
                h, w = full[level].shape[:2]
                x, y = w // 3, h // 4
                part = pyramid.read(level, x, y, w - x, h - y)
                np.testing.assert_array_equal(part, full[level][y:, x:])
        with Pyramid(
            archive, pipeline, QUICK, RenderCache(Recent(0))
        ) as pyramid:  # everything is made again
            np.testing.assert_array_equal(whole(pyramid, 0), full[0])


def test_levels_are_one_picture(make: Make, pipeline: ZoomLDMPipeline) -> None:
    """20x averaged down is 10x, and that 5x, to rounding: all three are the same latents.

    They hold colour at half of the resolution of luminance: at 5x colour is smooth, so it agrees
    in luminance, and in colour at half of the resolution.
    """
    pipeline = filled_pipeline("tiny-octaves")
    pipeline.vae.scale.fill_(0.04)  # so little contrast that nothing is clipped
    with (
        open_archive(make(1024, 768, base=None, overview=None)) as archive,
        Pyramid(archive, pipeline, QUICK) as pyramid,
    ):
        images = [whole(pyramid, k) for k in range(3)]
    for level, (fine, coarse) in enumerate(itertools.pairwise(images)):
        assert fine.min() > 0 and fine.max() < 255 and fine.std() > 0.5
        ours, theirs = means(fine), coarse.astype(np.float32)
        if level == 1:
            ours, theirs = ours.mean(2), theirs.mean(2)
            assert np.abs(means(fine, 4) - means(coarse, 2)).max() <= 1.01
        assert np.abs(ours - theirs).max() <= 1.01


def test_octaves_average_down_to_what_is_stored(make: Make, pipeline: ZoomLDMPipeline) -> None:
    with (
        open_archive(make(1024, 768, base=4)) as archive,
        Pyramid(archive, pipeline, QUICK) as pyramid,
    ):
        planes = [pyramid.latents.field(k, 0, 0, 192 >> k, 256 >> k) for k in range(3)]
    for fine, coarse in itertools.pairwise(planes):
        for found, expected in zip(pooled(fine), coarse, strict=True):
            assert found.std() > 0.01
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_real_levels_are_the_stored_pixels(make: Make, pipeline: ZoomLDMPipeline) -> None:
    with open_archive(make(900, 700, base=2)) as archive:
        pyramid = Pyramid(archive, pipeline, QUICK)
        assert [pyramid.is_real(k) for k in range(4)] == [False, False, True, True]
        base = archive.base
        assert base is not None
        np.testing.assert_array_equal(whole(pyramid, 2), base.read(0, 0, *base.size))
        np.testing.assert_array_equal(whole(pyramid, 4), base.read_level(4, 0, 0, 57, 44))


def test_untrained_details_keep_to_the_base_layer(make: Make) -> None:
    """The linear head's first guess is the hint: the picture is the base layer, enlarged."""
    pipeline = build_pipeline("tiny-octaves")
    pipeline.unet.spread.fill_(-8)
    with open_archive(make(900, 700, base=2)) as archive:
        pyramid = Pyramid(archive, pipeline, RenderOptions(steps=1))
        assert archive.base is not None
        stored = archive.base.read(0, 0, *archive.base.size).astype(np.float32)
        found = means(whole(pyramid, 0), 4)
    h, w = found.shape[:2]
    # chroma is smooth, luminance is not touched
    assert np.abs(found.mean(2) - stored[:h, :w].mean(2)).mean() < 3


def test_parts_without_tissue_are_not_generated(make: Make, pipeline: ZoomLDMPipeline) -> None:
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = True
    with open_archive(make(2048, 2048, base=None, overview=None, mask=mask)) as archive:
        pyramid = Pyramid(archive, pipeline, QUICK)
        pyramid.read(0, 1800, 1800, 200, 200)
        assert pyramid.cost.tiles == 0
        before = pyramid.cost.windows
        pyramid.read(0, 0, 0, 200, 200)
        assert pyramid.cost.tiles == 1
        assert pyramid.cost.windows > before


def test_every_option_counts(make: Make, pipeline: ZoomLDMPipeline) -> None:
    options = [
        QUICK,
        RenderOptions(steps=2, seed=1),
        RenderOptions(steps=3),
        RenderOptions(steps=2, guidance=2),
        RenderOptions(steps=2, start=500),
    ]
    with open_archive(make(512, 512, base=3)) as archive:
        pictures = [whole(Pyramid(archive, pipeline, one), 0) for one in options]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert (one != other).any()


def test_counted_windows_are_those_made(make: Make, pipeline: ZoomLDMPipeline) -> None:
    with open_archive(make(1500, 1100, base=None, overview=None)) as archive:
        for windows in ({0: (300, 200, 512, 300)}, {1: (10, 20, 300, 200)}, {3: (0, 0, 60, 60)}):
            generated_count = 0

            def add(count: int) -> None:
                nonlocal generated_count
                generated_count += count

            with Pyramid(archive, pipeline, QUICK, on_patch=add) as pyramid:
                counts = pyramid.count(windows)
                for level, window in windows.items():
                    pyramid.read(level, *window)
            counted = sum(c.generated for c in counts.values())
            assert generated_count <= counted <= 1.7 * generated_count


def test_another_process_gives_the_same_pixels(
    make: Make, pipeline: ZoomLDMPipeline, tmp_path: Path, elsewhere: Callable[[str], None]
) -> None:
    path = make(700, 600, base=3)
    pipeline.save_pretrained(tmp_path / "pipeline")
    code = f"""
import numpy as np
from zoomldm.archive import open_archive
from zoomldm.pipeline import load_pipeline
from zoomldm.rendering import RenderOptions, latents
from zoomldm.rendering.opening import open_renderer
pipeline = load_pipeline({str(tmp_path / "pipeline")!r})
with open_archive({str(path)!r}) as archive:
    renderer = open_renderer(archive, pipeline, RenderOptions(steps=2))
    np.save({str(tmp_path / "out.npy")!r}, renderer.read(0, 100, 100, 300, 300))
"""
    elsewhere(code)
    with open_archive(path) as archive:
        full = whole(Pyramid(archive, pipeline, QUICK), 0)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), full[100:400, 100:400])


def test_windows_side_by_side_are_those_one_after_another(
    make: Make, pipeline: ZoomLDMPipeline
) -> None:
    before = torch.get_num_threads()
    found = []
    with open_archive(make(700, 600, base=3, overview=None)) as archive:
        for method in ("pyramid", "blended", "cascade"):
            for threads in (1, 3):  # each worker has one: no convolution knows of the others
                torch.set_num_threads(threads)
                options = RenderOptions(steps=2 if method == "pyramid" else 4, method=method)
                with open_renderer(archive, pipeline, options) as renderer:
                    found.append(renderer.read(0, 100, 100, 300, 300))
                    counts = renderer.count({0: (100, 100, 300, 300)})
            torch.set_num_threads(before)
            np.testing.assert_array_equal(*found[-2:])
            assert counts[0].generated > 3


def test_a_pipeline_without_parents_draws_no_pyramid(make: Make) -> None:
    cascade = filled_pipeline("tiny")
    with open_archive(make(512, 512, base=2, digest=cascade.digest("patch_encoder"))) as archive:
        with pytest.raises(PipelineError, match="takes no parent"):
            open_renderer(archive, cascade, RenderOptions(method="pyramid"))
        for method, expected in (("auto", "blended"), ("cascade", "cascade")):
            options = RenderOptions(steps=4, method=method)
            assert open_renderer(archive, cascade, options).provenance()["method"] == expected


@pytest.mark.parametrize(
    ("base", "codec", "solver", "steps"),
    [
        (2, "avif", "dpmsolver++", 3),
        (3, "avif", "dpmsolver++", 3),
        (4, "avif", "dpmsolver++", 6),
        (5, "avif", "dpmsolver++", 6),
        (2, "png", "none", 3),
        (3, "png", "dpmsolver++", 3),
        (None, "", "dpmsolver++", 6),
    ],
)
def test_what_generated_the_pixels_is_on_record(
    make: Make,
    pipeline: ZoomLDMPipeline,
    monkeypatch,
    base: int | None,
    codec: str,
    solver: str,
    steps: int,
) -> None:
    """More evaluations where nothing at 2.5x or finer is known."""
    given = watch_octaves(latents, monkeypatch)
    with (
        open_archive(make(900, 700, base=base, codec=codec, overview=None)) as archive,
        Pyramid(archive, pipeline) as pyramid,
    ):
        whole(pyramid, 0)
        recorded = pyramid.provenance()
    assert (recorded["sampler"], recorded["steps"]) == (solver, steps)
    assert bool(given) == (solver != "none")
    assert any(known.kind != BASE for known in given) == (base is None or base > 2)


def test_a_lossless_base_layer_is_the_latents(make: Make, pipeline: ZoomLDMPipeline) -> None:
    """Nothing was lost, so there is nothing to restore: 20x averaged down is the base layer."""
    with (
        open_archive(make(512, 512, base=2, codec="png")) as archive,
        Pyramid(archive, pipeline, QUICK) as pyramid,
    ):
        fine = whole(pyramid, 0).astype(np.float32).reshape(128, 4, 128, 4, 3).mean((1, 3))
        stored = pyramid.read(2, 0, 0, 128, 128).astype(np.float32)
        grey = (fine.mean(2) - stored.mean(2))[8:-8, 8:-8]
        assert np.abs(grey).mean() < 1
        assert pyramid.cost.windows == 0


@pytest.mark.parametrize(
    ("base", "codec", "quality", "asked", "steps", "expected"),
    [
        (2, "avif", 40, {}, 1, 1),
        (1, "avif", 40, {}, 1, 1),
        (2, "avif", 40, {"steps": 1}, 1, 1),
        (2, "avif", 40, {"steps": 3}, 3, 0),  # recombined, with a texture of its own
        (2, "avif", 40, {"start": 500}, 3, 0),  # no mean of what is possible
        (2, "avif", 40, {"guidance": 2.0, "steps": 1}, 1, 0),
        (2, "avif", 80, {}, 3, 0),  # hardly anything was lost
        (1, "avif", 85, {}, 3, 0),  # nothing that counts at 5x
        (3, "avif", 40, {}, 3, 0),
        (2, "png", 40, {}, 3, 0),
        (None, "", 40, {}, 6, 0),
        (None, "", 40, {"steps": 1}, 1, 0),
    ],
)
def test_a_decoder_that_restores_is_given_the_first_prediction(
    make: Make,
    monkeypatch,
    base: int | None,
    codec: str,
    quality: int,
    asked: dict[str, float],
    steps: int,
    expected: int,
) -> None:
    pipeline = filled_pipeline("tiny-octaves")
    pipeline.vae = vae = restoring(pipeline.vae).eval().requires_grad_(False)
    path = make(300, 300, base=base, codec=codec, quality=quality, overview=None)
    with open_archive(path) as archive:
        assert Pyramid(archive, pipeline).options.steps != 1  # it has not learned to
        assert vae.texture is not None
        torch.nn.init.normal_(vae.texture.weight, std=0.1)
        given = []
        decode = vae.decode
        monkeypatch.setattr(vae, "decode", lambda *a, **k: given.append(k) or decode(*a, **k))
        pyramid = Pyramid(archive, pipeline, RenderOptions(**asked))  # type: ignore[arg-type]
        whole(pyramid, 0)
    assert pyramid.options.steps == pyramid.provenance()["steps"] == steps
    assert {float(k["expected"]) for k in given} == {float(expected)}


def test_texture_has_no_borders_where_tiles_end(make: Make, monkeypatch) -> None:
    """Tiles are decoded with all of the surroundings that texture depends on."""
    pipeline = filled_pipeline("tiny-octaves")
    pipeline.vae = vae = restoring(pipeline.vae).eval().requires_grad_(False)
    assert vae.texture is not None
    torch.nn.init.normal_(vae.texture.weight, std=0.3)
    images = []
    with open_archive(make(600, 600, base=2, overview=None)) as archive:
        for halo in (16, 2):
            monkeypatch.setattr(module, "HALO", halo)
            images.append(whole(Pyramid(archive, pipeline), 0).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
