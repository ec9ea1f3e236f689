"""Check of the octave stage on withheld windows: losses, and a sheet."""

from pathlib import Path

import numpy as np
import torch
from octave_stage import GpuStage, items
from parents import MADE_LEVELS, generate_parents
from PIL import Image
from windows import World

from zoomldm.generation.octaves import ALONE_NOISE, Known, make_planes, octave_times
from zoomldm.geometry.levels import COARSEST, COUNT, NAMES
from zoomldm.networks.lowpass import planes_image
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT
from zoomldm.pixels import to_pixels


@torch.no_grad()
def held_out(world: World, stage: GpuStage, size: int = 256) -> str:
    """v-loss on withheld windows by level: context | parent | generated parent | base layer."""
    rng, rows = np.random.default_rng(8), []
    world.random.manual_seed(8)
    torch.manual_seed(8)
    for level in range(COUNT):
        row = []
        stage.unet.level_now = level
        n = size if level < 5 else size // 4
        for kind in (NONE, PARENT, BASE):
            if (kind == PARENT and level == COARSEST) or (kind == BASE and level > 2):
                continue
            batch = items(world, stage, level, n, rng, 0, kind)
            if kind == BASE:
                pass
            elif kind == PARENT:
                batch["loss"] = torch.full_like(batch["loss"], ALONE_NOISE)
            row.append(f"{float(stage.errors(batch)[0].mean()):.3f}")
            if kind == PARENT and level < MADE_LEVELS:
                parents = generate_parents(
                    world, stage.unet, stage.summarizer, stage.vae[0], level, batch["places"]
                )
                parents = parents + ALONE_NOISE * batch["spoil"]
                batch["made"], batch["is_made"] = parents[batch["where"]], batch["kind"] == PARENT
                stage.unet.level_now = level
                row.append(f"m{float(stage.errors(batch)[0].mean()):.3f}")
        rows.append(f"{NAMES[level]} {' '.join(row)}")
    return " | ".join(rows)


@torch.no_grad()
def sheet(world: World, stage: GpuStage, path: Path, columns: int = 10) -> None:
    """Withheld windows: real, from context, from a generated parent, from the base layer."""
    rows, rng = [], np.random.default_rng(3)
    world.random.manual_seed(3)
    torch.manual_seed(3)
    vae = stage.vae[0]
    for level in range(5):
        batch = items(world, stage, level, columns, rng, 0, BASE if level < 3 else PARENT)
        batch = {k: v[:columns] for k, v in batch.items()}
        rows.append(np.concatenate(list(batch["pixels"].cpu().numpy()), 1))
        _, hint, context = stage.given(batch)
        choices = [(NONE, None, 0.0)]
        if level < MADE_LEVELS:
            parents = generate_parents(
                world, stage.unet, stage.summarizer, vae, level, batch["places"]
            )
            parents = parents + ALONE_NOISE * batch["spoil"][: len(parents)]
            choices.append((PARENT, parents, ALONE_NOISE))
        if level < 3:
            choices.append((BASE, hint, float(batch["loss"].mean())))
        stage.unet.level_now = level
        for kind, given, degradation in choices:
            known = Known(level, context.float(), kind, given, degradation)
            times = octave_times(stage.unet.alphas, 6)
            planes = make_planes(stage.unet, vae, known, batch["noise"], times)
            rows.append(np.concatenate(list(to_pixels(planes_image(planes))), 1))
    Image.fromarray(np.concatenate(rows)).save(path)
