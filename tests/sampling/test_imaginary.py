"""Imaginary slides: drawn when looked at, the same in any order and any process."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import filled_pipeline, watch_octaves
from training.archives import make_archive

import zoomldm
from zoomldm.archive import open_archive, verify_archive, write_archive
from zoomldm.cli.info import imaginary
from zoomldm.errors import ArchiveError, ConfigError, PipelineError, TargetError
from zoomldm.features.sources import summarizer_features, tile_features
from zoomldm.generation.imagined import ImaginedContexts, quarter_of
from zoomldm.generation.octaves import ALONE_NOISE, IMAGINED_NOISE, PARENT_NOISE
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import level_size
from zoomldm.networks.octave_denoiser import PARENT
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.rendering import latents
from zoomldm.rendering.exports import DecompressOptions, decompress
from zoomldm.rendering.opening import open_renderer
from zoomldm.rendering.slide import RenderedSlide
from zoomldm.sampling.imaginary import SlideOptions, sample_slide, tissue_of

SMALL = SlideOptions(size=(4.4, 0.9), steps=2, finer_steps=1)
QUICK = RenderOptions(steps=1)


@pytest.fixture(scope="module")
def octaves() -> ZoomLDMPipeline:
    return filled_pipeline("tiny-octaves")


@pytest.fixture(scope="module")
def slide(octaves: ZoomLDMPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imaginary") / "new.zldm"
    report = sample_slide(path, SMALL, pipeline=octaves)
    assert report.size == (35 * 256, 8 * 256) and report.origin == "generated"
    assert 0 < report.tissue_tiles <= report.tiles == 35 * 8
    assert report.levels_drawn == ("0.625x", "0.3125x")
    return path


def test_it_is_an_archive_that_says_what_it_is(slide: Path, octaves: ZoomLDMPipeline) -> None:
    assert not verify_archive(slide)
    with open_archive(slide) as archive:
        assert archive.generated and archive.manifest.version == "3.1"
        metadata = imaginary(archive.manifest)
        assert metadata and (metadata["seed"], metadata["steps"], metadata["like"]) == (0, 2, None)
        with pytest.raises(ArchiveError, match="imaginary slide, which has no embeddings"):
            archive.grid(0, 0, 0)
    with RenderedSlide(slide, octaves) as opened:
        assert opened.properties["zoomldm.levels-real"] == ""
        assert "wholly generated" in opened.properties["zoomldm.notice"]
        assert json.loads(opened.properties["zoomldm.imaginary"])["seed"] == 0
        assert opened.get_thumbnail((64, 64)).size[0] == 64


def test_a_region_is_the_same_alone_and_in_any_order(slide: Path, octaves: ZoomLDMPipeline) -> None:
    with open_archive(slide) as archive:
        with open_renderer(archive, octaves, QUICK) as renderer:
            one = renderer.read(0, 600, 500, 100, 80)
            coarse = renderer.read(4, 0, 0, *renderer.size(4))
        with open_renderer(archive, octaves, QUICK) as renderer:
            np.testing.assert_array_equal(renderer.read(4, 0, 0, *renderer.size(4)), coarse)
            around = renderer.read(0, 560, 460, 160, 140)
            np.testing.assert_array_equal(around[40:120, 40:140], one)
        assert archive.base
        other = RenderOptions(steps=1, seed=1)
        with open_renderer(archive, octaves, other) as renderer:  # finer levels alone differ
            assert (renderer.read(0, 600, 500, 100, 80) != one).any()
            np.testing.assert_array_equal(
                renderer.read(7, 0, 0, 70, 16), archive.base.read(0, 0, 70, 16)
            )


def test_parents_have_noise_where_nothing_is_stored(
    slide: Path, octaves: ZoomLDMPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held to a parent that was drawn apart from its context, images show squares."""
    bare = make_archive(tmp_path / "a.zldm", octaves, levels=())
    stored = tmp_path / "b.zldm"
    with open_archive(bare) as archive:
        cells = np.argwhere(archive.mask)
        header, rows = archive.manifest, archive.embeddings_of(*cells.T)
        coarse = np.full((*reversed(level_size(*archive.size, 4)), 3), 200, np.uint8)
        zeros = np.zeros(rows.shape[1])
        write_archive(stored, header, cells, rows, zeros, base=(4, coarse), base_codec="png")
    given = watch_octaves(latents, monkeypatch)
    for path, noise in ((slide, IMAGINED_NOISE), (bare, ALONE_NOISE), (stored, PARENT_NOISE)):
        given.clear()
        with open_archive(path) as archive, open_renderer(archive, octaves, QUICK) as renderer:
            renderer.read(0, 600, 500, 100, 80)
        assert {known.degradation for known in given if known.kind == PARENT} == {noise}


