"""Blocks, the journal, going on after an end, several processes."""

import errno
import os
from pathlib import Path

import pytest
from painted import Painted, content, write

from zoomldm.errors import ConfigError, TargetError
from zoomldm.writers.deepzoom import DeepZoom
from zoomldm.writers.export import runs_of
from zoomldm.writers.journal import NAME, Journal
from zoomldm.writers.omezarr import OmeZarr
from zoomldm.writers.registry import writer_for
from zoomldm.writers.tiff import Tiff
from zoomldm.writers.writer import Writer

SIZE = 2300, 2500, 4
FORMATS: list[tuple[str, Writer]] = [
    ("a.tif", Tiff()),
    ("a.zarr", OmeZarr()),
    ("a.dzi", DeepZoom()),
]


def test_blocks_hold_every_tile_once() -> None:
    image = Painted(*SIZE).image
    seen = [
        (part.level, part.row + r, part.col + c)
        for index in range(image.block_count)
        for part in image.block(index).parts
        for r in range(part.rows)
        for c in range(part.cols)
    ]
    grids = [level.grid for level in image.levels]
    wanted = [
        (k, r, c) for k, (rows, cols) in enumerate(grids) for r in range(rows) for c in range(cols)
    ]
    assert sorted(seen) == wanted
    with pytest.raises(IndexError):
        image.block(image.block_count)


def test_runs_are_in_order_and_of_like_weight() -> None:
    weights = [1, 1, 8, 1, 1, 8, 1, 1, 1, 1]
    runs = runs_of(list(range(10)), weights, 3)
    assert [index for run in runs for index in run] == list(range(10)) and len(runs) <= 3
    assert runs_of([4], weights, 8) == [[4]]


@pytest.mark.parametrize(("name", "writer"), FORMATS)
def test_an_interrupted_export_goes_on_to_the_same_bytes(
    tmp_path: Path, name: str, writer: Writer
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = write(tmp_path / "whole" / name, writer, Painted(*SIZE))
    target = tmp_path / "cut" / name
    with pytest.raises(KeyboardInterrupt):
        write(target, writer, Painted(*SIZE, fail_at=13, error=KeyboardInterrupt()))
    assert not target.exists() and (tmp_path / "cut" / f"{name}.part").is_dir()
    journal = tmp_path / "cut" / f"{name}.part" / NAME
    with journal.open("a") as file:  # what a kill leaves of a line
        file.write('{"block": 9')
    seen: list[tuple[int, int]] = []
    source = Painted(*SIZE)
    write(target, writer, source, progress=lambda *pair: seen.append(pair))
    assert content(target) == content(whole)
    assert seen[0][0] > 0 and seen[-1][0] == seen[-1][1]
    fresh = Painted(*SIZE)
    write(tmp_path / "whole" / name, writer, fresh)
    assert source.reads < fresh.reads


@pytest.mark.parametrize(("name", "writer"), FORMATS)
def test_two_processes_write_the_same_bytes(tmp_path: Path, name: str, writer: Writer) -> None:
    for folder, workers in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name, writer, Painted(*SIZE), workers=workers)
    assert content(tmp_path / "one" / name) == content(tmp_path / "two" / name)


def test_an_error_in_another_process_is_told(tmp_path: Path) -> None:
    source = Painted(*SIZE, fail_at=5, error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(TargetError, match=r"free some space.*goes on from a\.tif\.part") as caught:
        write(tmp_path / "a.tif", Tiff(), source, workers=2)
    assert "\n" not in str(caught.value)


def test_other_options_are_refused_and_named(tmp_path: Path) -> None:
    target = tmp_path / "a.tif"
    with pytest.raises(KeyboardInterrupt):
        write(target, Tiff(), Painted(*SIZE, fail_at=5, error=KeyboardInterrupt()))
    with pytest.raises(TargetError, match=r"other options \(seed: 3, now 4\)"):
        write(target, Tiff(), Painted(*SIZE), seed=4)
    with pytest.raises(TargetError, match=r"quality: 90, now 80"):
        write(target, Tiff(quality=80), Painted(*SIZE))
    write(target, Tiff(), Painted(*SIZE))


def test_a_folder_of_the_journal_s_name_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "a.tif.part").mkdir()
    (tmp_path / "a.tif.part" / "thesis.txt").write_text("x")
    with pytest.raises(TargetError, match="is no unfinished export"):
        write(tmp_path / "a.tif", Tiff(), Painted(*SIZE))
    assert (tmp_path / "a.tif.part" / "thesis.txt").exists()


