"""Teach a low-pass decoder to restore expected latents, on a CPU with bfloat16 or a GPU.

    python benchmarks/demo_weights/restoring.py PACKED OUT --minutes 38 --names NAME...

PACKED is written by pack.py; leave validation cases out with --names. A denoiser's first prediction
under a base layer is a mean and lacks texture; the decoder learns to add it, from pixels, a public
network's maps and two adversaries (`DecoderObjective`). It comes after decoder.py and
even_decoder.py, which would spoil what it taught. What it made of exact latents before, at
all levels, it has to keep making: the old decoder's details are a target there. OUT gets `vae/`
and `expected.pt`, the first predictions, which a later run takes up. `restorer/` beside this file
is a trial's decoder (docs/results.md); `--start` goes on with it.
"""

import argparse
import copy
import dataclasses
import hashlib
import time
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from decoder_data import QUALITIES, Looks, Pictures, coded_tile, draw_looks, make_lows
from even_decoder import line_steps
from packed import read_packed
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.networks.lowpass import LowPassAutoencoder, coarse_planes, restoring
from zoomldm.pipeline import ZoomLDMPipeline, load_pipeline
from zoomldm.pixels import to_signed
from zoomldm.training.decoder_objective import LOSSES, DecoderAdversary, DecoderObjective
from zoomldm.training.ema import EMA
from zoomldm.training.perceptual import perceptual_features

EDGE = 40  # px on each side of a crop without a loss: they lack the surroundings that tiles have
EXACT_SIDE = 160  # px of crops whose exact latents are decoded
EXACT_WEIGHT = 60.0  # of the mean absolute difference from the old decoder's details there
NOISY, STRONGEST = 0.3, 0.2  # fraction of exact latents that carry noise, and its largest std
LATTICE = 0.3  # part of steps across the lines of 16 px in the gradient at the image, at first
STEADY = 0.25  # fraction of the time after which the learning rates fall
WARMUP = 40  # steps for which only the adversaries learn
CHUNK = 32  # predictions at once
DECAY = 0.998  # of the averaged weights
# Less for places, more for texture, than where a decoder starts from nothing.
WEIGHTS = dict(zip(LOSSES, (0.25, 0.5, 2.5, 0.8, 0.8), strict=True))
LOOKS = tuple(f.name for f in dataclasses.fields(Looks))