def test_another_process_draws_the_same(
    slide: Path, octaves: ZoomLDMPipeline, tmp_path: Path, elsewhere: Callable[[str], None]
) -> None:
    octaves.save_pretrained(str(tmp_path / "pipeline"))
    with RenderedSlide(slide, str(tmp_path / "pipeline"), options=QUICK) as opened:
        here = np.array(opened.read_region((512, 512), 4, (48, 48)))
        np.testing.assert_array_equal(
            np.array(pickle.loads(pickle.dumps(opened)).read_region((512, 512), 4, (48, 48))), here
        )
    elsewhere(f"""
import numpy as np
from zoomldm.generation.options import RenderOptions
from zoomldm.rendering.slide import RenderedSlide
pipeline = {str(tmp_path / "pipeline")!r}
with RenderedSlide({str(slide)!r}, pipeline, options=RenderOptions(steps=1)) as opened:
    pixels = np.array(opened.read_region((512, 512), 4, (48, 48)))
np.save({str(tmp_path / "there.npy")!r}, pixels)
""")
    np.testing.assert_array_equal(np.load(tmp_path / "there.npy"), here)


def test_the_same_seed_is_the_same_file_and_another_is_not(
    slide: Path, octaves: ZoomLDMPipeline, tmp_path: Path
) -> None:
    again = sample_slide(tmp_path / "new.zldm", SMALL, pipeline=octaves)
    assert Path(again.output).read_bytes() == slide.read_bytes()
    other = SlideOptions(size=SMALL.size, steps=2, finer_steps=1, seed=1)
    sample_slide(tmp_path / "other.zldm", other, pipeline=octaves)
    with open_archive(slide) as a, open_archive(tmp_path / "other.zldm") as b:
        assert a.base and b.base
        assert (a.base.read(0, 0, 70, 16) != b.base.read(0, 0, 70, 16)).any()


def test_a_run_that_was_broken_off_goes_on(
    slide: Path, octaves: ZoomLDMPipeline, tmp_path: Path
) -> None:
    counts: list[int] = []

    def broken(what: str, done: int, total: int) -> None:
        if what == "coarse image":
            counts.append(done)
        if counts == [1, 2]:
            raise KeyboardInterrupt

    target = tmp_path / "new.zldm"
    with pytest.raises(KeyboardInterrupt):
        sample_slide(target, SMALL, pipeline=octaves, progress=broken)
    assert not target.exists() and (tmp_path / "new.zldm.drawn.part").is_dir()
    with pytest.raises(TargetError, match="unfinished export with other options"):
        sample_slide(target, SlideOptions(size=SMALL.size, steps=3), pipeline=octaves)
    counts.clear()
    sample_slide(target, SMALL, pipeline=octaves, progress=broken)
    assert target.read_bytes() == slide.read_bytes()
    assert counts == [1]  # of 1 and 2 windows two were found again
    assert [p.name for p in tmp_path.iterdir()] == ["new.zldm"]


def test_a_child_lies_where_its_parent_shows_it() -> None:
    """Tokens that say where they are: those cut out say where the child's quarter is."""
    place = torch.stack(torch.meshgrid(*[torch.arange(8.0)] * 2, indexing="ij"), -1).flatten(0, 1)
    for key, first in (((0, 0), (0, 0)), ((3, 2), (3.5, 0)), ((2, 5), (0, 3.5))):
        cut = quarter_of(place, key).reshape(4, 4, 2)
        assert cut[0, 0].tolist() == list(first)
        assert cut[3, 3].tolist() == [first[0] + 3, first[1] + 3]


