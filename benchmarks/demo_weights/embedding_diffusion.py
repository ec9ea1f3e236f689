"""Train the demo's embedding diffusion on virtual slides, on one GPU, for a given time.

    python benchmarks/demo_weights/embedding_diffusion.py PIPELINE WORLD OUT --minutes 7 --sheet

PIPELINE is a folder with a pipeline, or one with `summarizer/` alone; WORLD a `torch.save` file
of a list of dicts, one per virtual slide: `embeddings` (R, C, D) float16, `background` (D,), `mask`
and `withheld` (R, C) bool. The frozen summarizer computes contexts as they are needed, of
patches at any token with as much tissue as `zoomldm.data.contexts` requires; contexts from 0.625x
on, whose grids are large, are stored in a pool that is renewed gradually. Averaged weights are in
OUT/embedding_diffusion, written every minute.
"""

import argparse
import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from worlds import POOLED, EmbeddedSlides, Items, Windows

from zoomldm.diffusion.learned_range import LearnedRange
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.training.stages.embedding_diffusion import NULL, REFERENCE, EmbeddingDiffusionStage

LEVEL_FRACTIONS = (0.09, 0.09, 0.15, 0.19, 0.17, 0.13, 0.10, 0.08)  # of a batch, 20x to 0.15625x
SHIFT = 3.0  # half of the times are shifted to this many times the noise
FIXED = 96  # contexts per level for the printed losses
MOMENTS = 1536  # contexts per level for the statistics


def times(count: int, device: torch.device) -> Tensor:
    """Timesteps (count,), half of them uniform, half with `SHIFT` times the noise."""
    u = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    noisier = torch.atan(SHIFT * torch.tan(u * math.pi / 2)) * 2 / math.pi
    u = torch.where(torch.rand(count, device=device) < 0.5, u, noisier)
    return (u * 1000).long().clamp(0, 999)


def moments(windows: Windows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Means and covariances of tokens, by level."""
    means, covariances = [], []
    for level in range(COUNT):
        x = windows.draw(level, MOMENTS, parents=0).contexts.float().flatten(0, 1)
        means.append(x.mean(0))
        x = x - means[-1]
        covariances.append(x.T @ x / len(x))
    return torch.stack(means).to(device), torch.stack(covariances).to(device)


class Feed:
    """Batches for the stage, with contexts computed as they are needed.

    Args:
        windows: windows of the slides.
        batch: items of a batch.
        rounds: batches computed at once.
        pool: contexts per level that are stored from `POOLED` on.
    """

    def __init__(self, windows: Windows, batch: int, rounds: int, pool: int) -> None:
        self.windows, self.batch, self.rounds = windows, batch, rounds
        self.pools = {k: windows.draw(k, pool, parents=0.6) for k in range(POOLED, COUNT)}
        self.oldest = 0
        self.renewed = max(2 * rounds, 2)
        self.ready: list[dict[str, Tensor]] = []

    def next(self) -> dict[str, Tensor]:
        """Return one batch."""
        if not self.ready:
            self.ready = self._batches()
        return self.ready.pop()

    def _batches(self) -> list[dict[str, Tensor]]:
        parts = []
        for level, fraction in enumerate(LEVEL_FRACTIONS):
            count = round(fraction * self.batch * self.rounds)
            if level < POOLED:
                parts.append(self.windows.draw(level, count, parents=0.6))
                continue
            pool = self.pools[level]
            size = len(pool.contexts)
            fresh = self.windows.draw(level, min(self.renewed, size), parents=0.6)
            device = fresh.contexts.device
            pool.put((torch.arange(len(fresh.contexts), device=device) + self.oldest) % size, fresh)
            parts.append(pool.take(torch.randint(size, (count,), device=device)))
        self.oldest += self.renewed
        items = Items.joined(parts)
        order = torch.randperm(len(items.contexts), device=items.contexts.device)
        size = len(order) // self.rounds
        parts = order[: size * self.rounds].chunk(self.rounds)
        return [self.batched(items.take(own)) for own in parts]

    def batched(self, items: Items, plain: bool = False) -> dict[str, Tensor]:
        """The stage's input; `plain` leaves out every condition but level and parent."""
        size, device = len(items.contexts), items.contexts.device
        null = torch.rand(size, device=device) < (0 if plain else NULL)
        known = (torch.rand(size, device=device) < (0 if plain else REFERENCE)) & ~null
        contexts = items.contexts.float()
        return {
            "contexts": contexts,
            "noise": torch.randn_like(contexts),
            "parent": items.parents.float() * ~null[:, None, None],
            "reference": items.references.float() * known[:, None],
            "time": times(size, device),
            "level": items.level,
            "shown": torch.where(null, COUNT, items.level),
        }


@torch.no_grad()
def losses(stage: EmbeddingDiffusionStage, sets: dict[str, list]) -> dict[str, list[float]]:
    """Mean loss of each level on fixed batches."""
    found = {}
    for name, batches in sets.items():
        found[name] = [float(stage.errors(b).mean()) if b else math.nan for b in batches]
    return found


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("world", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=7.0, help="of training, after the start")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2, help="batches made at once")
    parser.add_argument("--pool", type=int, default=16384)
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--width", type=int, default=280)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--heads", type=int, default=7)
    parser.add_argument("--axes", type=int, default=192)
    parser.add_argument("--unpack", type=int, default=64)
    parser.add_argument("--start", type=Path, help="folder of a network to go on with")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=float, default=30, help="seconds between losses")
    parser.add_argument("--sheet", action="store_true", help="draw samples at the end")
    parser.add_argument("--each", type=int, default=24, help="samples a level of the sheet")
    parser.add_argument("--context-steps", type=int, default=50)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    network, windows = train(arguments)
    if arguments.sheet and (arguments.pipeline / "model_index.json").is_file():
        from sheets import draw_sheets

        draw_sheets(arguments, network, windows)


