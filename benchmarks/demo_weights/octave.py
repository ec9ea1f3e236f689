"""Train the demo's summarizer and denoiser on virtual slides, on one GPU, within a time limit.

    python benchmarks/demo_weights/octave.py PACKED PIPELINE -o OUT --minutes 12

PACKED is written by `pack.py`; PIPELINE provides the patch encoder and the autoencoder. The
stage is `zoomldm train`'s, `OctaveStage`, fed from the GPU. In the second part of the time the
denoiser itself generates half of the parents, as it meets them without a base layer, and the
summarizer, then in `frozen`, no longer changes. With `--start`, both hold from the first step, so
that networks trained on the summarizer's contexts stay valid. OUT gets `unet` and `summarizer`
(averaged weights, float32), `world.pt` for `embedding_diffusion.py`, a sheet of withheld windows
and a log.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import virtual
from average import Average
from octave_check import held_out, sheet
from octave_stage import GpuStage, SingleLevel, items
from parents import MADE_LEVELS, put_parents
from torch import Tensor
from torch.nn import functional as F
from windows import World

from zoomldm.geometry.levels import COARSEST, COUNT, NAMES
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT
from zoomldm.networks.outline import Outline
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.networks.summarizers import CNNSummarizer, standardise
from zoomldm.training.head_fit import RIDGE, fit_blend, latents_of

LEVEL_PROBABILITIES = (0.44, 0.18, 0.13, 0.09, 0.06, 0.04, 0.03, 0.03)
WINDOWS = (24000, 12000, 8000, 6000, 4000, 2000, 768, 384)  # windows to fit the outline, by level
SECOND = 0.45  # fraction of the time after which parents are generated
FROZEN = 0.5  # fraction of the time after which the summarizer is frozen
NULL = 0.1


@torch.no_grad()
def fit(world: World, stage: GpuStage, windows=WINDOWS, pairs: int = 384) -> None:
    """Do `OctaveStage.fit` on the device."""
    outline = stage.summarizer.outline
    for level in range(COUNT):
        side, second, cross = 1 << level, 0.0, 0.0
        part = (256, 256, 128, 64, 32, 16, 8, 4)[level]
        for _ in range(0, windows[level], part):
            level_windows = world.draw(level, part, whole=True)
            latents = latents_of(stage.vae[0], level_windows.pixels)
            grid = standardise(level_windows.grids[:, :side, :side])
            x = outline.gathered(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(0, 2)
            x = torch.cat([x, x.new_ones(len(x), 1)], 1).double()
            y = F.pixel_unshuffle(latents, outline.cells(level)).permute(0, 2, 3, 1).flatten(0, 2)
            second, cross = second + x.T @ x, cross + x.T @ y.double()
        outline.cpu().fit(level, second.cpu(), cross.cpu(), RIDGE)
        outline.to(world.device)
    rng = np.random.default_rng(12)
    for level in range(COUNT):
        stage.unet.level_now = level
        for kind in (NONE, PARENT, BASE)[: 1 if level == COARSEST else 3 if level < 3 else 2]:
            batch = items(world, stage, level, pairs, rng, 0, kind)
            latents, hint, context = stage.given(batch)
            own, _ = stage.unet.head(context, batch["level"])
            fit_blend(stage.unet, level, kind, hint, own, latents)


def networks(arguments, device) -> tuple[TileCNN, GpuStage]:
    """Patch encoder, and the stage with new networks or those of `--start`."""
    folder = arguments.pipeline
    encoder = TileCNN.from_pretrained(folder / "patch_encoder").float().to(device).eval()
    vae = LowPassAutoencoder.from_pretrained(folder / "vae").float().to(device)
    if arguments.start:
        summarizer = CNNSummarizer.from_pretrained(arguments.start / "summarizer").float()
        denoiser = SingleLevel.from_pretrained(arguments.start / "unet").float()
    else:
        torch.manual_seed(0)
        summarizer = CNNSummarizer(unpack=32, outline_channels=6)
        denoiser = SingleLevel(widths=tuple(arguments.widths), outline=True, blends=8)
    stage = GpuStage(vae, summarizer.to(device), denoiser.to(device), None)
    return encoder.requires_grad_(False), stage.to(device)


def quicker(stage: GpuStage, step: Callable[[], None], trial: int = 12) -> str:
    """Compile the U-Net, channels last, unless that fails or makes a step much slower.

    Args:
        stage: stage of the U-Net.
        step: takes one training step.
        trial: number of steps timed each way.
    """
    device = stage.unet.alphas.device

    def timed() -> float:
        for _ in range(3):
            step()
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(trial):
            step()
        torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / trial

    unet = stage.unet.unet.to(memory_format=torch.channels_last)  # before optimiser state exists
    plain = timed()
    stage.unet.unet = torch.compile(unet, dynamic=False)
    start = time.perf_counter()
    try:
        compiled = timed()
    except Exception as error:
        compiled, why = float("inf"), f" ({type(error).__name__}: {str(error)[:200]})"
    else:
        why = f", {time.perf_counter() - start:.0f} s to get there"
    if compiled > 1.3 * plain:  # other jobs may have started on the device meanwhile
        stage.unet.unet = unet
    return f"seconds a step: {plain:.3f}, compiled {compiled:.3f}{why}"


def outline_in_float32(device_type: str) -> None:
    """Keep the outline out of autocast: half precision would blur it."""
    plain = Outline.forward

    def forward(self, embeddings: Tensor, level: int, shift: Tensor | None = None) -> Tensor:
        with torch.autocast(device_type, enabled=False):
            return plain(self, embeddings.float(), level, shift)

    Outline.forward = forward


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packed", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--versions", type=int, default=24)
    parser.add_argument("--only", type=int, help="slides at most")
    parser.add_argument("--widths", type=int, nargs=3, default=(80, 96, 160))
    parser.add_argument("--batch", type=int, default=256, help="items of a level")
    parser.add_argument("--levels-a-step", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="folder with unet and summarizer to go on from")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fit-windows", type=int, nargs=8, default=WINDOWS)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    out, device = arguments.out, torch.device(arguments.device)
    out.mkdir(parents=True, exist_ok=True)
    began = time.time()

    def say(text: str) -> None:
        line = f"{time.time() - began:6.0f}s {text}"
        print(line, flush=True)
        with (out / "log.txt").open("a") as file:
            file.write(line + "\n")

    encoder, stage = networks(arguments, device)
    sources = virtual.load_sources(arguments.packed, device, arguments.only)
    say(f"{len(sources)} slides")
    slides = virtual.make_all(sources, range(arguments.versions), encoder)
    part = out / "world.part"
    torch.save(virtual.embeddings_of(slides), part)
    part.rename(out / "world.pt")
    world = World(slides)
    withheld = World([s for s in slides if s.version == 0], withheld=True)
    del sources, slides
    say(f"{int(world.counts.sum())} tissue tiles in {len(world.names)} virtual slides")
    if device.type == "cuda":
        torch.cuda.empty_cache()
        say(f"GPU memory {torch.cuda.memory_allocated() / 1e9:.1f} GB")
    outline_in_float32(device.type)
    if not arguments.start:
        fit(world, stage, tuple(arguments.fit_windows), 3 * arguments.batch // 2)
        say("fitted: " + held_out(withheld, stage, arguments.batch))
    torch.backends.cudnn.benchmark = True
    average = Average(stage, 0.999)
    decayed = [p for n, p in stage.named_parameters() if p.requires_grad and p.ndim > 1]
    others = [p for n, p in stage.named_parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=arguments.rate, betas=(0.9, 0.99))
    rng = np.random.default_rng(5)
    second, freeze = (0.0, -1.0) if arguments.start else (SECOND, FROZEN)
    if arguments.start:
        stage.summarizer.requires_grad_(False)
    losses: dict[str, list[Tensor]] = {}

    def gradients(progress: float) -> None:
        """Accumulate the gradients of one step."""
        chosen = rng.choice(COUNT, size=arguments.levels_a_step, p=LEVEL_PROBABILITIES)
        for level in chosen.tolist():
            size = arguments.batch if level < 5 or arguments.compile else arguments.batch // 2
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                batch = items(world, stage, level, size, rng, NULL)
                if progress > second and level < MADE_LEVELS:
                    put_parents(world, average, stage.vae[0], level, batch)
                stage.unet.level_now = level
                errors, likelihood = stage.errors(batch)
                loss = errors.mean() + 0.1 * likelihood.mean()
            (loss / len(chosen)).backward()
            losses.setdefault(NAMES[level], []).append(errors.detach().mean())

    def take(rate: float) -> None:
        """Take one optimiser step."""
        for group in optimiser.param_groups:
            group["lr"] = max(rate, 1e-6)
        torch.nn.utils.clip_grad_norm_([*decayed, *others], 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update()

    stage.train()
    if arguments.compile:

        def trial() -> None:
            gradients(1.0)
            take(0)

        say(quicker(stage, trial))
    losses.clear()
    start = time.time()
    limit, step, saved, logged = 60 * arguments.minutes - (start - began), 0, start, start
    frozen = False
    while (progress := (time.time() - start) / max(limit, 1)) < 1:
        if progress > freeze and not frozen:
            frozen = True
            stage.summarizer.load_state_dict(average.summarizer.state_dict())
            stage.summarizer.requires_grad_(False)
            part = out / "frozen.part"
            average.save_summarizer(part)
            part.rename(out / "frozen")
            say("summarizer frozen")
        gradients(progress)
        take(arguments.rate * min(1, (step + 1) / 300) * min(1, (1 - progress) / 0.5))
        step += 1
        if time.time() - logged > 20 or step == 3:
            logged = time.time()
            text = " ".join(
                f"{k} {float(torch.stack(losses[k]).mean()):.3f}" for k in NAMES if k in losses
            )
            losses.clear()
            say(f"step {step} {text}")
        if time.time() - saved > 75:
            saved = time.time()
            average.save(out)
            with average.in_place(stage):
                say("withheld: " + held_out(withheld, stage, arguments.batch))
    average.save(out)
    with average.in_place(stage):
        say("withheld: " + held_out(withheld, stage, arguments.batch))
        sheet(withheld, stage, out / "sheet.png")
    say(f"done after {step} steps")


if __name__ == "__main__":
    main()
