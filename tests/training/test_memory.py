"""The memory that training would take: exact where it can be, close to the allocator elsewhere."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

from training.calls import settings
from zoomldm.cli import app
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.pipeline import preset_kinds
from zoomldm.training import plan
from zoomldm.training.ema import EMA
from zoomldm.training.memory import MemoryEstimate, estimate_memory
from zoomldm.training.plan import plan_training
from zoomldm.training.registry import pick_stage
from zoomldm.training.stage import Stage, Start
from zoomldm.training.train import TrainOptions

TINY = {
    "bf16": "false",
    "batch_size": 4,
}


def begun(preset: str, name: str, **changes: object) -> tuple[type[Stage], Start]:
    stage = pick_stage(name, preset_kinds(preset))
    return stage, Start(preset, None, False, settings(preset, name, TINY | changes))


def estimate(preset: str, name: str, **changes: object) -> MemoryEstimate:
    return estimate_memory(*begun(preset, name, **changes), gpu=False)


def real(preset: str, name: str) -> tuple[Stage, dict[str, torch.Tensor]]:
    stage, start = begun(preset, name)
    sketch = stage.sketch(stage.start(start), start)
    sketch.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    blank = sketch.blank(start.config.batch_size).items()
    return sketch.train(), {k: torch.zeros_like(v) for k, v in blank}


def weight(tensors) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)


def allocated(stage: Stage, batch: dict[str, torch.Tensor]) -> int:
    """Most bytes that PyTorch's allocator had given out at once within a step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        stage.loss(batch).backward()
    now = most = 0
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("tiny-octaves", "diffusion"),
        ("tiny-octaves", "context-network"),
        ("tiny", "embedding-diffusion"),
    ],
)
def test_what_weights_take_is_exact(preset: str, name: str) -> None:
    found, (stage, batch) = estimate(preset, name), real(preset, name)
    stage.loss(batch).backward()
    networks = stage.networks()
    parameters = [p for n in networks.values() for p in n.parameters() if p.requires_grad]
    for parameter in parameters:  # some are for other levels
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(parameters)
    optimizer.step()
    state = [v for values in optimizer.state.values() for v in values.values()]
    average = EMA(networks, 0.9).networks.values()
    held = [t for n in (stage, *stage.frozen()) for t in (*n.parameters(), *n.buffers())]
    assert found.trained == sum(p.numel() for p in parameters)
    assert found.parameters == weight(held)
    assert found.gradients == weight(p.grad for p in parameters if p.grad is not None)
    assert found.optimizer == weight(state)
    assert found.average == weight(t for n in average for t in (*n.parameters(), *n.buffers()))


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("tiny", "autoencoder"),
        ("tiny-octaves", "diffusion"),
        ("tiny-octaves", "embedding-diffusion"),
    ],
)
def test_activations_are_close_to_the_allocators(preset: str, name: str) -> None:
    """Within 15 %: kernels take room of their own while they run, and gradients wait in it."""
    found, (stage, batch) = estimate(preset, name), real(preset, name)
    taken = allocated(stage, batch) + weight({id(v): v for v in batch.values()}.values())
    assert found.activations < 1.15 * taken
    assert found.activations + found.gradients > 0.85 * taken


def test_the_decoders_plan_with_a_public_network_at_hand() -> None:
    """Whether that network's file was cut short can't be asked of tensors without numbers."""
    found = estimate("tiny-octaves", "autoencoder")
    assert found.parameters > 0 and found.activations > 0


def test_settings_that_spare_memory() -> None:
    name = "embedding-diffusion"
    plain = estimate("tiny", name)
    spared = estimate("tiny", name, checkpointing="true", ema_device="cpu", accumulate=8)
    assert spared.average == 0 < plain.average
    assert spared.activations < 0.75 * plain.activations
    assert spared.optimizer == plain.optimizer
    half = estimate("tiny", name, bf16="true")
    assert 0.4 < half.activations / plain.activations < 0.9
    double = estimate("tiny", name, batch_size=8)
    assert double.activations > 1.7 * plain.activations


def test_the_released_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of U-Net and summarizer, see docs/released-weights.md; UNI 2 has 1536 numbers, not 1024."""
    monkeypatch.setattr("zoomldm.training.memory.step_peak", lambda *_: 0)  # takes ten seconds
    options = TrainOptions(preset="paper", encoder="uni2")
    (found,) = plan_training(None, options).memory
    assert found.trained == 400_920_579 + 38_656_000 + 512 * 512
    assert found.gradients == 4 * found.trained
    assert found.average == found.gradients
    assert found.optimizer > 8 * found.trained


def test_the_command_prints_and_writes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = ["train", "--preset", "tiny", "--dry-run", "--set", "accumulate=3"]
    expected = MemoryEstimate("diffusion", 4, 5, 1, 2, 3, 4, 5)
    monkeypatch.setattr(plan, "estimate_memory", lambda *_: expected)
    done = CliRunner().invoke(app, [*call, "--json"], catch_exceptions=False)
    printed = json.loads(done.stdout)
    assert printed["settings"]["accumulate"] == 3
    parts = ("parameters", "gradients", "optimizer", "average", "activations")
    for stage in printed["memory"]:
        assert stage["total"] == sum(stage[part] for part in parts)
    shown = CliRunner().invoke(app, call, catch_exceptions=False).stdout
    assert "accumulate" in shown and "memory of each process on a GPU, at most" in shown
    assert not list(tmp_path.iterdir())


def test_plans_that_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="did you mean accumulate"):
        plan_training(None, TrainOptions(preset="tiny", settings={"acumulate": 2}))
    with pytest.raises(ConfigError, match="has settings for the stage diffusion alone"):
        plan_training(None, TrainOptions(preset="paper", stage="autoencoder"))
    with pytest.raises(ConfigError, match="--encoder mine: archives say what it is"):
        plan_training(None, TrainOptions(preset="tiny", encoder="mine"))
    with pytest.raises(PipelineError, match="preset base has a OctaveDenoiser"):
        plan_training(None, TrainOptions(preset="base"), pipeline="tiny")
    with pytest.raises(ConfigError, match="no such folder"):
        plan_training(tmp_path / "none", TrainOptions(preset="tiny"))
    assert CliRunner().invoke(app, ["train", "--preset", "tiny"]).exit_code != 0
