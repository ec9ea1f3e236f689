"""`zoomldm train` from end to end with the tiny preset, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from synthetic import paint_slide
from typer.testing import CliRunner

from training.archives import make_archive
from training.calls import train_stage
from zoomldm.cli import app
from zoomldm.data.folder import find_split
from zoomldm.errors import ArchiveError, ConfigError, TargetError
from zoomldm.pipeline import build_pipeline, load_pipeline
from zoomldm.training.assembly import assemble
from zoomldm.training.stage import Stage
from zoomldm.training.stages.diffusion import DiffusionStage

FEW = {"steps": 4, "save_every": 2, "show_every": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    pipeline = build_pipeline("tiny")
    for name in ("a1", "a2", "b"):
        path = folder / f"{name}.zldm"
        make_archive(path, pipeline, 4, 3, seed=ord(name[-1]), levels=(0, 1, 2, 3, 5))
    (folder / "cases.csv").write_text("file,case\na1.svs,A\na2.svs,A\nb.svs,B\n")
    return folder


def bits(run: Path) -> dict[str, torch.Tensor]:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return {
        f"{f.name}/{k}": v for f in newest.glob("*.safetensors") for k, v in load_file(f).items()
    }


def test_resumed_equals_uninterrupted(data: Path, tmp_path: Path, monkeypatch) -> None:
    """Twenty steps; or ten, cut off, and ten more: the same bits in everything."""
    monkeypatch.setattr(DiffusionStage, "held_out", Stage.held_out)
    monkeypatch.setattr(DiffusionStage, "images", Stage.images)
    train_stage("diffusion", "tiny", data, tmp_path / "whole")
    draw, count = DiffusionStage.batch, [0]

    def cut(self, rng, size):
        count[0] += 1
        if count[0] == 14:
            raise MemoryError
        return draw(self, rng, size)

    monkeypatch.setattr(DiffusionStage, "batch", cut)
    with pytest.raises(MemoryError):
        train_stage("diffusion", "tiny", data, tmp_path / "cut")
    assert sorted(p.name for p in (tmp_path / "cut/checkpoints").iterdir()) == ["step-00000010"]
    monkeypatch.setattr(DiffusionStage, "batch", draw)
    train_stage("diffusion", "tiny", data, tmp_path / "cut")
    whole, cut_ = bits(tmp_path / "whole"), bits(tmp_path / "cut")
    assert whole.keys() == cut_.keys()
    assert all(torch.equal(v, cut_[k]) for k, v in whole.items())
    digests = [load_pipeline(str(tmp_path / n / "pipeline")).digest() for n in ("whole", "cut")]
    assert digests[0] == digests[1]


def test_command(data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        [
            *("train", "--preset", "tiny", "--data", str(data), "-o", str(tmp_path / "run")),
            *("--cases", str(data / "cases.csv"), "--holdout", "B", "--steps", "4"),
            *("--set", "show_every=4", "--batch-size", "2", "--seed", "3", "--json"),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["training"] == ["a1", "a2"]
    assert report["held_out"] == ["b"]
    pipeline = load_pipeline(report["pipeline"])
    fresh = build_pipeline("tiny")
    assert pipeline.digest("vae", "patch_encoder") == fresh.digest("vae", "patch_encoder")
    start = build_pipeline("tiny", 3)
    for name in ("unet", "summarizer"):  # the run's averaged networks
        network = getattr(pipeline, name)
        saved = type(network).from_pretrained(str(tmp_path / "run" / "networks" / name))
        for key, value in network.state_dict().items():
            assert torch.equal(value, saved.state_dict()[key])
        assert pipeline.digest(name) != start.digest(name)
    picture = pipeline(np.zeros((1, 1, 1, 32)), 0, 2, output_type="np").images
    assert picture.shape == (1, 256, 256, 3)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    held_out = next(x for x in map(json.loads, lines) if x["kind"] == "held-out")
    assert {"seen", "withheld", "held-out", "held-out/20x"} <= held_out.keys()
    assert (tmp_path / "run" / "pictures" / "step-00000004.png").is_file()
    assert not [p for p in tmp_path.rglob("*") if ".part" in p.name or p.name.startswith(".")]


def test_table_with_splits(data: Path, tmp_path: Path, monkeypatch) -> None:
    """Rows of train are trained on, those of val held out; a test archive need not even be one."""
    monkeypatch.setattr(DiffusionStage, "held_out", Stage.held_out)
    monkeypatch.setattr(DiffusionStage, "images", Stage.images)
    table, row = tmp_path / "cohort.csv", f"{data}/{{}}.zldm,{{}},{{}}\n".format
    rows = [row("a1", "A", "train"), row("a2", "A", "train"), row("b", "B", "validation")]
    table.write_text("slide,case,split\n" + "".join(rows) + "none.zldm,C,test\n")
    small = {"steps": 1, "batch_size": 2}
    report = train_stage("diffusion", "tiny", table, tmp_path / "run", changes=small)
    assert (report.training, report.held_out) == (["a1", "a2"], ["b"])
    with pytest.raises(ConfigError, match="column split says what is held out"):
        find_split(table, True, "diffusion", ["B"])
    table.write_text("slide,case\n" + "".join(r.rpartition(",")[0] + "\n" for r in rows))
    split = find_split(table, True, "diffusion", ["B"])[1]
    assert (split.training, split.held_out) == (["a1", "a2"], ["b"])
    assert find_split(table, True, "diffusion")[1].held_out == []
    with pytest.raises(ConfigError, match=r"a\.tif and .*a\.tif have one name"):
        find_split(_slides_of(tmp_path), False, "autoencoder")


def _slides_of(folder: Path) -> Path:
    """A table of two slides of one name, in folders of two cases."""
    path = folder / "slides.csv"
    path.write_text("slide,case\nx/a.tif,X\ny/a.tif,Y\n")
    return path


@pytest.mark.parametrize(
    ("stage", "network"), [("autoencoder", "vae"), ("patch-encoder", "patch_encoder")]
)
def test_stages_on_slides(tmp_path: Path, stage: str, network: str) -> None:
    (tmp_path / "slides").mkdir()
    for name in ("a.tif", "b.tif"):
        paint_slide(tmp_path / "slides" / name, 1300, 1100, 0.5, seed=ord(name[0]), tissue=0.9)
    (tmp_path / "cases.csv").write_text("file,case\na.tif,A\nb.tif,B\n")
    run = tmp_path / "run"
    report = train_stage(
        stage,
        "tiny",
        tmp_path / "slides",
        run,
        holdout=["B"],
        cases=tmp_path / "cases.csv",
        changes=FEW,
    )
    assert report.held_out == ["b.tif"]
    trained, fresh = load_pipeline(report.pipeline), build_pipeline("tiny")
    for name in ("unet", "vae", "summarizer", "patch_encoder"):
        assert (trained.digest(name) == fresh.digest(name)) == (name != network)


def test_archive_without_latents(data: Path, tmp_path: Path) -> None:
    make_archive(tmp_path / "bare.zldm", build_pipeline("tiny"), levels=())
    with pytest.raises(ArchiveError, match=r"bare\.zldm: holds no latents.*--for-training"):
        train_stage("diffusion", "tiny", tmp_path, tmp_path / "run")


def test_archive_of_another_pipeline(tmp_path: Path) -> None:
    make_archive(tmp_path / "other.zldm", build_pipeline("tiny", seed=1))
    with pytest.raises(ArchiveError, match=r"other\.zldm: was made by patch encoder .*pipeline's"):
        train_stage("diffusion", "tiny", tmp_path, tmp_path / "run")


def test_other_cases_in_a_begun_run(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(DiffusionStage, "held_out", Stage.held_out)
    monkeypatch.setattr(DiffusionStage, "images", Stage.images)
    table = data / "cases.csv"
    small = {**FEW, "batch_size": 2}
    train_stage("diffusion", "tiny", data, tmp_path / "run", changes=small)
    with pytest.raises(ConfigError, match="began with training = "):
        train_stage(
            "diffusion",
            "tiny",
            data,
            tmp_path / "run",
            holdout=["B"],
            cases=table,
            changes=small,
        )


def test_each_archive_is_opened_once(data: Path, tmp_path: Path, monkeypatch) -> None:
    from zoomldm.archive.container import Container

    opened, begin = [], Container.__init__

    def counted(self, path, *rest, **others):
        opened.append(Path(path).name)
        begin(self, path, *rest, **others)

    monkeypatch.setattr(Container, "__init__", counted)
    monkeypatch.setattr(DiffusionStage, "held_out", Stage.held_out)
    monkeypatch.setattr(DiffusionStage, "images", Stage.images)
    train_stage("diffusion", "tiny", data, tmp_path / "run", changes={**FEW, "batch_size": 2})
    assert sorted(opened) == ["a1.zldm", "a2.zldm", "b.zldm"]


def test_places_that_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, message in [
        (tmp_path / "none", "no such folder"),
        (tmp_path / "file", "is not a folder"),
        (tmp_path, "holds no archives; make them with"),
    ]:
        with pytest.raises(ConfigError, match=message):
            train_stage("diffusion", "tiny", folder, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds no slides; it holds 3 archives"):
        train_stage("autoencoder", "tiny", data, tmp_path / "run")
    with pytest.raises(TargetError, match="create it first"):
        train_stage("diffusion", "tiny", data, tmp_path / "no" / "run")
    with pytest.raises(TargetError, match="is a file"):
        train_stage("diffusion", "tiny", data, tmp_path / "file")
    assert not (tmp_path / "run").exists()


def test_half_pipeline(tmp_path: Path) -> None:
    base = build_pipeline("tiny")
    (tmp_path / "networks").mkdir()
    base.unet.save_pretrained(tmp_path / "networks" / "unet")
    assemble(base, tmp_path / "networks", tmp_path / "whole")
    assemble(base, tmp_path / "networks", tmp_path / "half", half=True)
    file = "unet/diffusion_pytorch_model.safetensors"
    sizes = [(tmp_path / n / file).stat().st_size for n in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    assert base.unet.dtype == torch.float32
    assert load_pipeline(str(tmp_path / "whole")).digest() == base.digest()
    half = load_pipeline(str(tmp_path / "half"))
    assert half.unet.dtype == torch.float32
