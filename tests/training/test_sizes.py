"""What lets large networks be trained: activations made again, all at once, other encoders."""

import copy
from pathlib import Path

import pytest
import torch
from synthetic import paint_slide
from tiny import filled_pipeline

from training.archives import make_archive
from training.calls import settings, train_stage
from zoomldm.archive import Encoder
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.networks.denoiser import Denoiser
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import ViTSummarizer
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline, load_pipeline, preset_kinds
from zoomldm.pipeline.compatibility import check_encoder
from zoomldm.training import compiling
from zoomldm.training.recompute import recompute
from zoomldm.training.registry import pick_stage
from zoomldm.training.stage import Stage, Start
from zoomldm.training.stages.diffusion import DiffusionStage
from zoomldm.training.stages.octave import OctaveStage

FEW = {"steps": 2, "save_every": 2, "show_every": 2, "log_every": 1, "batch_size": 2}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (DiffusionStage, OctaveStage):
        monkeypatch.setattr(stage, "held_out", Stage.held_out)
        monkeypatch.setattr(stage, "images", Stage.images)


def gradients(stage: Stage, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stage.zero_grad()
    stage.loss(batch).backward()
    return {k: p.grad.clone() for k, p in stage.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("tiny", "diffusion"),
        ("tiny-octaves", "diffusion"),
        ("tiny", "embedding-diffusion"),
        ("tiny-octaves", "autoencoder"),
    ],
)
def test_activations_made_again_give_the_same_gradients(preset: str, name: str) -> None:
    stage = pick_stage(name, preset_kinds(preset))
    start = Start(preset, filled_pipeline(preset), True, settings(preset, name))
    sketch = stage.sketch(stage.start(start), start).train().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    batch = {
        k: torch.randn(v.shape, generator=generator).to(v.dtype) if v.is_floating_point() else v
        for k, v in sketch.blank(2).items()
    }
    expected = gradients(
        copy.deepcopy(sketch), batch
    )  # a discriminator's norms change as it is used
    calls = []
    for block in sketch.blocks():
        block.register_forward_hook(lambda *_: calls.append(1))
    recompute(sketch.blocks())
    again = gradients(sketch, batch)
    assert calls
    assert expected.keys() == again.keys()
    for key, value in expected.items():
        torch.testing.assert_close(again[key], value, rtol=1e-5, atol=1e-7)


def archives_of_octaves(folder: Path) -> Path:
    paint_slide(folder / "s.tif", 1600, 1300, tissue=0.9)
    (folder / "archives").mkdir()
    options = CompressOptions(for_training=True)
    compress(folder / "s.tif", folder / "archives", options, pipeline="tiny-octaves")
    return folder / "archives"


def test_every_setting_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def eager(modules):  # what Inductor adds to this takes a minute
        for module in modules:
            module.compile(backend="eager", dynamic=False)

    monkeypatch.setattr("zoomldm.training.loop.compile_modules", eager)
    monkeypatch.setattr(OctaveStage, "compilable", lambda stage: [stage.unet.unet.mid_block])
    gave_up: list[Exception] = []
    monkeypatch.setattr("zoomldm.training.loop.give_up", lambda parts, error: gave_up.append(error))
    assert compiling.compile_modules is not eager
    data = archives_of_octaves(tmp_path)
    every = {
        "accumulate": 2,
        "checkpointing": True,
        "compile": True,
        "bf16": True,
        "ema_device": "cpu",
        "repa": 0.5,
        "validate_every": 1,
        "steps": 1,
        "batch_size": 1,
    }
    run = tmp_path / "run"
    report = train_stage("diffusion", "tiny-octaves", data, run, changes={**FEW, **every})
    assert not gave_up
    pipeline, fresh = load_pipeline(report.pipeline), build_pipeline("tiny-octaves")
    assert all(torch.isfinite(p).all() for p in pipeline.unet.parameters())
    assert pipeline.digest("unet") != fresh.digest("unet")


def released(dim: int = 24) -> ZoomLDMPipeline:
    """A converted system's kinds of networks, small: latents at 1/4, 65 tokens, no encoder."""
    tiny = filled_pipeline()
    widths, attention = (32, 32, 32), (False, False, True)
    sizes = {"widths": widths, "depth": 1, "heads": 1, "attention": attention}
    torch.manual_seed(0)
    return ZoomLDMPipeline(
        unet=Denoiser(3, 1, 0, context_dim=32, sample_size=64, **sizes),
        vae=VQAutoencoder(codebook=16, widths=(32, 32, 32), depth=1),
        summarizer=ViTSummarizer(dim, 32, 64, 32, depth=2, heads=2),
        patch_encoder=None,
        scheduler=tiny.scheduler,
        source={"system": {"file": "weights.ckpt"}},
    )


