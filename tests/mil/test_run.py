"""Whole runs on made-up slides: outputs, resuming, the command."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from zoomldm.cli.mil import mil
from zoomldm.errors import ConfigError, TargetError
from zoomldm.files import claim
from zoomldm.mil import MilOptions, MilReport, run_mil

Npz = Callable[..., Path]
FAST = {"epochs": 2, "jobs": 1, "fractions": (1.0,), "plots": False}


def mil_of(features: object, out: Path, progress: object = None, **options: object) -> MilReport:
    return run_mil(features, out, MilOptions(**options), progress=progress)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_every_model_and_output(make_npz: Npz, out: Path) -> None:
    seen = []
    report = mil_of(
        make_npz(slides=24),
        out,
        folds=3,
        epochs=1,
        jobs=1,
        fractions=(0.5, 1.0),
        seeds=(1, 2),
        progress=lambda *step: seen.append(step),
    )
    assert seen[0] == ("toy", 0, 84)
    assert seen[-1] == ("toy", 84, 84)
    document = json.loads((out / "results.json").read_text())
    assert len(document["results"]) == 14
    first = document["results"][0]
    assert {"model", "fraction", "auc_mean", "auc_std", "folds"} <= first.keys()
    assert (first["model"], first["fraction"], len(first["folds"])) == ("clam-sb", 0.5, 6)
    assert len(document["tests"]) == 2 * 21
    rows = list(csv.reader((out / "table2.csv").open()))
    assert rows[0][-4:] == ["50% clam-sb", "50% dsmil", "100% clam-sb", "100% dsmil"]
    assert rows[1][:4] == ["toy", f"{report.sources[0].instances:g}", "6", "1x"]
    assert (out / "models.md").read_text().count("\n") == 2 + 14
    assert (out / "tests.csv").read_text().count("\n") == 1 + 42
    assert "Paired tests of the AUC" in report.text()
    assert "patients in both train and test, by fold: 0, 0, 0" in report.text()
    for name in ("roc-toy.png", "folds-toy.png"):
        assert Image.open(out / name).size[0] > 300


def test_learns_what_one_instance_tells(make_npz: Npz, out: Path) -> None:
    report = mil_of(
        make_npz(slides=40),
        out,
        folds=2,
        models=("max-pool", "logistic", "max-instance"),
        epochs=20,
        jobs=1,
        fractions=(1.0,),
        plots=False,
    )
    for model in report.models:
        values = list(report.sources[0].per_fold(model, 1.0).values())
        assert np.mean(values) > 0.8, model


def test_goes_on_and_refuses_other_settings(make_npz: Npz, out: Path) -> None:
    path = make_npz()
    mil_of(path, out, folds=2, models=("mean-pool",), **FAST)
    files = sorted((out / "folds" / "toy").glob("mean*.json"))
    assert len(files) == 2
    text = files[0].read_text().replace('"epoch": 2', '"epoch": 77')
    files[0].write_text(text)
    files[1].write_text(text[:50])  # cut short
    report = mil_of(path, out, folds=2, models=("mean-pool", "max-pool"), **FAST)
    epochs = {(r.model, r.fold): r.epoch for r in report.sources[0].results}
    assert epochs == {
        ("mean-pool", 0): 77,
        ("mean-pool", 1): 2,
        ("max-pool", 0): 2,
        ("max-pool", 1): 2,
    }
    with pytest.raises(TargetError, match="other protocol epochs: choose another -o"):
        mil_of(path, out, folds=2, models=("mean-pool",), **FAST | {"epochs": 3})
    with pytest.raises(TargetError, match="other features"):
        mil_of(make_npz(seed=1), out, folds=2, models=("mean-pool",), **FAST)


def test_processes_agree_with_one(make_npz: Npz, tmp_path: Path) -> None:
    means = []
    for jobs in (1, 2):
        folder = tmp_path / f"jobs-{jobs}"
        folder.mkdir()
        report = mil_of(
            make_npz(slides=12), folder, folds=2, models=("clam-sb",), **FAST | {"jobs": jobs}
        )
        means.append([r.probabilities for r in report.sources[0].results])
    assert means[0] == means[1]


def test_clean_protocol(make_npz: Npz, out: Path) -> None:
    report = mil_of(
        make_npz(),
        out,
        folds=4,
        models=("dsmil", "logistic"),
        protocol="clean",
        epochs=3,
        jobs=1,
        fractions=(0.5,),
        plots=False,
    )
    assert all(1 <= r.epoch <= 3 for r in report.sources[0].results if r.model == "dsmil")
    assert all(len(f.val) == 10 for f in report.folds)


def test_sources_are_compared_on_common_slides(make_npz: Npz, out: Path) -> None:
    sources = {"a": make_npz("a", slides=30), "b": make_npz("b", slides=24, dim=3)}
    report = mil_of(sources, out, folds=2, models=("clam-sb", "mean-pool"), **FAST)
    assert [s.slides for s in report.sources] == [24, 24]
    assert len(report.sources[0].skipped) == 6
    assert "  ... and 4 more, see notes.txt" in report.notes(most=2)
    assert (out / "notes.txt").read_text().count("not in every feature source") == 6
    header, rows = report.table2()
    assert [row[0] for row in rows] == ["a", "b"]
    assert header[3] == "x times compression"
    between = [t for t in report.tests if t.get("model") == "clam-sb"]
    assert (between[0]["first"], between[0]["second"], between[0]["folds"]) == ("a", "b", 2)


def test_absent_classes_are_said(make_npz: Npz, out: Path) -> None:
    masks = np.ones((3, 40), dtype=bool)
    masks[0, 2:4] = False  # tests on class 1 only
    masks[1, :] = np.arange(40) // 2 % 2  # trains on class 1 only
    masks[2, :8] = False
    report = mil_of(make_npz(train_mask=masks), out, models=("logistic",), **FAST)
    skipped = {r.fold: r.skipped for r in report.sources[0].results}
    assert skipped == {0: "", 1: "no training slide of class 0", 2: ""}
    assert "logistic 100% fold 1: no training slide of class 0" in report.notes()
    assert any(line.startswith("toy: no AUC in folds 0") for line in report.notes())
    entry = report.as_dict()["results"][0]
    assert entry["auc_mean"] is not None
    assert entry["folds"][0]["auc"] is None


def test_leave_one_out_is_pooled(make_npz: Npz, out: Path) -> None:
    case = np.array([f"{i}" for i in range(12)])
    report = mil_of(make_npz(slides=12, case_id=case), out, folds=12, models=("logistic",), **FAST)
    entry = report.as_dict()["results"][0]
    mean, low, high = (entry[f"auc_pooled{end}"] for end in ("", "_low", "_high"))
    assert 0 <= low <= mean <= high <= 1
    cells = report.all_models()[1][0][3:]
    assert cells[0] == f"{mean:.2f} pooled ({low:.2f} to {high:.2f})"
    assert cells[1:] == ["-", "-"]
    assert entry["auc_mean"] is entry["f1_mean"] is None
    assert any("each test set holds one class" in line for line in report.notes())


def test_maps_of_test_slides(tmp_path: Path, out: Path) -> None:
    folder, rows = tmp_path / "features", ["slide_id,label"]
    folder.mkdir()
    for i in range(8):
        with h5py.File(folder / f"s{i}.h5", "w") as file:
            file["features"] = np.random.default_rng(i).normal(size=(6, 4)).astype(np.float32)
            file["coords"] = np.stack([np.arange(6) * 256, np.zeros(6, int)], 1)
            file["coords"].attrs["patch_size_level0"] = 256
        rows.append(f"s{i},{i % 2}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows))
    options = {"labels": labels, "folds": 2, "models": ("abmil", "mean-pool"), "maps": True, **FAST}
    mil_of(folder, out, **options)
    pictures = list((out / "maps" / "features" / "abmil").rglob("*.png"))
    assert len(pictures) == 8
    assert Image.open(pictures[0]).size == (6 * 16, 16)
    document = json.loads(pictures[0].with_suffix(".geojson").read_text())
    attention = [f["properties"]["measurements"]["attention"] for f in document["features"]]
    assert sum(attention) == pytest.approx(1)
    assert not list((out / "maps").rglob("mean-pool/*/*.png"))


def test_open_files_do_not_grow_with_slides(tmp_path: Path, out: Path) -> None:
    """More slides than a process may open files."""
    resource = pytest.importorskip("resource")
    folder, rows = tmp_path / "features", ["slide_id,label"]
    folder.mkdir()
    for i in range(150):
        np.save(folder / f"s{i}.npy", np.full((2, 3), i % 2, np.float32))
        rows.append(f"s{i},{i % 2}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows))
    options = {"labels": labels, "folds": 2, "models": ("mean-pool",), **FAST}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = psutil.Process().num_fds()
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 40, limits[1]))
    try:
        mil_of(folder, out, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(json.loads((out / "results.json").read_text())["results"][0]["folds"]) == 2
    assert not (out / ".features").exists()


def test_a_training_that_diverges_is_named(tmp_path: Path, out: Path) -> None:
    """A bag of 1e20 gave NaN, and NaN a traceback at the end of the run."""
    folder, rows = tmp_path / "features", ["slide_id,label"]
    folder.mkdir()
    for i in range(8):
        bag = np.random.default_rng(i).normal(size=(6, 4)).astype(np.float32)
        np.save(folder / f"s{i}.npy", bag * (1e20 if i == 3 else 1))
        rows.append(f"s{i},{i % 2}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows))
    report = mil_of(folder, out, labels=labels, folds=2, models=("dsmil", "logistic"), **FAST)
    failed = [r for r in report.sources[0].results if r.skipped]
    assert {r.model for r in failed} == {"dsmil"}
    assert all("slide s3 (features up to " in r.skipped for r in failed)
    assert any("dsmil 100% fold" in line and "slide s3" in line for line in report.notes())
    json.loads((out / "results.json").read_text())


def test_one_run_at_a_time(make_npz: Npz, out: Path) -> None:
    with claim(out / "results.json"), pytest.raises(TargetError, match="another process"):
        mil_of(make_npz(), out, folds=2, models=("logistic",), **FAST)


def test_options() -> None:
    with pytest.raises(ConfigError, match=r"fraction 25\.0: expected above 0, up to 1"):
        MilOptions(fractions=(25.0,))
    with pytest.raises(ConfigError, match="'x' is unknown"):
        MilOptions(models=("x",))


def test_command(make_npz: Npz, out: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(mil)
    arguments = [
        "--features",
        f"mine={make_npz(slides=16)}",
        "-o",
        str(out),
        "--folds",
        "2",
        "--models",
        "mean-pool,logistic",
        "--fraction",
        "1",
        "--epochs",
        "1",
        "--jobs",
        "1",
        "--no-plots",
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "mine" in result.stdout
    assert "mean-pool" in result.stdout
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    document = json.loads(result.stdout)
    assert [r["model"] for r in document["results"]] == ["mean-pool", "logistic"]
    wrong = CliRunner().invoke(app, [*arguments, "--protocol", "x"])
    assert wrong.exit_code == 2 and "'hipt'" in wrong.output
    for bad, message in (
        (["--device", "cuda:77"], "device 'cuda:77' can't be used"),
        (["--fraction", "all"], "--fraction all: expected numbers"),
        (["--splits", str(tmp_path)], "exclude each other"),
        (["-o", str(tmp_path / "none")], "no such folder"),
    ):
        failed = CliRunner().invoke(app, [*arguments, *bad])
        assert message in str(failed.exception)


def test_the_command_line_stays_light() -> None:
    code = "import sys, zoomldm.cli.mil, zoomldm.mil; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_features_by_url(bucket, make_npz: Npz, out: Path) -> None:
    """The command takes a URL, with a name before it or without."""
    bucket.files["b/k=v/toy.npz"] = make_npz(slides=12).read_bytes()
    url = "s3://b/k=v/toy.npz"
    app = typer.Typer()
    app.command()(mil)
    few = ["--folds", "2", "--models", "logistic", "--fraction", "1", "--jobs", "1", "--no-plots"]
    given = ["--features", url, "--features", f"again={url}", "-o", str(out), *few, "--json"]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0
    found = [s["name"] for s in json.loads(result.stdout)["sources"]]
    assert found == ["toy", "again"]