def test_contexts_do_not_depend_on_what_was_drawn_before(
    slide: Path, octaves: ZoomLDMPipeline
) -> None:
    with open_archive(slide) as archive:
        spec = archive.manifest.generated
        assert spec
    one, two = (ImaginedContexts(spec, octaves, batch) for batch in (1, 1))
    keys = [(0, 0), (0, 1), (3, 5)]
    together = one.windows(2, keys)
    for place in (2, 0, 1):
        assert torch.equal(two.windows(2, [keys[place]])[0], together[place])
    assert torch.equal(one.patch(2, 0, 0), together[0])
    # tokens 8 to 15 of a row of patches: seven of the second window, then one of the third
    across = one.patch(2, 0, 1).reshape(8, 8, -1)
    windows = one.windows(2, [(0, 1), (0, 2)]).reshape(2, 8, 8, -1)
    assert torch.equal(across[:, :7], windows[0, :, 1:])
    assert torch.equal(across[:, 7], windows[1, :, 1])
    assert not torch.equal(together[0], one.windows(1, [(0, 0)])[0])


def test_features_and_exports(slide: Path, octaves: ZoomLDMPipeline, tmp_path: Path) -> None:
    with open_archive(slide) as archive:
        found = summarizer_features(archive, octaves, 7)
        assert found.values.shape == (64, 32) and np.isfinite(found.values).all()
        with pytest.raises(ArchiveError, match="has no embeddings"):
            tile_features(archive)
    options = DecompressOptions(region=(512, 512, 512, 512), level=2, steps=1)
    report = decompress(slide, tmp_path / "a.png", options, pipeline=octaves)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (128, 128)
    assert report.provenance["levels_real"] == [] and report.provenance["imaginary"]["seed"] == 0


def test_like_an_archive_and_a_label(slide: Path, octaves: ZoomLDMPipeline, tmp_path: Path) -> None:
    like = zoomldm.SlideOptions(size=(0.5, 0.5), steps=1, like=str(slide))
    with pytest.raises(ArchiveError, match="has no embeddings"):
        sample_slide(tmp_path / "b.zldm", like, pipeline=octaves)
    tile = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    Image.fromarray(tile).save(tmp_path / "tile.png")
    like = SlideOptions(size=SMALL.size, steps=2, like=str(tmp_path / "tile.png"))
    report = sample_slide(tmp_path / "c.zldm", like, pipeline=octaves)
    assert report.guidance == 4 and report.like and report.like["picture"] == "tile.png"
    with open_archive(report.output) as archive, open_archive(slide) as plain:
        spec = archive.manifest.generated
        assert spec and spec.reference
        np.testing.assert_allclose(
            spec.reference.embedding, octaves.encode_tiles(tile[None])[0], rtol=1e-6
        )
        assert archive.base and plain.base
        assert (archive.base.read(0, 0, 70, 16) != plain.base.read(0, 0, 70, 16)).any()


def test_tissue_is_where_colour_is() -> None:
    shown = np.full((6, 9, 3), 240, np.uint8)
    shown[2, 4] = 200, 120, 180
    mask, threshold = tissue_of(shown, (3, 5))
    assert np.argwhere(mask).tolist() == [[1, 2]] and 12 <= threshold <= 40


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"size": (0, 3)}, "size 0x3 mm: expected width and height in mm"),
        ({"size": (129, 129)}, "is of 1,016,064 tiles; expected 1,000,000 at most"),
        ({"steps": 0}, "steps is 0"),
        ({"finer_steps": 1001}, "finer steps is 1001"),
        ({"guidance": -1}, "guidance is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_refused(options: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        SlideOptions(**options)


def test_refused(slide: Path, octaves: ZoomLDMPipeline, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"ending in \.zldm"):
        sample_slide(tmp_path / "new.tif", SMALL, pipeline=octaves)
    with pytest.raises(PipelineError, match="needs one of octaves"):
        sample_slide(tmp_path / "a.zldm", SMALL, pipeline=build_pipeline("tiny"))
    with pytest.raises(ConfigError, match=r"'benign'.*it knows none"):
        sample_slide(tmp_path / "a.zldm", SlideOptions(label="benign"), pipeline=octaves)
    with pytest.raises(ArchiveError, match="give the pipeline that it was sampled with"):
        RenderedSlide(slide, build_pipeline("tiny-octaves", seed=0))
    with open_archive(slide) as archive, pytest.raises(ArchiveError, match="only the pyramid"):
        open_renderer(archive, octaves, RenderOptions(method="cascade"))
    assert not list(tmp_path.iterdir())