class Alien:
    """What stands for another encoder in the header of an archive."""

    def __init__(self, pipeline: ZoomLDMPipeline, dim: int) -> None:
        self.pipeline, self.embedding_dim = pipeline, dim
        self.latent_shape = pipeline.latent_shape

    def digest(self, name: str) -> str:
        return "of-the-alien" if name == "patch_encoder" else self.pipeline.digest(name)


def foreign(path: Path, pipeline: ZoomLDMPipeline, dim: int) -> Path:
    """An archive of the encoder `tiny`, whose embeddings have `dim` numbers."""
    return make_archive(path, Alien(pipeline, dim), 4, 3, levels=(0, 1, 2, 3))  # type: ignore[arg-type]


STILL = {**FEW, "learning_rate": 1e-12, "weight_decay": 0, "warmup": 0, "accumulate": 1}
STILL |= {"steps": 1, "checkpointing": False}  # a test of what it begins with


def test_released_weights_go_on_under_another_encoder(tmp_path: Path) -> None:
    start = released()
    start.save_pretrained(tmp_path / "released")
    (tmp_path / "data").mkdir()
    foreign(tmp_path / "data" / "a.zldm", start, 40)
    with pytest.raises(ArchiveError, match="embeddings of 40 dimensions"):
        train_stage(
            "diffusion", "paper", tmp_path / "data", tmp_path / "no", changes=STILL,
            pipeline=str(tmp_path / "released"), finetune=True,
        )  # fmt: skip
    report = train_stage(
        "diffusion", "paper", tmp_path / "data", tmp_path / "run", changes=STILL,
        pipeline=str(tmp_path / "released"), finetune=True, encoder="tiny",
    )  # fmt: skip
    pipeline = load_pipeline(report.pipeline)
    assert pipeline.embedding_dim == 40 and pipeline.patch_encoder is None
    assert pipeline.config["source"] == {
        "encoder": Encoder(id="tiny", digest="of-the-alien", dim=40).model_dump()
    }
    before, after = start.summarizer.state_dict(), pipeline.summarizer.state_dict()
    new = {k for k, v in after.items() if v.shape != before[k].shape}
    assert new == {"project.weight"}
    for part in (start.unet, pipeline.unet), (start.summarizer, pipeline.summarizer):
        for (key, a), b in zip(part[0].state_dict().items(), part[1].state_dict().values()):  # noqa: B905
            assert key.startswith("project.") or float((a - b).abs().max()) < 1e-8, key
    # The pipeline knows whose embeddings it reads.
    from zoomldm.archive import open_archive

    with open_archive(tmp_path / "data" / "a.zldm") as archive:
        check_encoder(archive, pipeline)
        pipeline.register_to_config(source={"encoder": {"id": "x", "digest": "y", "dim": 40}})
        with pytest.raises(ArchiveError, match="the pipeline was trained with 'x'"):
            check_encoder(archive, pipeline)


def test_from_the_beginning_under_another_encoder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    foreign(tmp_path / "data" / "a.zldm", load_pipeline("tiny"), 40)
    calls = {"changes": FEW, "encoder": "tiny"}
    report = train_stage("diffusion", "tiny", tmp_path / "data", tmp_path / "run", **calls)
    pipeline = load_pipeline(report.pipeline)
    assert (pipeline.embedding_dim, pipeline.patch_encoder) == (40, None)
    with pytest.raises(ArchiveError, match="was made by patch encoder 'tiny', not 'uni'"):
        train_stage("diffusion", "tiny", tmp_path / "data", tmp_path / "no", encoder="uni")
    with pytest.raises(ConfigError, match="freeze_summarizer: "):
        frozen = {**calls, "changes": {**FEW, "freeze_summarizer": True}}
        train_stage("diffusion", "tiny", tmp_path / "data", tmp_path / "no", **frozen)
    with pytest.raises(ConfigError, match="--encoder is for the stage diffusion"):
        train_stage("autoencoder", "tiny", tmp_path / "data", tmp_path / "no", encoder="tiny")
    other = tmp_path / "data" / "b.zldm"
    make_archive(other, load_pipeline("tiny"), 4, 3, levels=(0, 1, 2, 3))
    with pytest.raises(ArchiveError, match=r"b\.zldm: was made by other weights of 'tiny'"):
        train_stage("diffusion", "tiny", tmp_path / "data", tmp_path / "no", encoder="tiny")
