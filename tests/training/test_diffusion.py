"""The diffusion stage: what a batch holds and what the loss is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training.archives import make_archive
from zoomldm.archive import open_archive
from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.geometry.levels import NAMES
from zoomldm.pipeline import build_pipeline
from zoomldm.training.stages import diffusion
from zoomldm.training.stages.diffusion import REPEATS, DiffusionStage


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArchivePatches:
    folder = tmp_path_factory.mktemp("archives")
    pipeline = build_pipeline("tiny")
    paths = [make_archive(folder / f"{i}.zldm", pipeline, 6 + i, 6, seed=i) for i in range(2)]
    return ArchivePatches([open_archive(p) for p in paths])


@pytest.fixture
def stage(store: ArchivePatches) -> DiffusionStage:
    return DiffusionStage(build_pipeline("tiny"), store)


def items(batch: dict) -> dict[int, int]:
    return {int(k[5:]): len(v) for k, v in batch.items() if k.startswith("time/")}


def test_batch(stage: DiffusionStage) -> None:
    batch = stage.batch(np.random.default_rng(0), 32)
    assert batch["latents"].shape == batch["noise"].shape == (32, 4, 32, 32)
    assert items(batch) == dict.fromkeys(range(8), 4)
    begin = 0
    for level, count in items(batch).items():
        repeats = REPEATS[level]
        assert batch[f"grid/{level}"].shape == (-(-count // repeats), 2**level, 2**level, 32)
        latents = batch["latents"][begin : begin + count]
        assert torch.equal(latents[::repeats].repeat_interleave(repeats, 0)[:count], latents)
        begin += count
    times = torch.cat([batch[f"time/{k}"] for k in range(8)])
    assert torch.equal(times.sort().values // 31.25, torch.arange(32.0))  # one in each span


def test_levels_are_uniform_whatever_the_batch(stage: DiffusionStage) -> None:
    rng, counts = np.random.default_rng(0), np.zeros(8)
    for _ in range(150):
        for level, count in items(stage.batch(rng, 3)).items():
            counts[level] += count
    assert counts.sum() == 450
    assert (abs(counts - 450 / 8) < 5 * (450 / 8) ** 0.5).all()


def test_same_generator_same_batch(stage: DiffusionStage) -> None:
    a, b = (stage.batch(np.random.default_rng([0, 3, 0]), 8) for _ in range(2))
    assert a.keys() == b.keys()
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_null_share(store: ArchivePatches) -> None:
    stage = DiffusionStage(build_pipeline("tiny"), store)
    rng = np.random.default_rng(0)
    keep = torch.cat([stage.batch(rng, 8)["keep"] for _ in range(100)])
    assert set(keep.tolist()) == {0.0, 1.0}
    assert 0.85 < float(keep.mean()) < 0.95


def test_null_condition_is_zeros_after_the_summarizer(stage: DiffusionStage) -> None:
    seen = []
    stage.unet.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    batch = stage.batch(np.random.default_rng(0), 8)
    batch["keep"] = torch.tensor([0.0] + [1.0] * 7)
    with torch.no_grad():
        stage(batch)
    assert not seen[0][0].any()
    assert seen[0][1].any()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_loss_is_zero_for_the_right_answer(store: ArchivePatches, prediction: str) -> None:
    pipeline = build_pipeline("tiny")
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    stage = DiffusionStage(pipeline, store)
    batch = stage.batch(np.random.default_rng(0), 8)
    times = torch.cat([batch[f"time/{k}"] for k in items(batch)])
    x, noise, scheduler = batch["latents"], batch["noise"], pipeline.scheduler
    answer = {
        "epsilon": noise,
        "sample": x,
        "v_prediction": scheduler.get_velocity(x, noise, times),
    }[prediction]

    def right(noisy, time, context):
        torch.testing.assert_close(noisy, scheduler.add_noise(x, noise, times))
        return answer

    stage.unet.forward = right
    losses = stage(batch)
    assert float(losses["loss"]) < 1e-9
    assert {k for k in losses if k != "loss"} == {f"level/{n}" for n in NAMES}


def test_both_networks_learn(stage: DiffusionStage) -> None:
    stage.train()
    optimizer = torch.optim.AdamW(stage.parameters(), 3e-3)
    batch = stage.batch(np.random.default_rng(0), 8)
    begun = {
        name: [p.detach().clone() for p in network.parameters()]
        for name, network in stage.networks().items()
    }
    losses = []
    for _ in range(12):
        loss = stage(batch)["loss"]
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.97 * losses[0]
    assert losses[-1] == min(losses[-1], *losses[:4])
    for name, network in stage.networks().items():
        for before, parameter in zip(begun[name], network.parameters(), strict=True):
            assert parameter.grad is not None and parameter.grad.isfinite().all()
            assert not torch.equal(before, parameter), name
    assert not any(p.requires_grad for p in stage.pipeline.vae.parameters())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_snr_limit_weighs_errors(store: ArchivePatches, prediction: str) -> None:
    """An error of 1 everywhere counts min(SNR, limit) in units of the clean latents' error."""
    pipeline = build_pipeline("tiny")
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    stage = DiffusionStage(pipeline, store, snr_limit=5.0)
    batch = stage.batch(np.random.default_rng(0), 8)
    times = torch.cat([batch[f"time/{k}"] for k in items(batch)])
    x, noise, scheduler = batch["latents"], batch["noise"], pipeline.scheduler
    answer = {
        "epsilon": noise,
        "sample": x,
        "v_prediction": scheduler.get_velocity(x, noise, times),
    }[prediction]
    stage.unet.forward = lambda *_: answer + 1
    alphas = scheduler.alphas_cumprod[times].double()
    snr = alphas / (1 - alphas)
    unit = {"epsilon": snr, "sample": snr * 0 + 1, "v_prediction": snr + 1}[prediction]
    expected = float((snr.clamp(max=5) / unit).mean())
    assert float(stage(batch)["loss"]) == pytest.approx(expected, rel=1e-4)
    stage.snr_limit = None
    assert float(stage(batch)["loss"]) == pytest.approx(1, rel=1e-4)


def test_held_out_losses_are_fixed(store: ArchivePatches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion, "_FIXED", 2)
    stage = DiffusionStage(build_pipeline("tiny"), store, store).eval()
    with torch.no_grad():
        first, second = stage.held_out(), stage.held_out()
    assert first == second
    assert {"seen", "withheld", "held-out"} <= first.keys()
    assert {f"held-out/{n}" for n in NAMES} <= first.keys()


def test_pictures(stage: DiffusionStage) -> None:
    stage.eval()
    with torch.no_grad():
        picture = stage.images(columns=1, steps=2)
    assert picture.shape == (8 * 256, 2 * 256, 3)
    assert picture.dtype == np.uint8


def test_pipeline_that_does_not_fit_refused(store: ArchivePatches) -> None:
    pipeline = build_pipeline("tiny")
    pipeline.vae.register_to_config(latent_channels=2)
    with pytest.raises(PipelineError, match="archives hold"):
        DiffusionStage(pipeline, store)


def test_nothing_left_to_train_on_is_an_error(tmp_path: Path) -> None:
    pipeline = build_pipeline("tiny")
    archive = open_archive(make_archive(tmp_path / "a.zldm", pipeline, 5, 5, seed=0))
    with pytest.raises(ConfigError, match="no patch is left"):
        DiffusionStage(pipeline, ArchivePatches([archive], withheld_fraction=1.0))
