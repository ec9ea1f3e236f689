"""Transplants and interpolations: archives as any other, which say what was done."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archive.making import forge
from bucket import Bucket

from zoomldm.archive import open_archive, verify_archive
from zoomldm.archive.quantise import cosines
from zoomldm.editing.edit import EditOptions, edit, interpolated
from zoomldm.editing.places import Place, parse_interpolation, parse_place
from zoomldm.errors import ArchiveError, ConfigError, RegionError, TargetError, ZoomLDMError
from zoomldm.generation.options import RenderOptions
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering.pyramid import Pyramid

Make = Callable[..., Path]
REGION = (512, 256, 512, 768)  # tiles: rows 1 to 3, columns 2 and 3


def transplant(other: Path, x: int = 256, y: int = 0, **more) -> EditOptions:
    return EditOptions(replace=REGION, source=Place(other, x, y), **more)


@pytest.mark.parametrize("precision", ["int8", "float16", "compact"])
def test_tiles_take_the_place_of_others(make: Make, tmp_path: Path, precision: str) -> None:
    a, b = make("a.zldm", precision=precision), make("b.zldm", 200)
    report = edit(a, tmp_path / "c.zldm", transplant(b))
    with open_archive(a) as old, open_archive(b) as source, open_archive(report.output) as new:
        tissue = old.mask
        tissue[1:4, 2:4] = source.mask[0:3, 1:3]
        np.testing.assert_array_equal(new.mask, tissue)
        expected = old.embeddings(0, old.rows, 0, old.cols)
        expected[1:4, 2:4] = source.embeddings(0, 3, 1, 3)
        found = new.embeddings(0, new.rows, 0, new.cols)
        assert cosines(found[tissue], expected[tissue]).min() >= 0.999
        np.testing.assert_array_equal(found[1, 2], old.background)
        (done,) = new.manifest.edits
        assert (done.kind, done.region) == ("transplant", REGION)
        assert (done.origins[0].digest, done.origins[0].x) == (source.digest, 256)
        assert new.manifest.slide.content is None  # it is not that slide any more
        assert new.manifest.version in ("1.3", "2.1")
    assert report.tissue_tiles == (30, 28) and not verify_archive(Path(report.output))


def test_the_base_layer_is_real_pixels_of_both(make: Make, tmp_path: Path) -> None:
    a, b = make("a.zldm", 120, (9000, 1300)), make("b.zldm", 200)
    report = edit(a, tmp_path / "c.zldm", transplant(b, y=256))
    assert report.base_level == "5x" and report.base_chunks == (3, 1)
    with open_archive(a) as old, open_archive(report.output) as new:
        assert old.base and new.base
        expected = old.base.read(0, 0, *old.base.size)
        expected[64:256, 128:256] = 200
        np.testing.assert_array_equal(new.base.read(0, 0, *new.base.size), expected)
        assert new.base_file(0, 2) == old.base_file(0, 2)  # far off: not coded once more


def test_the_glass_keeps_its_colour(make: Make, tmp_path: Path) -> None:
    def colour(root: dict) -> None:
        root["attributes"]["base"]["background"] = [236, 233, 240]

    a = forge(make("a.zldm", 120), tmp_path / "glass.zldm", root=colour)
    report = edit(a, tmp_path / "c.zldm", transplant(make("b.zldm", 200), y=256))
    with open_archive(report.output) as new:
        assert new.base and new.base.background == (236, 233, 240)
        assert new.manifest.version in ("1.4", "2.2")


@pytest.mark.parametrize(
    ("other", "options", "told"),
    [
        ({"base": 3}, {}, "dropped: it is 5x png, that of b.zldm is 2.5x png"),
        ({"codec": "jpeg"}, {}, "dropped: it is 5x png, that of b.zldm is 5x jpeg"),
        ({"base": None}, {}, "dropped: b.zldm has none in chunks"),
        ({}, {"base": "none"}, "dropped, as asked"),
    ],
)
def test_a_base_layer_that_is_dropped(
    make: Make, tmp_path: Path, other: dict, options: dict, told: str
) -> None:
    report = edit(
        make("a.zldm"), tmp_path / "c.zldm", transplant(make("b.zldm", 200, **other), **options)
    )
    assert (report.edit["base"], report.base_level) == (told, None)


def test_an_edit_of_an_edit_remembers_both(make: Make, tmp_path: Path) -> None:
    a = make("a.zldm")
    one = edit(a, tmp_path / "b.zldm", transplant(a, 0, 256)).output
    two = edit(one, tmp_path / "c.zldm", EditOptions((0, 0, 256, 256), Place(None, 256, 512)))
    with open_archive(two.output) as new:
        assert [e.origins[0].archive for e in new.manifest.edits] == ["a.zldm", "b.zldm"]
        assert new.mask[0, 0]


def test_what_lies_far_off_is_drawn_as_before(
    make: Make, tmp_path: Path, pipeline: ZoomLDMPipeline, elsewhere: Callable[[str], None]
) -> None:
    """And what is near is drawn anew; the result opens as any archive, and says what it is."""
    a, b = make("a.zldm", base=None, precision="float16"), make("b.zldm", 200, base=None)
    out = edit(a, tmp_path / "c.zldm", EditOptions((0, 256, 256, 256), Place(b, 0, 512))).output
    pictures = []
    for path in (a, out):
        with (
            open_archive(path) as archive,
            Pyramid(archive, pipeline, RenderOptions(steps=1)) as pyramid,
        ):
            pictures.append(pyramid.read(2, 0, 0, *pyramid.size(2)).astype(int))
            assert ("edits" in pyramid.provenance()) == (path != a)
    difference = np.abs(pictures[0] - pictures[1]).max(2)
    assert difference[64:128, :64].any()
    elsewhere(f"import zoomldm; assert zoomldm.open_archive({str(out)!r}).mask.sum() == 30")


def test_a_strip_leads_from_one_place_to_the_other(make: Make, tmp_path: Path) -> None:
    a, b = make("a.zldm", precision="float16"), make("b.zldm", 200)
    ends = Place(None, 0, 256), Place(b, 256, 512)
    report = edit(a, tmp_path / "s.zldm", EditOptions(between=ends, steps=5, side=2))
    assert report.size == (5 * 2 * 256, 2 * 256) and report.base_level is None
    to_a, to_b = np.transpose(report.cosines)
    assert (np.diff(to_a) < 0).all() and (np.diff(to_b) > 0).all()
    assert to_a[0] == to_b[-1] == 1 and to_a[2] == pytest.approx(to_b[2], abs=0.05)
    with open_archive(a) as first, open_archive(b) as last, open_archive(report.output) as strip:
        values = strip.embeddings(0, 2, 0, 10)
        np.testing.assert_allclose(values[:, :2], first.embeddings(1, 3, 0, 2), rtol=2e-3)
        np.testing.assert_allclose(values[:, 8:], last.embeddings(2, 4, 1, 3), rtol=2e-3, atol=1e-3)


def test_directions_turn_evenly() -> None:
    a, b = np.array([2.0, 0], np.float32), np.array([0, 4.0], np.float32)
    third = interpolated(a, b, 1 / 3)
    assert np.degrees(np.arctan2(third[1], third[0])) == pytest.approx(30)
    assert np.linalg.norm(third) == pytest.approx(2 + 2 / 3)
    np.testing.assert_allclose(interpolated(a, 3 * a, 0.5), [4, 0])


def test_places_as_they_are_written() -> None:
    assert parse_place("1,2") == Place(None, 1, 2)
    assert parse_place("x@y.zldm@1,2") == Place(Path("x@y.zldm"), 1, 2)
    assert parse_interpolation("0,256,b,c.zldm@3,4,9") == (
        Place(None, 0, 256),
        Place(Path("b,c.zldm"), 3, 4),
        9,
    )
    for text in ("1", "a.zldm", "a.zldm@1", "1,2,3"):
        with pytest.raises(ConfigError, match="expected ARCHIVE@X,Y"):
            parse_place(text)
    with pytest.raises(ConfigError, match="A,B,STEPS"):
        parse_interpolation("1,2,3,4")


@pytest.mark.parametrize(
    ("options", "kind", "line"),
    [
        ({"replace": (10, 0, 256, 256)}, RegionError, "multiples of 256, such as 0,0,256,256"),
        ({"replace": (0, 0, 2048, 256)}, RegionError, "is not inside .*a.zldm, whose tiles reach"),
        ({"replace": (0, 0, 256, 0)}, RegionError, "is not inside"),
        ({"source": Place(None, 1280, 0)}, RegionError, "a.zldm@ 1280,0,512,768 is not inside"),
        ({"source": Place(Path("other.zldm"), 0, 0)}, ArchiveError, "compress both with one"),
        ({"source": Place(Path("none.zldm"), 0, 0)}, ZoomLDMError, "none.zldm"),
    ],
)
def test_refused(make: Make, tmp_path, monkeypatch, options: dict, kind: type, line: str) -> None:
    a = make("a.zldm")
    make("other.zldm", digest="0" * 64)
    monkeypatch.chdir(tmp_path)
    given = EditOptions(**{"replace": REGION, "source": Place(None, 0, 0)} | options)
    with pytest.raises(kind, match=line):
        edit(a, tmp_path / "c.zldm", given)
    assert not (tmp_path / "c.zldm").exists()


def test_targets_and_options_refused(make: Make, tmp_path: Path) -> None:
    a = make("a.zldm")
    with pytest.raises(TargetError, match="is read here"):
        edit(a, a, transplant(a, 0, 256))
    with pytest.raises(TargetError, match=r"ending in \.zldm"):
        edit(a, tmp_path / "c.tif", transplant(a, 0, 256))
    with pytest.raises(RegionError, match="no tissue"):
        ends = Place(None, 0, 0), Place(None, 0, 256)
        edit(a, tmp_path / "c.zldm", EditOptions(between=ends, side=1))
    place = Place(None, 0, 0)
    for bad in (
        {},
        {"replace": REGION},
        {"replace": REGION, "source": place, "between": (place, place)},
        {"between": (place, place), "steps": 1},
        {"between": (place, place), "side": 0},
    ):
        with pytest.raises(ConfigError):
            EditOptions(**bad)


def test_archives_by_url(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    bucket = Bucket()
    try:
        a, b = make("a.zldm"), make("b.zldm", 200)
        bucket.files["slides/a.zldm"] = a.read_bytes()
        bucket.files["slides/b.zldm"] = b.read_bytes()
        place = parse_place(f"{bucket.url}/slides/b.zldm@256,0")
        there = edit(f"{bucket.url}/slides/a.zldm", tmp_path / "c.zldm", EditOptions(REGION, place))
        here = edit(a, tmp_path / "d.zldm", transplant(b))
        assert Path(there.output).read_bytes() == Path(here.output).read_bytes()
        assert there.archive.startswith("http://")
        ends = parse_interpolation(f"0,256,{bucket.url}/slides/b.zldm@256,512,3")
        strip = EditOptions(between=ends[:2], steps=ends[2], side=2)
        assert edit(a, tmp_path / "s.zldm", strip).edit["origins"][1]["archive"] == "b.zldm"
    finally:
        bucket.close()
