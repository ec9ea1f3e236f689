"""An archive behind OpenSlide's interface: the same pixels in any order, thread and process."""

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image
from tiny import filled_pipeline

import zoomldm
from zoomldm.archive import open_archive
from zoomldm.archive.base import halve
from zoomldm.caching import Recent
from zoomldm.errors import ArchiveError, PipelineError, SlideError
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering import RenderedSlide, RenderedSlideError, RenderOptions, open_slide

Make = Callable[..., Path]
QUICK = RenderOptions(steps=1)
SIZE = (700, 500)


@pytest.fixture(scope="session")
def pipeline() -> ZoomLDMPipeline:
    """In place of the cascade's: its patch encoder is what archives are made with."""
    return filled_pipeline("tiny-octaves")


@pytest.fixture
def path(make: Make) -> Path:
    return make(*SIZE, base=2)


@pytest.fixture
def slide(path: Path, pipeline: ZoomLDMPipeline) -> Iterator[RenderedSlide]:
    with RenderedSlide(path, pipeline, options=QUICK) as opened:
        yield opened


def pixels(slide: RenderedSlide, x: int, y: int, level: int, w: int, h: int) -> np.ndarray:
    return np.asarray(slide.read_region((x, y), level, (w, h)))


def test_it_describes_itself_as_openslide_does(slide: RenderedSlide) -> None:
    assert isinstance(slide, openslide.AbstractSlide)
    assert slide.dimensions == SIZE == slide.level_dimensions[0]
    assert slide.level_count == len(slide.level_dimensions) == len(slide.level_downsamples) == 8
    assert slide.level_dimensions[3] == (88, 63)
    assert slide.level_downsamples[3] == 8.0
    properties = slide.properties
    assert properties["openslide.mpp-x"] == properties["openslide.mpp-y"] == "0.5"
    assert properties["openslide.objective-power"] == "20"
    assert properties["openslide.vendor"] == "zoomldm"
    assert properties["openslide.level[3].width"] == "88"
    assert float(properties["openslide.level[3].downsample"]) == 8
    assert properties["zoomldm.notice"] == "regenerated, not for diagnosis"
    assert properties["zoomldm.levels-generated"] == "20x 10x"
    assert [properties[f"zoomldm.level[{k}].pixels"] for k in (1, 2)] == ["generated", "real"]
    assert properties["zoomldm.archive-digest"] == slide.archive.digest
    assert properties["zoomldm.pipeline-digest"] == slide.pipeline.digest()
    assert properties["zoomldm.seed"] == "0"
    assert all(isinstance(value, str) for value in properties.values())
    assert slide.color_profile.profile.profile_description.startswith("sRGB")
    assert [slide.get_best_level_for_downsample(d) for d in (0.1, 1, 1.99, 2, 40, 1e9)] == [
        *(0, 0, 0, 1, 5, 7)
    ]


def test_the_identity_of_its_pixels_changes_with_the_seed(
    path: Path, pipeline: ZoomLDMPipeline
) -> None:
    one, same, other = (RenderedSlide(path, pipeline, seed, options=QUICK) for seed in (0, 0, 1))
    mark = "openslide.quickhash-1"
    assert one.properties[mark] == same.properties[mark] != other.properties[mark]
    a, b = (pixels(s, 100, 100, 0, 64, 64) for s in (one, other))
    assert (a != b).any()


def test_coordinates_and_what_lies_outside(slide: RenderedSlide) -> None:
    whole = pixels(slide, 0, 0, 2, *slide.level_dimensions[2])
    assert (whole[..., 3] == 255).all()
    part = pixels(slide, 40, 83, 2, 60, 50)  # level 2's pixel (10, 20) holds (40, 83)
    np.testing.assert_array_equal(part, whole[20:70, 10:70])
    corner = pixels(slide, -8, 480, 2, 10, 10)
    assert (corner[:, :2] == 0).all()
    assert (corner[5:] == 0).all()
    np.testing.assert_array_equal(corner[:5, 2:], whole[120:, :8])
    beyond = pixels(slide, 10**7, -(10**7), 0, 7, 5)
    assert beyond.shape == (5, 7, 4) and (beyond == 0).all()
    assert slide.read_region((0, 0), 0, (0, 5)).size == (0, 5)
    for level in (-1, 8):  # as OpenSlide: nothing there, and no error
        assert (pixels(slide, 0, 0, level, 4, 4) == 0).all()


