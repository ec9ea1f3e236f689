"""Time of one forward pass of the networks at their released sizes (preset `paper`).

On a CPU: batch 1 in float32 and bfloat16. On a GPU, where there is one: batch 1 and 16 in
bfloat16, channels last, as they are and compiled. The weights are random, which costs as much.
The share of peak is of what one large matrix product reaches on the same device in the same type.
With one thread, CPU seconds are counted, so that a busy machine does not slow the figures.

Run: OMP_NUM_THREADS=1 python benchmarks/released_size.py [--device cpu|cuda]
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoomldm.networks.denoiser import Denoiser
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import ViTSummarizer
from zoomldm.pipeline.presets import preset

DIM = 1024
CPU_REPEATS, GPU_REPEATS = 2, 20


@dataclass(frozen=True)
class Case:
    """One way to run a network."""

    batch: int
    dtype: torch.dtype
    compiled: bool = False


def cases(device: torch.device) -> Iterator[Case]:
    """The ways that are timed on a device."""
    if device.type == "cpu":
        yield from (Case(1, torch.float32), Case(1, torch.bfloat16))
        return
    for compiled in (False, True):
        yield from (Case(1, torch.bfloat16, compiled), Case(16, torch.bfloat16, compiled))


def random_network(part: str) -> nn.Module:
    """The network of that part of the preset, at random."""
    settings = dict(preset("paper")[part])
    settings.pop("kind", None)
    kinds: dict[str, Any] = {"unet": Denoiser, "vae": VQAutoencoder, "summarizer": ViTSummarizer}
    return kinds[part](**settings).eval().requires_grad_(False)


def call_of(part: str, network: nn.Module, case: Case, device: torch.device) -> Callable[[], Any]:
    """One forward pass as a function: denoiser, decoder, or summarizer of an 8 x 8 grid."""

    def noise(*shape: int) -> Tensor:
        x = torch.randn(case.batch, *shape, device=device).to(case.dtype)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    function: Any = network.decode if part == "vae" else network  # type: ignore[union-attr]
    if case.compiled:
        function = torch.compile(function)
    levels = torch.full((case.batch,), 3, device=device)
    if part == "unet":
        times = torch.full((case.batch,), 500, device=device)
        given = (noise(3, 64, 64), times, noise(65, 512))
    elif part == "vae":
        given = (noise(3, 64, 64),)
    else:
        given = (torch.randn(case.batch, 8, 8, DIM, device=device).to(case.dtype), levels)
    return lambda: function(*given)


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Median time of a call, after warming up."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter

    def timed() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    warm, repeats = (1, CPU_REPEATS) if device.type == "cpu" else (5, GPU_REPEATS)
    for _ in range(warm):
        timed()
    return median(timed() for _ in range(repeats))


def peak(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of one large matrix product."""
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(3))


def operations(call: Callable[[], Any]) -> float:
    """Floating-point operations of a call."""
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return float(counter.get_total_flops())


@torch.no_grad()
def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(parser.parse_args().device)
    logging.set_verbosity_error()  # that casting may need care, which random weights do not
    if device.type == "cpu":
        name = (
            f"CPU ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} thread(s)"
        )
    else:
        name = torch.cuda.get_device_name(device)
    peaks = {c.dtype: peak(c.dtype, device) for c in cases(device)}
    reached = ", ".join(f"{str(t)[6:]} {v / 1e12:.2f}" for t, v in peaks.items())
    print(f"{name}, PyTorch {torch.__version__}; peak in TFLOP/s: {reached}\n")
    print("| network | batch | type | compiled | s a call | images/s | GFLOP an image | of peak |")
    print("|---|---|---|---|---|---|---|---|")
    for part in ("unet", "vae", "summarizer"):
        network = random_network(part).to(device)
        cost = operations(call_of(part, network, Case(1, torch.float32), device))
        for case in cases(device):
            network = network.to(case.dtype).to(memory_format=torch.channels_last)  # type: ignore
            took = seconds(call_of(part, network, case, device), device)
            peak_fraction = cost * case.batch / took / peaks[case.dtype]
            print(
                f"| {'vae.decode' if part == 'vae' else part} | {case.batch} "
                f"| {str(case.dtype)[6:]} | {'yes' if case.compiled else 'no'} | {took:.4f} "
                f"| {case.batch / took:.3f} | {cost / 1e9:,.1f} | {peak_fraction:.0%} |",
                flush=True,
            )
        del network


if __name__ == "__main__":
    main()
