"""The cache of training pictures: right pixels, whole or absent, made once."""

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import paint_slide

from zoomldm.data import slide_patches as tiles
from zoomldm.data.slide_patches import SlidePatches, cache_tiles, patch_starts
from zoomldm.errors import DamagedError, SlideError
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.withheld import withheld_block
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_slide(tmp_path_factory.mktemp("slides") / "s.tif", 1500, 1300, 0.5, tissue=0.8)


def test_cached_pictures_are_the_slide(slide: Path, tmp_path: Path) -> None:
    cache_tiles([slide], tmp_path / "cache")
    store = SlidePatches(tmp_path / "cache", ["s.tif"])
    with open_slide(slide) as opened:
        mask = find_tissue(opened).mask
        for i in [0, len(store) // 2, len(store) - 1]:
            level = int(store.level[i])
            y, x = (int(v * 256 / 2**level) for v in store.start[i])
            expected = opened.read(level, x, y, 256, 256)
            np.testing.assert_array_equal(store.read(i), expected)
    counts = [len(store.at_level(k)) for k in range(8)]
    assert counts == [len(patch_starts(mask, k)) for k in range(8)]
    assert counts[0] == mask.sum() - withheld_block(mask).sum()
    beside = store.neighbours()
    moved = np.nonzero(beside != np.arange(len(store)))[0]
    assert len(moved)
    gaps = np.abs(store.start[moved] - store.start[beside[moved]]).sum(1)
    np.testing.assert_array_equal(gaps, 2.0 ** store.level[moved])


@pytest.mark.parametrize("level", range(8))
def test_starts(level: int) -> None:
    rng = np.random.default_rng(level)
    mask = rng.random((40, 50)) < 0.6
    block = withheld_block(mask)
    starts = patch_starts(mask, level)
    assert len(starts)
    rows, cols = starts.T * 2**level / 256
    assert (rows % 1 == 0).all() and (cols % 1 == 0).all()
    rows, cols = rows.astype(int), cols.astype(int)
    tissue = tiles_within(mask, rows, cols, 2**level)
    hidden = tiles_within(block, rows, cols, 2**level)
    assert (tissue >= max(1, 0.05 * 4**level)).all()
    assert (hidden <= (0 if level < 4 else tissue / 4)).all()


def test_cached_slide_is_not_read_again(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_tiles([slide], tmp_path / "cache")
    monkeypatch.setattr(tiles, "_cache_slide", lambda *_: pytest.fail("read again"))
    cache_tiles([slide], tmp_path / "cache")


def test_another_slide_of_that_name_and_size_is_read(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "cache" / "s.tif.json"
    done.parent.mkdir()
    read = []
    monkeypatch.setattr(
        tiles,
        "_cache_slide",
        lambda slide, folder, withheld_fraction, metadata: (
            read.append(slide.path),
            done.write_text(json.dumps(metadata)),
            done.with_suffix(".npy").touch(),
        ),
    )
    other = tmp_path / "s.tif"
    content = slide.read_bytes()
    at = len(content) // 2  # of a tile, which isn't looked at here
    other.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    for path in (slide, slide, other):
        cache_tiles([path], tmp_path / "cache")
    assert read == [slide, other]


def test_broken_off_cache_is_made_again(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, written = tmp_path / "cache", json.dumps

    def broken(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(tiles.json, "dumps", broken)
    with pytest.raises(KeyboardInterrupt):
        cache_tiles([slide], cache)
    assert [p.name for p in cache.iterdir()] == ["s.tif.npy"]
    monkeypatch.setattr(tiles.json, "dumps", written)
    cache_tiles([slide], cache)
    assert len(SlidePatches(cache, ["s.tif"]))


def test_pair_that_does_not_belong_together(slide: Path, tmp_path: Path) -> None:
    cache_tiles([slide], tmp_path / "cache")
    metadata = json.loads((tmp_path / "cache" / "s.tif.json").read_text())
    metadata["rows"].pop()
    (tmp_path / "cache" / "s.tif.json").write_text(json.dumps(metadata))
    with pytest.raises(DamagedError, match=r"s\.tif\.npy: holds .* remove both"):
        SlidePatches(tmp_path / "cache", ["s.tif"])


def test_not_a_slide(tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"no slide")
    with pytest.raises(SlideError, match=r"bad\.svs: not a slide"):
        cache_tiles([bad], tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