def test_real_levels_are_the_stored_pixels(slide: RenderedSlide) -> None:
    base = slide.archive.base
    assert base is not None
    for level in (2, 3, 6):
        size = slide.level_dimensions[level]
        found = slide.read_region((0, 0), level, size).convert("RGB")
        np.testing.assert_array_equal(np.asarray(found), base.read_level(level, 0, 0, *size))
    assert slide.cost.windows == slide.cost.tiles == 0
    thumbnail = slide.associated_images["thumbnail"]
    assert (thumbnail.mode, thumbnail.size) == ("RGBA", slide.level_dimensions[2])
    assert list(slide.associated_images) == ["thumbnail"]
    assert slide.get_thumbnail((100, 100)).size == (100, 71)
    with pytest.raises(KeyError):
        slide.associated_images["label"]


def test_10x_is_20x_averaged_down(slide: RenderedSlide) -> None:
    fine, coarse = pixels(slide, 64, 32, 0, 512, 256), pixels(slide, 64, 32, 1, 256, 128)
    averaged = halve(np.ascontiguousarray(fine[..., :3]), 1).astype(int)
    assert np.abs(averaged - coarse[..., :3]).max() <= 1


def test_a_region_is_the_same_from_eight_threads_and_another_process(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path, elsewhere: Callable[[str], None]
) -> None:
    pipeline.save_pretrained(tmp_path / "pipeline")
    name = str(tmp_path / "pipeline")
    with RenderedSlide(path, name, options=QUICK) as slide:
        full = pixels(slide, 0, 0, 0, *SIZE)
        whole = slide.cost
        again = pixels(slide, 0, 0, 0, *SIZE)
        np.testing.assert_array_equal(again, full)
        assert slide.cost == whole  # kept: nothing was made twice
        (tmp_path / "slide.pickle").write_bytes(pickle.dumps(slide))
    boxes = [(150 * (i % 4), 240 * (i // 4), 200, 260) for i in range(8)]
    found: dict[int, np.ndarray] = {}
    with RenderedSlide(path, name, options=QUICK) as slide:
        start = threading.Barrier(8)

        def read(index: int) -> None:
            start.wait()
            x, y, w, h = boxes[index]
            found[index] = pixels(slide, x, y, 0, w, h)

        threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert slide.cost == whole  # what two asked for was made once
        assert slide.pipeline is RenderedSlide(path, name).pipeline  # weights are shared
    for index, (x, y, w, h) in enumerate(boxes):
        cut = full[y : y + h, x : x + w]
        np.testing.assert_array_equal(found[index][: cut.shape[0], : cut.shape[1]], cut)
    code = f"""
import pickle
import numpy as np
from pathlib import Path
slide = pickle.loads(Path({str(tmp_path / "slide.pickle")!r}).read_bytes())
np.save({str(tmp_path / "out.npy")!r}, slide.read_region((300, 200), 0, (90, 70)))
"""
    elsewhere(code)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), full[200:270, 300:390])


def test_a_pickle_refuses_another_pipeline(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path / "pipeline")
    with RenderedSlide(path, tmp_path / "pipeline") as slide:
        data = pickle.dumps(slide)
    other = filled_pipeline("tiny-octaves")
    other.unet.spread.add_(1)
    other.save_pretrained(tmp_path / "pipeline")
    with pytest.raises(RenderedSlideError, match="give both the same"):
        pickle.loads(data)


def test_what_is_kept_is_had_while_the_networks_run(slide: RenderedSlide) -> None:
    full = pixels(slide, 0, 0, 0, 256, 256)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with slide._open()._lock:  # type: ignore[attr-defined]
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    result: list[np.ndarray] = []
    reader = threading.Thread(
        target=lambda: result.extend([pixels(slide, 9, 9, 0, 99, 99), pixels(slide, 0, 0, 5, 9, 9)])
    )
    reader.start()
    reader.join(60)
    done.set()
    thread.join()
    np.testing.assert_array_equal(result[0], full[9:108, 9:108])


def test_the_size_of_a_batch_changes_a_pixel_by_1_at_most(
    path: Path, pipeline: ZoomLDMPipeline
) -> None:
    one, three = (
        pixels(
            RenderedSlide(path, pipeline, options=RenderOptions(steps=1, batch=batch)),
            *(120, 60, 0, 300, 300),
        ).astype(int)
        for batch in (1, 3)
    )
    assert np.abs(one - three).max() <= 1


def test_deepzoom_reads_it(slide: RenderedSlide) -> None:
    zoom = DeepZoomGenerator(slide, tile_size=254, overlap=1)
    assert zoom.level_dimensions[-1] == SIZE
    tile = zoom.get_tile(zoom.level_count - 1, (1, 1))
    assert tile.size == (256, 247)
    expected = slide.read_region((253, 253), 0, (256, 247)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(tile), np.asarray(expected))
    assert zoom.get_tile(0, (0, 0)).size == (1, 1)
    assert Image.new("RGB", zoom.level_dimensions[7]).size == zoom.get_tile(7, (0, 0)).size


def test_a_cache_may_be_shared_and_is_bounded(path: Path, pipeline: ZoomLDMPipeline) -> None:
    memory: Recent = Recent(2 << 20)
    slides = [RenderedSlide(path, pipeline, options=QUICK) for _ in range(2)]
    for slide in slides:
        slide.set_cache(memory)
    pixels(slides[0], 0, 0, 0, 256, 256)
    pixels(slides[1], 0, 0, 0, 256, 256)
    assert slides[1].cost.windows == 0
    full = pixels(slides[0], 0, 0, 0, *SIZE)
    assert memory.bytes <= 2 << 20
    slides[0].set_cache(openslide.OpenSlideCache(1 << 20))
    np.testing.assert_array_equal(pixels(slides[0], 0, 0, 0, *SIZE), full)
    with pytest.raises(TypeError, match="Not a cache object"):
        slides[0].set_cache(3)  # type: ignore[arg-type]


def test_a_folder_keeps_what_was_made(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    pytest.importorskip("diskcache")
    folder = tmp_path / "cache"
    with RenderedSlide(path, pipeline, options=QUICK, cache_dir=folder) as slide:
        generated = pixels(slide, 0, 0, 0, 300, 256)
    with RenderedSlide(path, pipeline, options=QUICK, cache_dir=folder) as slide:
        np.testing.assert_array_equal(pixels(slide, 0, 0, 0, 300, 256), generated)
        assert slide.cost.windows == slide.cost.tiles == 0
        other = pickle.loads(pickle.dumps(slide))
        np.testing.assert_array_equal(pixels(other, 0, 0, 0, 300, 256), generated)
        assert other.cost.windows == 0
    with RenderedSlide(path, pipeline, seed=1, options=QUICK, cache_dir=folder) as slide:
        assert (pixels(slide, 0, 0, 0, 300, 256) != generated).any()
        assert slide.cost.windows > 0


def test_what_can_t_be_read(slide: RenderedSlide, path: Path) -> None:
    with pytest.raises(openslide.OpenSlideError, match=r"-1 x 3 px; expected 0 or more"):
        slide.read_region((0, 0), 0, (-1, 3))
    slide.close()
    slide.close()
    for use in (
        lambda: slide.read_region((0, 0), 0, (1, 1)),
        lambda: slide.set_cache(Recent(1)),
        lambda: slide.associated_images,
        lambda: pickle.dumps(slide),
    ):
        with pytest.raises(RenderedSlideError, match="was closed; open it again"):
            use()
    with open_archive(path) as archive, RenderedSlide(archive, slide.pipeline) as other:
        other.close()
        assert archive.mask.any()  # opened by the caller, and so left open


def test_open_slide_takes_archives_and_slides(
    path: Path, pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    assert zoomldm.open_slide is open_slide
    with open_slide(path, pipeline, seed=3, options=QUICK) as slide:
        assert isinstance(slide, RenderedSlide)
        assert slide.properties["zoomldm.seed"] == "3"
    assert RenderedSlide.detect_format(str(path)) == "zoomldm"
    plain = tmp_path / "plain.tif"
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 64, 3), np.uint8)
    tifffile.imwrite(plain, picture, tile=(64, 64), photometric="rgb", compression="deflate")
    with open_slide(plain) as slide:
        assert isinstance(slide, openslide.OpenSlide)
        found = slide.read_region((0, 0), 0, (64, 64)).convert("RGB")
        np.testing.assert_array_equal(np.asarray(found), picture)
    assert RenderedSlide.detect_format(plain) is None
    (tmp_path / "no.zldm").write_bytes(b"no archive")
    with pytest.raises(ArchiveError, match=r"is not a \.zldm archive"):
        open_slide(tmp_path / "no.zldm")
    with pytest.raises(PipelineError, match="no such directory"):
        open_slide(path, "nowhere")
    with pytest.raises(SlideError, match="no such file"):
        open_slide(tmp_path / "absent.svs")
    (tmp_path / "text.svs").write_text("text")
    with pytest.raises(SlideError, match=r"neither a \.zldm archive nor a slide"):
        open_slide(tmp_path / "text.svs")
