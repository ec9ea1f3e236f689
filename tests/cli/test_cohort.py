"""Verbs over folders and tables: state, summary, going on, dry runs, bad tables."""

import json
import shutil

import pytest

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
