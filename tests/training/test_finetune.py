"""Going on with a pipeline's own weights, and with its summarizer as it is."""

from pathlib import Path

import pytest
import torch
from synthetic import paint_slide
from tiny import filled_pipeline

from training.archives import make_archive
from training.calls import train_stage
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline, load_pipeline
from zoomldm.training.stage import Stage
from zoomldm.training.stages.diffusion import DiffusionStage
from zoomldm.training.stages.embedding_diffusion import EmbeddingDiffusionStage

PARTS = ("unet", "vae", "summarizer", "patch_encoder", "embedding_diffusion")
STILL = {"steps": 1, "learning_rate": 1e-12, "weight_decay": 0, "warmup": 0}


@pytest.fixture(scope="module")
def start() -> ZoomLDMPipeline:
    return filled_pipeline()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, start: ZoomLDMPipeline) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    start.save_pretrained(folder / "pipeline")
    (folder / "data").mkdir()
    make_archive(folder / "data" / "a.zldm", start, 5, 5)
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (DiffusionStage, EmbeddingDiffusionStage):
        monkeypatch.setattr(stage, "held_out", Stage.held_out)
        monkeypatch.setattr(stage, "images", Stage.images)
    monkeypatch.setattr("zoomldm.data.contexts.MOST", (9, 9, 9, 9, 6, 4, 2, 2))


def trained(folder: Path, out: Path, stage: str = "diffusion", **changes) -> ZoomLDMPipeline:
    """One step that moves nothing to speak of: what comes out is what training began with."""
    finetune = changes.pop("finetune", True)
    report = train_stage(
        stage,
        "tiny",
        folder / "data",
        out,
        changes=STILL | changes,
        pipeline=str(folder / "pipeline"),
        finetune=finetune,
    )
    return load_pipeline(report.pipeline)


def apart(a: torch.nn.Module, b: torch.nn.Module) -> float:
    """Largest difference of weights and buffers (the embedding diffusion's statistics)."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs)


def test_the_denoiser_goes_on(folder: Path, start: ZoomLDMPipeline, tmp_path: Path) -> None:
    pipeline = trained(folder, tmp_path / "on")
    assert (
        apart(pipeline.unet, start.unet) < 1e-9
        and apart(pipeline.summarizer, start.summarizer) < 1e-9
    )
    assert pipeline.embedding_diffusion is None  # it draws contexts of another summarizer now
    fresh = trained(folder, tmp_path / "fresh", finetune=False)
    assert apart(fresh.unet, start.unet) > 1e-3


def test_a_frozen_summarizer_stays_to_the_bit(
    folder: Path, start: ZoomLDMPipeline, tmp_path: Path
) -> None:
    pipeline = trained(
        folder, tmp_path / "run", freeze_summarizer=True, learning_rate=1e-3, steps=3
    )
    for name in PARTS:
        assert (pipeline.digest(name) == start.digest(name)) == (name != "unet"), name
    new = trained(folder, tmp_path / "new", freeze_summarizer=True, finetune=False)
    assert new.digest("summarizer") == start.digest("summarizer")
    assert apart(new.unet, start.unet) > 1e-3


def test_the_embedding_diffusion_goes_on(
    folder: Path, start: ZoomLDMPipeline, tmp_path: Path
) -> None:
    pipeline = trained(folder, tmp_path / "on", "embedding-diffusion", level_power=0.5)
    assert apart(pipeline.embedding_diffusion, start.embedding_diffusion) < 1e-9
    fresh = trained(folder, tmp_path / "fresh", "embedding-diffusion", finetune=False)
    assert apart(fresh.embedding_diffusion, start.embedding_diffusion) > 1e-3


def test_frozen_networks_go_on(folder: Path, start: ZoomLDMPipeline, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    paint_slide(tmp_path / "slides" / "a.tif", 1300, 1100, 0.5, tissue=0.9)
    report = train_stage(
        "autoencoder",
        "tiny",
        tmp_path / "slides",
        tmp_path / "run",
        changes={**STILL, "batch_size": 2},
        pipeline=str(folder / "pipeline"),
        finetune=True,
    )
    pipeline = load_pipeline(report.pipeline)
    pairs = zip(pipeline.vae.parameters(), start.vae.parameters(), strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-9
    assert pipeline.digest("embedding_diffusion") == start.digest("embedding_diffusion")


def test_a_frozen_summarizer_of_another_width(folder: Path, tmp_path: Path) -> None:
    """The denoiser is built for the contexts that there are."""
    wide = filled_pipeline()
    wide.summarizer = CNNSummarizer(dim=32, width=16, body=16, context_dim=48, depth=1)
    wide.register_modules(embedding_diffusion=None)
    wide.save_pretrained(tmp_path / "wide")
    changes = {**STILL, "freeze_summarizer": True}
    arguments = {"pipeline": str(tmp_path / "wide"), "changes": changes}
    report = train_stage("diffusion", "tiny", folder / "data", tmp_path / "run", **arguments)
    pipeline = load_pipeline(report.pipeline)
    assert pipeline.summarizer.context_shape == (64, 48)


@pytest.mark.parametrize("stage", ["autoencoder", "patch-encoder"])
def test_networks_that_a_stage_can_not_train(tmp_path: Path, stage: str) -> None:
    bare = build_pipeline("tiny")
    bare.register_modules(vae=None, patch_encoder=None)
    bare.save_pretrained(tmp_path / "bare")
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.tif").touch()
    with pytest.raises(PipelineError, match="can't train none"):
        train_stage(
            stage,
            "tiny",
            tmp_path / "slides",
            tmp_path / "run",
            pipeline=str(tmp_path / "bare"),
            finetune=True,
        )


def test_another_start_in_a_begun_run(folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path / "run")
    with pytest.raises(ConfigError, match="began with start = "):
        trained(folder, tmp_path / "run", finetune=False)


def test_nothing_to_go_on_with(folder: Path, tmp_path: Path) -> None:
    bare = build_pipeline("tiny")
    bare.register_modules(embedding_diffusion=None)
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(PipelineError, match="no embedding diffusion of ours"):
        train_stage(
            "embedding-diffusion",
            "tiny",
            folder / "data",
            tmp_path / "run",
            pipeline=str(tmp_path / "bare"),
            finetune=True,
        )