class Expected:
    """First predictions under coded base layers, of tiles in all orientations and stains.

    Args:
        pictures: the tiles.
        pipeline: patch encoder, summarizer, denoiser and autoencoder.
        size: number of predictions.
        fast: use bfloat16.
    """

    def __init__(
        self, pictures: Pictures, pipeline: ZoomLDMPipeline, size: int, fast: bool
    ) -> None:
        self.pictures, self.pipeline, self.fast = pictures, pipeline, fast
        self.size = size = size // CHUNK * CHUNK
        self.device, n = pictures.device, len(pictures.tiles)
        self.coded = torch.empty(len(QUALITIES), n, 64, 64, 3, dtype=torch.uint8)
        self.low = torch.empty(size, 3, 64, 64, dtype=torch.float16, device=self.device)
        self.tile = torch.zeros(size, dtype=torch.long, device=self.device)
        whole = torch.zeros(size, 3, device=self.device)
        self.looks = Looks(torch.zeros_like(self.tile), whole, whole.clone())
        self.next = 0

    def fill(self, stored: Path) -> None:
        """Code all tiles and predict all items, or read them from a file, which is written.

        Raises:
            SystemExit: the file is of other tiles, of another number of items or of other weights.
        """
        tiles = hashlib.sha256(self.pictures.tiles[:, ::64, ::64].cpu().numpy().tobytes())
        of = [tiles.hexdigest(), self.size, self.pipeline.digest()]
        if stored.is_file():
            state = torch.load(stored, map_location=self.device, weights_only=True)
            if state.pop("of") != of:
                raise SystemExit(f"{stored}: of other tiles or weights; choose another OUT")
            self.coded = state.pop("coded").cpu()
            self.looks = Looks(*(state.pop(k) for k in LOOKS))
            self.low, self.tile = state["low"], state["tile"]
            return
        with ThreadPool() as pool:
            found = pool.imap(coded_tile, self.pictures.small, chunksize=8)
            for i, stack in enumerate(found):
                self.coded[:, i] = torch.from_numpy(stack)
        for _ in range(self.size // CHUNK):
            self.refresh()
        state = {k: getattr(self.looks, k) for k in LOOKS} | {"of": of, "coded": self.coded}
        torch.save(state | {"low": self.low, "tile": self.tile}, stored)

    @torch.no_grad()
    def refresh(self) -> None:
        """Predict CHUNK items anew."""
        numbers = self.pictures.numbers
        which = int(numbers.integers(len(QUALITIES)))
        tile = torch.from_numpy(numbers.integers(0, len(self.pictures.tiles), CHUNK))
        looks = draw_looks(CHUNK, self.pictures.rng, self.device)
        images = looks.of(to_signed(self.pictures.tiles[tile.to(self.device)]))
        stored = looks.of(to_signed(self.coded[which, tile].to(self.device)))
        noise = torch.randn(CHUNK, *self.pipeline.latent_shape, device=self.device)
        rows = slice(self.next, self.next + CHUNK)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast):
            low = make_lows(self.pipeline, images, stored, QUALITIES[which], noise, steps=1)
        self.low[rows] = low.half()
        self.tile[rows] = tile.to(self.device)
        self.looks.orientations[rows], self.looks.gains[rows] = looks.orientations, looks.gains
        self.looks.offsets[rows] = looks.offsets
        self.next = (self.next + CHUNK) % self.size

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Signed crops (n, 3, side, side) and first predictions (n, 3, side / 4, side / 4)."""
        rows = torch.from_numpy(self.pictures.numbers.integers(0, self.size, count))
        rows = rows.to(self.device)
        return self.pictures.pairs(self.tile[rows], self.looks.part(rows), self.low[rows])


class Training:
    """A decoder that learns to restore, its adversaries, and the decoder that it was."""

    def __init__(self, old: LowPassAutoencoder, pool: Expected, rate: float, fast: bool) -> None:
        self.pool, self.device, self.fast, self.rate = pool, pool.device, fast, rate
        lite = perceptual_features()
        if lite is None:
            raise SystemExit("EfficientNet-Lite1 is missing: pip install 'zoomldm[train]'")
        self.old = old.eval().requires_grad_(False)
        self.vae = copy.deepcopy(restoring(old)).train().requires_grad_(True)
        self.adversary = DecoderAdversary(lite.channels).train()
        self.lite = lite
        for network in (self.old, self.vae, lite, self.adversary):
            nn.Module.to(network, self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = DecoderObjective(self.adversary, self.maps, WEIGHTS)
        some = torch.cat([pool.draw(16)[0] for _ in range(12)])
        self.objective.fit(some[..., EDGE:-EDGE, EDGE:-EDGE])
        own, rivals = self.vae.parameters(), self.adversary.parameters()
        self.optimiser = torch.optim.Adam(own, rate, betas=(0.5, 0.99))
        self.against = torch.optim.Adam(rivals, rate, betas=(0.5, 0.99))
        self.ema = EMA({"vae": self.vae}, DECAY)
        self.lattice_weight, self.number = 0.0, 0

    def amp(self) -> torch.autocast:
        """Autocast to bfloat16 if asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps of the public network."""
        with self.amp():
            return self.lite(images.contiguous(memory_format=torch.channels_last))

    def step(self, batch: int, exact: int, done: float) -> dict[str, Tensor]:
        """One step on expected latents and exact ones; losses by name."""
        fall = max(0.0, (done - STEADY) / (1 - STEADY))
        factor = min(1.0, (self.number + 1) / 50) * (0.02 + 0.49 * (1 + np.cos(np.pi * fall)))
        self.optimiser.param_groups[0]["lr"] = self.rate * factor * (self.number >= WARMUP)
        self.against.param_groups[0]["lr"] = self.rate * factor
        images, low = self.pool.draw(batch)
        latents = self.old.from_planes(coarse_planes(low))
        ones = torch.ones(batch, device=self.device)
        with self.amp():
            details, texture = self.vae.details(latents, self._noise(latents), None, ones)
        image = self.vae.assembled(latents + texture.float(), details.float())
        inner, small = slice(EDGE, -EDGE), slice(EDGE // 4, -EDGE // 4)
        with self.amp():
            push = self.objective(
                image[..., inner, inner],
                images[..., inner, inner],
                low[..., small, small].contiguous(),
                ones,
                measure=self.number % (10 if self.number < 200 else 25) == 0,
                restored=ones.bool(),
            )
        lattice = (line_steps(image[..., 48:-48, 48:-48]).mean(0) - 1).square().mean()
        if self.number < 80:
            gradient = torch.autograd.grad(lattice, image, retain_graph=True)[0].norm()
            weight = LATTICE / float(gradient)
            self.lattice_weight += (0.1 if self.number else 1.0) * (weight - self.lattice_weight)
        kept = self._kept(exact)
        loss = push.loss + self.lattice_weight * lattice + EXACT_WEIGHT * kept
        self.optimiser.zero_grad(set_to_none=True)
        self.against.zero_grad(set_to_none=True)
        loss.backward()
        pairs = (self.against, self.adversary), (self.optimiser, self.vae)
        for optimiser, network in pairs:
            if torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), 10.0)):
                optimiser.step()
        self.ema.update({"vae": self.vae}, self.number)
        self.number += 1
        sizes = {"texture": texture.detach().float().std(), "lattice": lattice.detach().sqrt()}
        return push.parts | sizes | {"kept": kept.detach()}

    def _kept(self, count: int) -> Tensor:
        """How far details of exact latents are from the old decoder's."""
        images, levels = self.pool.pictures.exact(count)
        exact = F.avg_pool2d(images[..., :EXACT_SIDE, :EXACT_SIDE], 4)
        latents = self.old.from_planes(coarse_planes(exact))
        draw = torch.rand(2, len(latents), 1, 1, 1, device=self.device)
        latents = latents + (draw[0] < NOISY) * draw[1] * STRONGEST * torch.randn_like(latents)
        noise = self._noise(latents)
        with self.amp():
            details = self.vae.details(latents, noise, levels)[0]
            with torch.no_grad():
                before = self.old.details(latents, noise, levels)[0]
        return (details.float() - before.float()).abs().mean()

    def _noise(self, latents: Tensor) -> Tensor:
        shape = len(latents), int(self.old.config["noise_channels"]), *latents.shape[2:]
        return torch.randn(shape, device=self.device)

    def save(self, folder: Path) -> None:
        """Save the averaged weights."""
        found = copy.deepcopy(self.ema.networks["vae"]).cpu()
        found.to(memory_format=torch.contiguous_format).save_pretrained(folder)


