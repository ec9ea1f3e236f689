"""Every stage trained on a GPU, broken off and gone on with: the same bits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from synthetic import paint_slide
from training.archives import make_archive
from training.calls import train_stage

from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.pipeline import build_pipeline, load_pipeline
from zoomldm.training import loop
from zoomldm.training.registry import STAGES

pytestmark = pytest.mark.gpu

FEW = {"steps": 6, "save_every": 2, "show_every": 6, "log_every": 1}
EACH = [
    ("diffusion", "tiny", "latents"),
    ("diffusion", "tiny-octaves", "rasters"),
    ("embedding-diffusion", "tiny", "latents"),
    ("context-network", "tiny-octaves", "rasters"),
    ("autoencoder", "tiny", "slides"),
    ("autoencoder", "tiny-octaves", "slides"),
    ("patch-encoder", "tiny", "slides"),
    ("judge", "tiny", "slides"),
]


class BrokenOffError(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Slides, and archives of two kinds: with latents, and with the base layer of octaves."""
    folders = {k: tmp_path_factory.mktemp(k) for k in ("slides", "rasters", "latents")}
    options = CompressOptions(for_training=True)
    for seed in (0, 1):
        slide = paint_slide(folders["slides"] / f"s{seed}.tif", 1600, 1300, tissue=0.9, seed=seed)
        compress(slide, folders["rasters"], options, pipeline="tiny-octaves")
        path = folders["latents"] / f"s{seed}.zldm"
        make_archive(path, build_pipeline("tiny"), 4, 3, seed=seed, levels=(0, 1, 2, 3, 5))
    return folders


@pytest.fixture(autouse=True)
def without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """No losses of what is held out and no pictures: they take longer than the steps."""
    for stages in STAGES.values():
        for stage in stages:
            monkeypatch.setattr(stage, "held_out", lambda self: {})
            monkeypatch.setattr(stage, "images", lambda self: None)


def newest(run: Path) -> dict[str, torch.Tensor]:
    folder = sorted((run / "checkpoints").iterdir())[-1]
    assert folder.name == "step-00000006"
    return {
        f"{f.name}/{k}": v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()
    }


@pytest.mark.parametrize(("stage", "preset", "source"), EACH)
def test_gone_on_with(
    gpu: torch.device,
    data: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    preset: str,
    source: str,
) -> None:
    def run(name: str) -> None:
        given = data[source], tmp_path / name
        few = FEW | ({"contexts": 16} if stage == "embedding-diffusion" else {})
        train_stage(stage, preset, *given, changes=few, device=str(gpu))

    run("whole")
    rate = loop.rate_at

    def broken(step: int, config) -> float:
        if step == 5:
            raise BrokenOffError
        return rate(step, config)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "rate_at", broken)
        with pytest.raises(BrokenOffError):
            run("cut")
    assert sorted(p.name for p in (tmp_path / "cut/checkpoints").iterdir())[-1].endswith("04")
    run("cut")
    whole, cut = newest(tmp_path / "whole"), newest(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    apart = [k for k, v in whole.items() if not torch.equal(v, cut[k])]
    assert not apart
    assert all(v.isfinite().all() for v in whole.values() if v.is_floating_point())
    if stage != "judge":
        load_pipeline(str(tmp_path / "cut" / "pipeline"), str(gpu))


def test_the_compiled_step(
    gpu: torch.device, data: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`compile` is not given up on a GPU, where Triton is installed."""
    pytest.importorskip("triton")
    changes = {**FEW, "steps": 2, "compile": True, "accumulate": 2, "checkpointing": True}
    train_stage(
        "diffusion", "tiny-octaves", data["rasters"], tmp_path / "run", changes=changes,
        device=str(gpu),
    )  # fmt: skip
    assert "does not work here" not in caplog.text
