"""Settings: the table, changes to it, the rate over the steps."""

import pytest

from training.calls import settings
from zoomldm.errors import ConfigError
from zoomldm.training.config import TABLE, TrainConfig, rate_at
from zoomldm.training.registry import STAGES


@pytest.mark.parametrize(("preset", "stage"), [(p, s) for p in TABLE for s in TABLE[p]])
def test_every_stage_of_every_preset(preset: str, stage: str) -> None:
    assert settings(preset, stage).steps > 0
    assert set(TABLE[preset]) == set(STAGES) or preset == "paper"


def test_changes_may_be_text() -> None:
    config = settings("demo", "diffusion", {"learning_rate": "3e-4", "bf16": "false"})
    assert config.learning_rate == 3e-4
    assert not config.bf16
    assert config.batch_size == TABLE["demo"]["diffusion"]["batch_size"]


@pytest.mark.parametrize(
    ("preset", "stage", "changes", "message"),
    [
        ("huge", "diffusion", {}, "preset 'huge' can't be trained; expected tiny or "),
        ("demo", "vae", {}, "stages are diffusion, embedding-diffusion, context-network, autoenc"),
        ("demo", "diffusion", {"learning": 1}, "did you mean learning_rate"),
        ("demo", "diffusion", {"xyzzy": 1}, "known: steps, batch_size"),
        ("demo", "diffusion", {"steps": 0}, "steps = 0: "),
        ("demo", "diffusion", {"steps": "many"}, "steps = 'many': "),
        ("demo", "diffusion", {"accumulate": 0}, "accumulate = 0: "),
        ("demo", "diffusion", {"ema_device": "cuda"}, "ema_device = 'cuda': "),
        ("paper", "patch-encoder", {}, "preset paper has settings for the stage diffusion alone"),
    ],
)
def test_refused(preset: str, stage: str, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(preset, stage, changes)


def test_rate() -> None:
    config = TrainConfig(steps=100, warmup=10, cooldown=0.2, learning_rate=1.0)
    assert rate_at(0, config) == pytest.approx(0.1)
    assert rate_at(9, config) == rate_at(50, config) == rate_at(80, config) == 1.0
    assert rate_at(90, config) == pytest.approx(0.5)
    assert 0 < rate_at(99, config) < 0.06


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [
        ("autoencoder", "freeze_summarizer", "true"),
        ("autoencoder", "level_power", 0.5),
        ("patch-encoder", "level_power", 0.5),
        ("embedding-diffusion", "freeze_summarizer", "true"),
        ("diffusion", "contexts", 100),
        ("autoencoder", "compile", "true"),
        ("patch-encoder", "checkpointing", "true"),
        ("autoencoder", "made", 0.5),
        ("judge", "adversary", 1),
    ],
)
def test_settings_that_mean_nothing_to_a_stage_are_errors(
    stage: str, key: str, value: object
) -> None:
    with pytest.raises(
        ConfigError, match=f"setting '{key}' means nothing to the stage {stage}.*; it is for "
    ):
        settings("tiny", stage, {key: value})


@pytest.mark.parametrize("key", ["level_power", "freeze_summarizer"])
def test_a_denoiser_of_octaves_has_settings_of_its_own(key: str) -> None:
    message = rf"setting '{key}' means nothing to the stage diffusion \(octave\)"
    with pytest.raises(ConfigError, match=message):
        settings("tiny-octaves", "diffusion", {key: 1})
    assert settings("tiny-octaves", "autoencoder", {"adversary": "0.1"}).adversary == 0.1  # type: ignore[attr-defined]


def test_stages_declare_what_they_read_train_and_need() -> None:
    for name, stages in STAGES.items():
        assert len({stage.source for stage in stages}) == 1, name
        for stage in stages:
            assert not set(stage.trains) & set(stage.needs)
            assert bool(stage.trains) == (name != "judge")
            assert bool(stage.needs) == (stage.source == "archives")
            if not stage.Config.model_fields.keys() - TrainConfig.model_fields.keys():
                assert stage.Config is TrainConfig
