"""DDIM over a part of the schedule."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PNDMScheduler

from zoomldm.diffusion.samplers import SAMPLERS, make_sampler
from zoomldm.diffusion.schedule import make_schedule
from zoomldm.errors import ConfigError
from zoomldm.pipeline.presets import SCHEDULE


@pytest.mark.parametrize("steps", [2, 10, 20, 50, 1000])
def test_a_start_in_the_middle_takes_half_the_steps(steps: int) -> None:
    schedule = make_schedule(SCHEDULE, steps, 500)
    assert len(schedule.timesteps) == steps // 2
    assert schedule.first == 499
    assert make_schedule(SCHEDULE, steps).first == 999


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("start", [500, None])
def test_a_perfect_denoiser_gives_the_clean_latents(kind: str, start: int | None) -> None:
    schedule = make_schedule({**SCHEDULE, "prediction_type": kind}, 20, start)
    alphas = schedule.scheduler.alphas_cumprod
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn((2, 4, 8, 8), generator=generator)
    noise = torch.randn((2, 4, 8, 8), generator=generator)

    def model(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        a = alphas[time[0]]
        eps = (x - a.sqrt() * clean) / (1 - a).sqrt()
        return {
            "epsilon": eps,
            "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * clean,
            "sample": clean,
        }[kind]

    out = schedule.denoised(model, schedule.add_noise(clean, noise))
    # The schedule's last alpha is just below 1.
    torch.testing.assert_close(out, clean, atol=0.2, rtol=0)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range(steps: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 1000"):
        make_schedule(SCHEDULE, steps)


def test_too_few_steps_for_the_start() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        make_schedule(SCHEDULE, 1, 500)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("start", [500, None])
def test_any_sampler_begins_where_it_is_told(name: str, start: int | None) -> None:
    schedule = make_schedule(
        make_sampler(name, {**SCHEDULE, "prediction_type": "epsilon"}), 20, start
    )
    alphas = schedule.scheduler.alphas_cumprod
    clean, noise = torch.randn((2, 2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    seen = []

    def model(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append(int(time[0]))
        return (x - alphas[time[0]].sqrt() * clean) / (1 - alphas[time[0]]).sqrt()

    begun = schedule.add_noise(clean, noise)
    signal = alphas[schedule.first]
    torch.testing.assert_close(begun, signal.sqrt() * clean + (1 - signal).sqrt() * noise)
    out = schedule.denoised(model, begun)
    torch.testing.assert_close(out, clean, atol=0.2, rtol=0)
    assert seen == list(schedule.timesteps)
    assert seen[0] < (start or 1000) and len(seen) in range(10 if start else 20, 23)
    assert torch.equal(schedule.denoised(model, begun), out)


def test_a_schedule_leaves_the_pipelines_scheduler_alone() -> None:
    own = make_sampler("dpm++", {**SCHEDULE, "prediction_type": "epsilon"})
    own.set_timesteps(7)
    make_schedule(own, 20, 500).denoised(lambda x, _: x, torch.zeros(1, 4, 8, 8))
    assert len(own.timesteps) == 7 and own.step_index is None


def test_schedulers_that_can_not_begin_in_the_middle() -> None:
    settings = {k: v for k, v in SCHEDULE.items() if k != "clip_sample"}
    scheduler = PNDMScheduler(**settings, skip_prk_steps=True)
    assert make_schedule(scheduler, 20).first > 900
    with pytest.raises(ConfigError, match="can't start in the middle"):
        make_schedule(scheduler, 20, 500)
    noisy = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    with pytest.raises(ConfigError, match="noise of its own"):
        make_schedule(noisy, 20)
