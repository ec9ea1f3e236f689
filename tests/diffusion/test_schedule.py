"""DDIM over a part of the schedule."""

import pytest
import torch

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

    out = schedule.denoised(model, schedule.noised(clean, noise))
    # The schedule's last alpha is just below 1.
    torch.testing.assert_close(out, clean, atol=0.2, rtol=0)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range(steps: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 1000"):
        make_schedule(SCHEDULE, steps)


def test_too_few_steps_for_the_start() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        make_schedule(SCHEDULE, 1, 500)
