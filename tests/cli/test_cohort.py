"""Verbs over folders and tables: state, summary, going on, dry runs, bad tables."""

import json
import shutil

import pytest
from synthetic import paint_slide

from zoomldm.archive import open_archive
from zoomldm.cli.cohort import Board
from zoomldm.cohort.items import Item
from zoomldm.cohort.runner import Event


@pytest.fixture
def cohort(tmp_path, archive):
    """Two sound archives, a damaged one, and a table of the three."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for name in ("a.zldm", "b.zldm"):
        shutil.copy(archive, folder / name)
    (folder / "c.zldm").write_text("no archive")
    (folder / "t.csv").write_text(
        "slide,case,split\na.zldm,p,train\nb.zldm,q,test\nc.zldm,r,test\n"
    )
    return folder, out


def features(run, *arguments):
    return run("features", *arguments, "--source", "tiles", "--pipeline", "tiny")


def test_a_folder_leaves_state_and_summary_and_goes_on(run, cohort):
    folder, out = cohort
    done = features(run, folder, "-o", out, "--json")
    assert done.code == 3 and f"1 of 3 archives failed: {folder / 'c.zldm'}" in done.err
    state = out / "cohort-features"
    assert sorted(p.name for p in (state / "slides").iterdir()) == ["a.json", "b.json", "c.json"]
    summary = json.loads((state / "summary.json").read_text())
    assert (summary["done"], summary["failed"], summary["slides"]) == (2, 1, 3)
    assert "c.zldm" in (state / "summary.md").read_text()
    (folder / "c.zldm").unlink()
    shutil.copy(folder / "a.zldm", folder / "c.zldm")
    plan = json.loads(features(run, folder, "-o", out, "--dry-run", "--json").out)
    assert plan["todo"] == [str(folder / "c.zldm")] and len(plan["done"]) == 2
    assert plan["settings"]["format"] == "h5" and plan["settings"]["runs"] == "1 process"
    again = features(run, folder, "-o", out, "--json")
    assert again.code == 0
    assert [r["done_before"] for r in json.loads(again.out)["features"]] == [True, True, False]


def test_a_table_and_its_splits(run, cohort):
    folder, out = cohort
    done = features(run, folder / "t.csv", "-o", out, "--split", "train", "--dry-run")
    assert done.code == 0 and "1 of 1 archives would be done" in done.out
    assert "precision" in done.out and list(out.iterdir()) == []
    assert features(run, folder / "t.csv", "-o", out, "--split", "train").code == 0
    (folder / "t.csv").write_text("slide,case,split\na.zldm,p,train\nb.zldm,p,test\n")
    assert "case p is in two splits" in features(run, folder / "t.csv", "-o", out).line


def test_verify_over_processes(run, cohort, tmp_path):
    folder, _ = cohort
    done = run("verify", folder, "--workers", "2", "--state", tmp_path / "state", "--json")
    assert done.code == 3, done.err
    found = json.loads(done.out)["archives"]
    assert [bool(problems) for problems in found.values()] == [False, False, True]
    assert (tmp_path / "state" / "summary.md").is_file()


def test_no_ray_where_there_is_none(run, cohort):
    pytest.importorskip("ray")
    folder, out = cohort
    for address, expected in (
        ("127.0.0.1:1", "no cluster answers there"),
        ("nowhere", "HOST:PORT"),
    ):
        done = features(run, folder, "-o", out, "--ray", address)
        assert done.code == 2 and expected in done.err, done.err


def test_the_board_shows_rate_time_and_what_is_under_way(monkeypatch):
    import io

    from rich.console import Console

    screen = io.StringIO()
    console = Console(file=screen, width=120)
    board = Board("compress", 10)
    items = [Item(f"{n}.svs", f"slide-{n}") for n in range(4)]
    board.note(Event("earlier", items[0]))
    for item in items[1:]:
        board.note(Event("begun", item))
    board.note(Event("done", items[1]))
    board.note(Event("failed", items[2], error="2.svs: bad"))
    board._start -= 20
    console.print(board._table())
    text = screen.getvalue()
    for part in ("2 of 10 done (1 before)", "1 failed", "1 under way", "6.0/min", "1:10 left"):
        assert part in text, text
    assert "slide-3" in text and "slide-1" not in text


TINY = ("--level", "0.15625x", "--pipeline", "tiny", "--json")


def test_decompress_a_folder_and_go_on(run, cohort):
    folder, out = cohort
    done = run("decompress", folder, "-o", out, *TINY)
    assert done.code == 3, done.err
    report = json.loads(done.out)
    assert [image["output"] for image in report["images"]] == ["a.tif", "b.tif"]
    assert [f["archive"] for f in report["failed"]] == [str(folder / "c.zldm")]
    assert (out / "a.tif").is_file() and (out / "cohort-decompress" / "summary.md").is_file()
    (out / "b.tif").unlink()
    again = run("decompress", folder, "-o", out, *TINY)
    images = json.loads(again.out)["images"]
    assert [image.get("done_before", False) for image in images] == [True, False]
    plan = run("decompress", folder / "t.csv", "-o", out, *TINY, "--split", "train", "--dry-run")
    assert json.loads(plan.out)["done"] == [str(folder / "a.zldm")]
    assert json.loads(plan.out)["settings"]["format"] == ".tif"


def test_decompress_a_cohort_in_another_format(run, cohort):
    folder, out = cohort
    (folder / "c.zldm").unlink()
    done = run("decompress", folder, "-o", out, *TINY[:-1], "--format", "png")
    assert done.code == 0, done.err
    assert "2.5x" not in done.out and "a.png" in done.out and "b.png" in done.out
    assert sorted(p.name for p in out.glob("*.png")) == ["a.png", "b.png"]


def test_decompress_where_it_can_not_be(run, cohort):
    folder, out = cohort
    for target, options, expected in (
        (out / "a.tif", (), "several archives need an existing folder"),
        ("s3://b/a.tif", (), "several archives need a URL ending in /"),
        ("s3://b/", (), "needs --state FOLDER"),
        ("https://example.org/", ("--state", out), "web servers aren't written to"),
        ("s3://b/", ("--format", "zarr"), "many files, which can't be uploaded"),
    ):
        assert expected in run("decompress", folder, "-o", target, *TINY, *options).line
    line = run("decompress", folder / "a.zldm", "-o", out / "a.png", "--format", "tif").line
    assert "is for images in a folder" in line
    assert list(out.iterdir()) == []


def test_outputs_behind_a_url(run, cohort, bucket):
    folder, out = cohort
    for name in "ab":
        bucket.files[f"b/in/{name}.zldm"] = (folder / f"{name}.zldm").read_bytes()
    inputs = ["s3://b/in/", "-o", "s3://b/out/", "--state", out, "--json"]
    done = run("features", *inputs, "--source", "tiles")
    assert done.code == 0, done.err
    reports = json.loads(done.out)["features"]
    assert [r["output"] for r in reports] == ["s3://b/out/a.h5", "s3://b/out/b.h5"]
    assert bucket.files["b/out/a.h5"].startswith(b"\x89HDF")
    del bucket.files["b/out/b.h5"]  # what is gone is made again
    again = json.loads(run("features", *inputs, "--source", "tiles").out)["features"]
    assert [r["done_before"] for r in again] == [True, False]
    assert {p for p in bucket.files if "/out/" in p} == {"b/out/a.h5", "b/out/b.h5"}


def test_an_image_behind_a_url_comes_last(run, archive, bucket):
    done = run("decompress", archive, "-o", "s3://b/x/a.png", *TINY)
    assert done.code == 0, done.err
    puts = [path for method, path in bucket.asked if method == "PUT"]
    assert puts == ["b/x/.zoomldm-write-check", "b/x/a.png.json", "b/x/a.png"]
    assert json.loads(done.out)["output"] == "s3://b/x/a.png"
    assert bucket.files["b/x/a.png"].startswith(b"\x89PNG") and len(bucket.files) == 2


def test_a_place_that_refuses_is_told_before_work_begins(run, slide, archive, bucket):
    bucket.refuse = 403
    for verb, source, name in (
        ("compress", slide, "a.zldm"),
        ("import", archive, "a.zldm"),
        ("decompress", archive, "a.png"),
    ):
        options = ["--level", "5x"] if verb == "decompress" else []
        line = run(verb, source, "-o", f"s3://b/{name}", *options).line
        assert "credentials are missing, expired" in line
    assert "expected a name ending in .zldm" in run("compress", slide, "-o", "s3://b/a.tif").line


def test_compress_and_import_to_a_url(run, slide, archive, bucket, tmp_path):
    done = run("compress", slide, "-o", "s3://b/out/", "--pipeline", "tiny", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["archives"][0]["archive"] == "s3://b/out/a.zldm"
    assert run("verify", "s3://b/out/a.zldm").code == 0
    assert features(run, "s3://b/out/a.zldm", "-o", tmp_path).code == 0
    bucket.files["b/f/a.h5"] = (tmp_path / "a.h5").read_bytes()
    done = run("import", "s3://b/f/a.h5", "-o", "s3://b/again.zldm", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["archives"][0]["source"] == "s3://b/f/a.h5"
    assert run("verify", "s3://b/again.zldm").code == 0


def test_a_cohort_of_mixed_scales(run, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    paint_slide(folder / "fine.tif", 1200, 1000, mpp=0.25, tissue=0.8)
    paint_slide(folder / "plain.tif", 600, 500, mpp=0.5, tissue=0.8)
    paint_slide(folder / "none.tif", 600, 500, resolution=False, tissue=0.8)
    options = ["-o", out, "--pipeline", "tiny", "--json"]
    done = run("compress", folder, *options)
    assert done.code == 3 and "none.tif: implausible mpp" in done.err, done.err
    sizes = {}
    for name in ("fine", "plain"):
        with open_archive(out / f"{name}.zldm") as archive:
            sizes[name] = archive.size
    assert sizes == {"fine": (600, 500), "plain": (600, 500)}
    # One scale for all is not taken where slides state others: they are told apart.
    done = run("compress", folder, *options, "--mpp", "0.25")
    assert done.code == 3, done.err
    assert "plain.tif: states 0.5 micrometres per pixel" in done.err and "fine.tif" not in done.err
    assert (out / "none.zldm").is_file()
    alone = run("compress", folder / "plain.tif", "-o", tmp_path / "a.zldm", *options[2:],
                "--mpp", "0.25")  # fmt: skip
    assert alone.code == 0, alone.err


def test_a_bucket_whose_credentials_expired(run, cohort, bucket):
    folder, out = cohort
    bucket.files |= {f"b/in/{name}.zldm": (folder / "a.zldm").read_bytes() for name in "ab"}
    bucket.refuse = 400
    for verb in (["verify"], ["features", "-o", out], ["decompress", "-o", out]):
        line = run(verb[0], "s3://b/in/", *verb[1:]).line
        assert "credentials are missing, expired" in line
    bucket.refuse = 0
    (folder / "urls.csv").write_text("slide\ns3://b/in/a.zldm\ns3://b/in/none.zldm\n")
    done = features(run, folder / "urls.csv", "-o", out)
    assert done.code == 3 and "s3://b/in/none.zldm: does not exist" in done.err
    assert (out / "a.h5").is_file()