@pytest.mark.parametrize(("name", "inside"), [("a.zarr", "a.zarr"), ("a.dzi", "a_files")])
def test_a_folder_that_is_not_ours_stays(tmp_path: Path, name: str, inside: str) -> None:
    folder = tmp_path / inside
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    with pytest.raises(TargetError, match="was not written by zoomldm"):
        write(tmp_path / name, writer_for(tmp_path / name), Painted(600, 500, 2))
    (folder / "zarr.json").unlink()
    write(tmp_path / name, writer_for(tmp_path / name), Painted(600, 500, 2))
    write(tmp_path / name, writer_for(tmp_path / name), Painted(500, 500, 2))  # ours is replaced


@pytest.mark.parametrize(("name", "writer"), FORMATS[1:])
def test_an_end_after_the_folder_was_moved(tmp_path: Path, name: str, writer: Writer) -> None:
    """The one before was put back in its place by the command that goes on."""
    target = tmp_path / name
    write(target, writer, Painted(600, 500, 2))
    source = Painted(700, 500, 2)
    before = content(target)
    with pytest.MonkeyPatch.context() as patch:  # ended between the exchange and the removal
        patch.setattr("zoomldm.files.shutil.rmtree", lambda *_, **__: None)
        patch.setattr("zoomldm.writers.journal.Journal.close", stop)
        with pytest.raises(KeyboardInterrupt):
            write(target, writer, source, provenance={"seed": 9})
    write(target, writer, source, provenance={"seed": 9})
    found = content(target)
    assert found != before
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert content(write(fresh / name, writer, source, provenance={"seed": 9})) == {
        key: value for key, value in found.items() if not key.startswith("fresh")
    }


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_damaged_block_is_found(tmp_path: Path) -> None:
    source = Painted(*SIZE)
    target = tmp_path / "a.tif"

    class Stopped(Tiff):
        def finish(self, *_: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(target, Stopped(), source)
    stored = tmp_path / "a.tif.part" / "tiles" / "00000" / "001"
    os.truncate(stored, stored.stat().st_size - 1)
    with pytest.raises(TargetError, match="block 1 is damaged; remove that folder"):
        write(target, Tiff(), source)
    assert not target.exists()


def test_the_journal_is_read_while_it_is_written(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path / "a", {"seed": 1})
    other = Journal(journal.folder)
    other.note(3, {"x": 1})
    assert journal.poll() == {3: {"x": 1}}
    other.note(1, {})
    assert set(journal.poll()) == {1, 3}
    journal.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "flavour", "message"),
    [
        ("a.jpg", None, "ending '.jpg' is not known"),
        ("a.png", None, "ending '.png'"),
        ("a.svs", "ome", "is TIFF flavour aperio, not ome"),
        ("a.zarr", "ome", "a TIFF flavour is for .tif"),
    ],
)
def test_names_that_say_no_format(name: str, flavour: None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        writer_for(Path(name), flavour)


def test_names_that_say_a_format() -> None:
    assert writer_for(Path("A.OME.TIF")).settings()["flavour"] == "ome"
    assert writer_for(Path("a.tiff"), "aperio").settings()["flavour"] == "aperio"
    assert writer_for(Path("a.ome.zarr")).settings()["format"] == "ome-zarr"
