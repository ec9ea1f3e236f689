"""Training steps at full size, for `gpu.py`."""

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoomldm.geometry.levels import COUNT
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.pipeline.presets import preset
from zoomldm.training.compiling import compile_modules
from zoomldm.training.ema import EMA
from zoomldm.training.stage import Stage
from zoomldm.training.stages.diffusion import DiffusionStage
from zoomldm.training.stages.octave import LEVELS, REPEATS, OctaveStage

if TYPE_CHECKING:
    from gpu import Bench


def training(bench: "Bench") -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Steps of the stage of denoiser and summarizer; compiled ones last, for they take longest."""
    for compiled in (False,) if bench.tiny else (False, True):
        for name in reversed(bench.presets):
            # The loop asks for deterministic kernels; what that costs is shown beside it.
            for exact in (True,) if compiled else (True, False):
                how = "compiled" if compiled else "eager"
                how += ", deterministic as in `train`" if exact else ", any kernels"
                yield f"training `{name}`", how, partial(_trained, bench, name, compiled, exact)


def _trained(bench: "Bench", name: str, compiled: bool, exact: bool) -> str:
    torch._dynamo.reset()
    torch.use_deterministic_algorithms(exact and bench.device.type == "cuda", warn_only=True)
    try:
        for size in bench.batches:
            try:
                return _step(bench, name, size, compiled)
            except torch.OutOfMemoryError:
                pass
            gc.collect()
            torch.cuda.empty_cache()
        return f"batch {bench.batches[-1]} does not fit"
    finally:
        torch.use_deterministic_algorithms(False)
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def _step(bench: "Bench", name: str, size: int, compiled: bool) -> str:
    stage = _stage(bench, name)
    networks = stage.networks()
    average = EMA(networks, 0.999)
    parameters = [p for n in networks.values() for p in n.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-5)
    low = torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.device.type == "cuda")
    count = sum(p.numel() for p in parameters) / 1e6

    def gradients(batch: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad(set_to_none=True)
        with low:
            loss = stage(batch)["loss"]
        loss.backward()

    def step(batch: dict[str, torch.Tensor]) -> None:
        gradients(batch)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(networks, 100)

    batches = _batches(stage, size, bench.device)
    flops = [count_flops(partial(gradients, batch)) for _, batch in batches]
    start = time.monotonic()
    if compiled:
        compile_modules(stage.compilable())
        step(batches[0][1])
        bench.wait()
    first = time.monotonic() - start
    long, bench.long = bench.long, bench.long * 2 / len(batches)
    taken = [bench.seconds(partial(step, batch)) for _, batch in batches]
    bench.long = long
    probabilities = [probability for probability, _ in batches]
    mean = sum(p * t for p, t in zip(probabilities, taken, strict=True))
    work = sum(p * f for p, f in zip(probabilities, flops, strict=True))
    note = f", first step {first:.0f} s" if compiled else ""
    held = ""
    if bench.device.type == "cuda":
        held = f", {torch.cuda.max_memory_allocated() / 2**30:.0f} GiB"
        torch.cuda.reset_peak_memory_stats()
    return (
        f"{size / mean:,.1f} images/s, {bench.rate(work, mean)} "
        f"({count:.0f} M weights, batch {size}{held}{note})"
    )


def _stage(bench: "Bench", name: str) -> Stage:
    if bench.tiny:
        parts: Any = build_pipeline(name).to(bench.device)
    else:
        parts = ZoomLDMPipeline(
            **{part: bench.network(name, part) for part in ("unet", "vae", "summarizer")},
            patch_encoder=None,
            scheduler=DDIMScheduler(**preset(name)["scheduler"]),
        )
    torch.manual_seed(0)
    if isinstance(parts.unet, OctaveDenoiser):
        stage: Stage = OctaveStage(parts.vae, parts.summarizer, parts.unet, None)
    else:
        stage = DiffusionStage(parts, None)
    stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return stage.to(bench.device).train()


def _batches(
    stage: Stage, size: int, device: torch.device
) -> list[tuple[float, dict[str, torch.Tensor]]]:
    """Batches as the stage draws them, each with its probability: one a level, or all in one."""
    if not isinstance(stage, OctaveStage):
        return [(1.0, _filled(stage.blank(size), device))]
    found = []
    for level in range(COUNT):
        batch = stage.blank(size)
        grids, side = -(-size // REPEATS[level]), 1 << level
        batch["grid"] = torch.empty(grids, side, side, batch["grid"].shape[-1]).half()
        batch = _filled(batch, device)
        batch["level"] = torch.full((size,), level, device=device)
        batch["where"] = torch.arange(size, device=device) // REPEATS[level]
        found.append((LEVELS[level] / sum(LEVELS), batch))
    return found


def _filled(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    out = {}
    for key, value in batch.items():
        tensor = torch.zeros_like(value, device=device)
        if key in ("keep", "loss"):
            tensor.fill_(1.0 if key == "keep" else 0.2)
        elif tensor.dtype == torch.uint8 or key.startswith("time"):
            tensor.random_(0, 256)
        elif key == "kind":
            tensor.random_(0, 2)
        elif tensor.is_floating_point():
            tensor.normal_()
        out[key] = tensor
    return out


def count_flops(call: Callable[[], object]) -> float:
    """Floating point operations of a call, a multiply-add as two."""
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return counter.get_total_flops()