def timed(minutes: float) -> Iterator[float]:
    """Yield the fraction of the time that has passed, until it has."""
    start = time.monotonic()
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        yield done


def main() -> None:
    """Read, predict, train, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packed", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--start", type=Path, help="folder of a vae that goes on; the pipeline's")
    parser.add_argument("--minutes", type=float, default=38, help="of training")
    parser.add_argument("--names", nargs="*", help="of slides; all")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--exact", type=int, default=4, help="crops with exact latents")
    parser.add_argument("--side", type=int, default=240, help="px of crops")
    parser.add_argument("--pool", type=int, default=6144, help="first predictions")
    parser.add_argument("--rate", type=float, default=1.5e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--float32", action="store_true", help="where bfloat16 is slow")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.side not in (176, 208, 240):
        parser.error("--side is 176, 208 or 240")
    args.out.mkdir(parents=True, exist_ok=True)
    device, fast = torch.device(args.device), not args.float32
    pipeline = load_pipeline(args.pipeline).to(device)
    slides = read_packed(args.packed, device, args.threads, args.names)
    pictures = Pictures(slides, args.side)
    print(f"{len(slides)} slides, {len(pictures.tiles)} tiles", flush=True)
    del slides
    pool = Expected(pictures, pipeline, args.pool, fast)
    pool.fill(args.out / "expected.pt")
    training = Training(copy.deepcopy(pipeline.vae), pool, args.rate, fast)
    if args.start:
        begun = LowPassAutoencoder.from_pretrained(args.start).state_dict()
        for network in (training.vae, training.ema.networks["vae"]):
            network.load_state_dict(begun)
    said, sums, steps = time.monotonic(), dict.fromkeys(LOSSES, 0.0), 0
    for done in timed(args.minutes):
        for name, value in training.step(args.batch, args.exact, done).items():
            sums[name] = sums.get(name, 0.0) + float(value)
        steps += 1
        if training.number % 16 == 0:
            pool.refresh()
        if time.monotonic() - said > 60:
            text = " ".join(f"{k} {v / steps:.3f}" for k, v in sums.items())
            print(f"{100 * done:3.0f} %  step {training.number}  {text}", flush=True)
            training.save(args.out / "vae")
            said, sums, steps = time.monotonic(), dict.fromkeys(LOSSES, 0.0), 0
    training.save(args.out / "vae")
    print(f"{training.number} steps", flush=True)


if __name__ == "__main__":
    main()
