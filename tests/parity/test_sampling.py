"""Schedules, samplers and losses return the recorded numbers, from a converted checkpoint."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import nn
from torch.nn import functional as F

from zoomldm.diffusion.guidance import guided, guided_beyond
from zoomldm.diffusion.samplers import (
    SAMPLERS,
    PLMSScheduler,
    ReleasedDDIMScheduler,
    ddim_step,
    make_sampler,
    released_times,
)
from zoomldm.errors import ConfigError
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.presets import SCHEDULE
from zoomldm.training.ema import EMA

SCALE = 2.0
DDIM_SCALE = 1.75


def test_schedule(tape: Callable, assert_close: Callable) -> None:
    t = tape("schedule")
    scheduler = ReleasedDDIMScheduler(**SCHEDULE)
    assert_close(scheduler.betas, t["betas"], 1e-6)
    assert_close(scheduler.alphas_cumprod, t["alphas_cumprod"], 1e-6)
    for count in (5, 7, 20, 50, 200):
        recorded = t[f"S{count}"]
        times = released_times(count)
        assert times == recorded["timesteps"].tolist()
        alphas = scheduler.alphas_cumprod[times]
        before = torch.cat([scheduler.alphas_cumprod[:1], alphas[:-1]])
        assert_close(alphas, recorded["alphas"], 1e-6)
        assert_close(before, recorded["alphas_prev"], 1e-6)
        sigmas = ((1 - before) / (1 - alphas)).sqrt() * (1 - alphas / before).sqrt()
        assert_close(sigmas, recorded["sigmas_eta1"], 1e-6)
        assert not recorded["sigmas_eta0"].any()


def _trajectory(
    pipeline: ZoomLDMPipeline,
    scheduler: Any,
    t: dict,
    steps: int,
    scale: float = SCALE,
    **options: Any,
) -> list:
    """Latents and clean latents after each step, the recorded noise fed in."""
    model = guided(pipeline.unet, t["cc"], scale)
    scheduler.set_timesteps(steps)
    noise = options.pop("noise", None)
    x, seen = t["xT"], []
    with torch.no_grad():
        for i, time in enumerate(scheduler.timesteps):
            fresh = {"variance_noise": noise[i]} if noise else {}
            out = scheduler.step(model(x, time.expand(len(x))), time, x, **options, **fresh)
            x = out.prev_sample
            seen.append((x, out.pred_original_sample))
    return seen


@pytest.mark.parametrize("steps", [5, 7])
def test_plms(
    tape: Callable, pipeline: ZoomLDMPipeline, assert_close: Callable, steps: int
) -> None:
    t = tape("ldm")
    seen = _trajectory(pipeline, PLMSScheduler.from_config(pipeline.scheduler.config), t, steps)
    recorded = t[f"plms_S{steps}"]
    for i, (x, clean) in enumerate(seen[1:], 1):  # the first is the provisional one
        assert_close(x, recorded["x_inter"][i], 1e-4)
        assert_close(clean, recorded["pred_x0"][i], 1e-4)
    assert_close(seen[-1][0], recorded["out"], 1e-4)


@pytest.mark.parametrize("eta", [0, 1])
def test_ddim(tape: Callable, pipeline: ZoomLDMPipeline, assert_close: Callable, eta: int) -> None:
    t = tape("ldm")
    recorded = t[f"ddim_S5_eta{eta}"]
    scheduler = make_sampler("ddim", pipeline.scheduler.config)
    seen = _trajectory(pipeline, scheduler, t, 5, DDIM_SCALE, eta=eta, noise=recorded["noise"])
    for i, (x, _) in enumerate(seen, 1):
        assert_close(x, recorded["x_inter"][i], 1e-4)
    assert_close(seen[-1][0], recorded["out"], 1e-4)


def test_context_of_the_converted_summarizer(
    tape: Callable, pipeline: ZoomLDMPipeline, assert_close: Callable
) -> None:
    t = tape("ldm")
    grids = [grid.permute(1, 2, 0) for grid in t["feats"]]
    assert_close(pipeline.summarizer.summarise(grids, t["mag"]), t["cc"])


def test_public_call(tape: Callable, pipeline: ZoomLDMPipeline, assert_close: Callable) -> None:
    """Convert, load, five steps of PLMS, decode: equal to the tape."""
    t = tape("ldm")
    grids = [grid.permute(1, 2, 0) for grid in t["feats"]]
    context = pipeline.summarizer.summarise(grids, t["mag"])
    options = {"num_inference_steps": 5, "latents": t["xT"], "output_type": "latent"}
    images = pipeline(context=context, guidance_scale=SCALE, **options).images
    assert_close(images, t["plms_S5"]["out"], 1e-4)
    plain = pipeline(context=context, guidance_scale=1.0, **options).images
    assert_close(plain, t["plms_S5_noguidance"], 1e-4)


def test_decoding_of_a_sample(
    tape: Callable, pipeline: ZoomLDMPipeline, assert_close: Callable
) -> None:
    t = tape("ldm")
    assert_close(pipeline.vae.decode(t["plms_S5"]["out"]), t["decoded"])


def test_diffusers_own_samplers_agree_where_the_grids_do(
    tape: Callable, pipeline: ZoomLDMPipeline, assert_close: Callable
) -> None:
    """PNDM without Runge-Kutta steps is PLMS; both use floor(1000 / S), as 5 steps do too."""
    t = tape("ldm")
    config = {**SCHEDULE, "timestep_spacing": "leading"}
    options = {"num_inference_steps": 5, "latents": t["xT"], "output_type": "latent"}
    held = pipeline.scheduler
    try:
        pipeline.scheduler = PNDMScheduler(
            **{k: v for k, v in config.items() if k != "clip_sample"}, skip_prk_steps=True
        )
        assert_close(
            pipeline(context=t["cc"], guidance_scale=SCALE, **options).images,
            t["plms_S5"]["out"],
            1e-4,
        )
        pipeline.scheduler = DDIMScheduler(**config)
        assert_close(
            pipeline(context=t["cc"], guidance_scale=DDIM_SCALE, **options).images,
            t["ddim_S5_eta0"]["out"],
            1e-4,
        )
    finally:
        pipeline.scheduler = held


class _Exact:
    """Denoiser of a Gaussian of deviation 0.5 about 0.3, which no sampler needs to learn."""

    def __init__(self, alphas: torch.Tensor) -> None:
        self.alphas, self.calls, self.times = alphas, 0, list[int]()

    def __call__(self, x: torch.Tensor, time: torch.Tensor, _context: Any) -> torch.Tensor:
        self.calls += 1
        self.times.append(int(time[0]))
        alpha = self.alphas[time].reshape(-1, 1, 1, 1)
        spread = 0.25 * alpha + 1 - alpha
        return (1 - alpha).sqrt() / spread * (x - 0.3 * alpha.sqrt())


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 3, 9, 27, 101, 333, 501, 1000])
def test_step_counts_that_crash_the_released_code(name: str, steps: int) -> None:
    scheduler = make_sampler(name, SCHEDULE)
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = _Exact(scheduler.alphas_cumprod)
    for time in scheduler.timesteps:
        x = scheduler.step(model(x, time[None], None), time, x, return_dict=False)[0]
    assert x.isfinite().all()
    assert max(model.times) <= 999
    if steps >= 9:
        assert max(model.times) > 880


@pytest.mark.parametrize(
    ("name", "steps", "tolerance"),
    [("ddim", 1000, 0.01), ("plms", 200, 2e-3), ("dpm++", 200, 5e-3), ("unipc", 200, 3e-3)],
)
def test_samplers_follow_the_exact_flow(name: str, steps: int, tolerance: float) -> None:
    """Against the flow's closed form, which for a Gaussian shifts and scales the start.

    The released grid ends at the noise of its first timestep. diffusers' other samplers end
    clean: from their last timestep they jump to the mean of what may lie behind it.
    """
    scheduler = make_sampler(name, SCHEDULE)
    scheduler.set_timesteps(steps)
    start = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    model, x = _Exact(scheduler.alphas_cumprod.double()), start
    for time in scheduler.timesteps:
        x = scheduler.step(model(x, time.expand(2), None), time, x, return_dict=False)[0]

    first, last = (scheduler.alphas_cumprod[scheduler.timesteps[i]].double() for i in (0, -1))
    jumps = name in ("dpm++", "unipc")
    end = last if jumps else scheduler.alphas_cumprod[0].double()

    def spread(alpha: torch.Tensor) -> torch.Tensor:
        return 0.25 * alpha + 1 - alpha

    scale = (spread(end) / spread(first)).sqrt()
    expected = 0.3 * end.sqrt() + scale * (start - 0.3 * first.sqrt())
    if jumps:
        expected = 0.3 + 0.25 * end.sqrt() / spread(end) * (expected - 0.3 * end.sqrt())
    assert (x - expected).abs().max() < tolerance


def test_steps_out_of_range() -> None:
    with pytest.raises(ConfigError, match="expected 1 to 1000"):
        released_times(1001)
    with pytest.raises(ConfigError, match="samplers are"):
        make_sampler("euler", SCHEDULE)
    with pytest.raises(ConfigError, match="eta"):
        PLMSScheduler(**SCHEDULE).step(torch.zeros(1), 1, torch.zeros(1), eta=1.0)


def test_guidance_in_an_interval_and_in_the_other_convention() -> None:
    def denoiser(x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return x * context.mean((1, 2)).reshape(-1, 1)

    calls: list[int] = []
    x, context = torch.ones(2, 3), torch.full((2, 4, 5), 2.0)
    model = guided(denoiser, context, 3.0, (100, 500))
    inside, outside = torch.full((2,), 500), torch.full((2,), 501)
    assert torch.equal(model(x, inside), 3 * 2 * x)
    assert torch.equal(model(x, outside), 2 * x)
    assert calls == [4, 2]
    mixed = model(x, torch.tensor([100, 99]))
    assert mixed[:, 0].tolist() == [6.0, 2.0]
    assert torch.equal(guided_beyond(denoiser, context, 2.0)(x, inside), 3 * 2 * x)
    assert torch.equal(guided_beyond(denoiser, context, 0.0)(x, inside), 2 * x)


def test_losses(tape: Callable, raw_pipeline: ZoomLDMPipeline, assert_close: Callable) -> None:
    t = tape("ldm")
    q = t["q_sample"]
    scheduler = raw_pipeline.scheduler
    assert_close(scheduler.add_noise(q["z"], q["noise"], q["t"]), q["out"], 1e-6)
    p = t["p_losses_raw_weights"]
    noisy = scheduler.add_noise(p["z"], p["noise"], p["t"])
    out = raw_pipeline.unet(noisy, p["t"], p["cond"])
    each = F.mse_loss(out, p["noise"], reduction="none").mean((1, 2, 3))
    for name in ("loss", "val_loss", "val_loss_simple"):
        assert_close(each.mean(), p[name], 1e-6)
    # The bound that the released code logs beside the loss, without training on it.
    betas, alphas = scheduler.betas, scheduler.alphas_cumprod
    wide = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square()
    left = (1 - wide).cumprod(0)
    before = torch.cat([left.new_ones(1), left[:-1]])
    posterior = (wide * (1 - before) / (1 - left)).float()  # of float64, the rest of float32
    weights = betas**2 / (2 * posterior * (1 - betas) * (1 - alphas))
    weights[0] = weights[1]
    assert_close((weights[p["t"]] * each).mean(), p["val_loss_vlb"], 1e-6)


def test_history_of_the_moving_average(tape: Callable, assert_close: Callable) -> None:
    """Step n adds 0.1 n to the weights; the released count starts at 1."""
    t = tape("ema")
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    names = {k: k.replace(".", "") for k in network.state_dict()}
    network.load_state_dict({k: t["initial"][name].clone() for k, name in names.items()})
    average = EMA({"net": network}, 0.9999)
    for step, recorded in enumerate(t["history"]):
        if step:
            with torch.no_grad():
                for value in network.parameters():
                    value += 0.1 * step
            average.update({"net": network}, step)
        for key, value in average.networks["net"].state_dict().items():
            assert_close(value, recorded[names[key]], 1e-6)


def test_a_step_from_the_exact_noise_is_exact() -> None:
    clean, noise = torch.full((1, 2), 0.5), torch.full((1, 2), -1.0)
    alpha, before = torch.tensor(0.3), torch.tensor(0.8)
    x, found = ddim_step(
        alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, noise, alpha, before, None, 0
    )
    torch.testing.assert_close(found, clean)
    torch.testing.assert_close(x, before.sqrt() * clean + (1 - before).sqrt() * noise)