def initial_network(arguments: argparse.Namespace, windows: Windows) -> ContextDiT:
    """The network on the device before training, with statistics set."""
    device = torch.device(arguments.device)
    if arguments.start:
        return ContextDiT.from_pretrained(str(arguments.start)).to(device)
    network = ContextDiT(
        context_dim=windows.summarizer.context_shape[1],
        reference_dim=windows.world.dim,
        width=arguments.width,
        depth=arguments.depth,
        heads=arguments.heads,
        axes=arguments.axes,
        unpack=arguments.unpack,
        qk_norm=True,
        neighbours=True,
    ).to(device)
    network.set_axes(*moments(windows, device))
    return network


def train(arguments: argparse.Namespace) -> tuple[ContextDiT, Windows]:
    """Train until the time is up; return the averaged network and its training windows."""
    began = time.monotonic()
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    summarizer = CNNSummarizer.from_pretrained(str(arguments.pipeline / "summarizer"))
    summarizer = summarizer.float().eval().requires_grad_(False).to(device)
    world = EmbeddedSlides(arguments.world, device)
    windows = Windows(world, summarizer)
    print(f"{world.count} slides, {world.tissue:,} tiles of tissue; patches a level:")
    print(" ", [len(p) for p in windows.starts], "withheld", [len(p) for p in windows.withheld])
    network = initial_network(arguments, windows)
    averaged = ContextDiT.from_config(network.config).to(device)
    averaged.load_state_dict(network.state_dict())
    averaged.eval().requires_grad_(False)
    stage, shown = stage_of(network), stage_of(averaged)
    averaged.requires_grad_(False)
    feed = Feed(windows, arguments.batch, arguments.rounds, arguments.pool)
    sets = fixed(feed, windows)
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M weights; ", end="")
    print(f"ready after {time.monotonic() - began:.0f} s", flush=True)
    report(shown, sets, arguments, 0, 0.0, [])
    if arguments.compile:
        compiled(network, feed, stage)
    own, average = list(network.parameters()), list(averaged.parameters())
    cuda = device.type == "cuda"
    optimizer = torch.optim.AdamW(
        own, arguments.rate, betas=(0.9, 0.99), weight_decay=0.02, fused=cuda
    )
    limit, start, step, seen = arguments.minutes * 60, time.monotonic(), 0, []
    last_shown = last_saved = start
    while (progress := (time.monotonic() - start) / limit) < 1:
        rate = arguments.rate * min(1, step / 300 + 0.01) * fall(progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = feed.next()
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            loss = stage.errors(batch).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0, foreach=True)
        optimizer.step()
        step += 1
        decay = min(arguments.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, own, 1 - decay)
        seen.append(loss.detach())
        if step % 20 and cuda:
            continue
        now = time.monotonic()  # float(loss) has synchronised the GPU, so the time is right
        if not math.isfinite(float(seen[-1])):
            network.load_state_dict(averaged.state_dict())
            optimizer.state.clear()
            print(f"step {step}: loss is not finite; back to the average", flush=True)
        if now - last_shown > arguments.show and now - start < limit:
            report(shown, sets, arguments, step, now - start, seen)
            seen, last_shown = [], now
        if now - last_saved > 60:
            save(averaged, arguments.out)
            last_saved = now
    save(averaged, arguments.out)
    report(shown, sets, arguments, step, time.monotonic() - start, seen)
    if cuda:
        print(f"most memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)
    return averaged, windows


def stage_of(network: ContextDiT) -> EmbeddingDiffusionStage:
    """The package's own stage without data, with its schedule on the network's device."""
    stage = EmbeddingDiffusionStage(SimpleNamespace(embedding_diffusion=network), None)  # type: ignore
    whole = stage.diffusion
    stage.diffusion = LearnedRange(whole.betas.to(network.device), whole.times.to(network.device))
    return stage


def fall(progress: float) -> float:
    """Learning rate relative to its highest: constant for half the time, then a cosine to 1 %."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(max(2 * progress - 1, 0), 1)))


def fixed(feed: Feed, windows: Windows) -> dict[str, list]:
    """Batches for the printed losses: trained on, withheld, and withheld with parents."""
    found: dict[str, list] = {}
    for name, withheld, parents in (
        ("seen", False, 0.0),
        ("withheld", True, 0.0),
        ("parent", True, 1),
    ):
        found[name] = []
        for level in range(COUNT):
            parentless = name == "parent" and level == COUNT - 1
            if parentless or (withheld and not len(windows.withheld[level])):
                found[name].append(None)
                continue
            items = windows.draw(level, FIXED, parents=parents, withheld=withheld)
            found[name].append(feed.batched(items, plain=True))
    return found


def report(
    stage: EmbeddingDiffusionStage,
    sets: dict[str, list],
    arguments: argparse.Namespace,
    step: int,
    seconds: float,
    seen: list[Tensor],
) -> None:
    """Print losses of the averaged network, and append them to the log."""
    loss = float(torch.stack(seen).mean()) if seen else math.nan
    found = losses(stage, sets)
    print(f"{seconds:4.0f} s, step {step}, loss {loss:.4f}")
    for name, values in found.items():
        cells = (f"{n} {v:.3f}" for n, v in zip(NAMES, values, strict=True) if v == v)
        print(f"  {name:9}", "  ".join(cells), flush=True)
    line = {"step": step, "seconds": round(seconds, 1), "loss": loss, **found}
    with (arguments.out / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def save(network: ContextDiT, out: Path) -> None:
    """Write the averaged network; the old one stays until the new one is complete."""
    fresh, target = (out / f"{n}embedding_diffusion" for n in ("new-", ""))
    network.save_pretrained(str(fresh))
    if target.exists():
        for file in fresh.iterdir():
            file.replace(target / file.name)
        fresh.rmdir()
    else:
        fresh.rename(target)


def compiled(network: ContextDiT, feed: Feed, stage: EmbeddingDiffusionStage) -> None:
    """Compile the blocks; if that fails, restore them."""
    blocks = [block.forward for block in network.blocks]
    try:
        for block in network.blocks:
            block.forward = torch.compile(block.forward)  # type: ignore[method-assign]
        with torch.autocast(network.device.type, torch.bfloat16):
            stage.errors(feed.next()).mean().backward()
        print("blocks are compiled", flush=True)
    except Exception as error:
        for block, forward in zip(network.blocks, blocks, strict=True):
            block.forward = forward  # type: ignore[method-assign]
        print(f"not compiled: {type(error).__name__}", flush=True)
    network.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
