"""Parents that the denoiser makes itself, as those are that it meets without a base layer."""

import torch
import virtual
from average import Average
from torch import Tensor
from torch.nn import functional as F
from windows import World

from zoomldm.generation.octaves import (
    ALONE_NOISE,
    DRAWN_NOISE,
    PARENT_NOISE,
    Known,
    make_latents,
    octave_times,
)
from zoomldm.geometry.levels import COARSEST
from zoomldm.networks.lowpass import Planes, enlarged
from zoomldm.networks.octave_denoiser import NONE, PARENT
from zoomldm.training.head_fit import latents_of

MADE = 0.5  # of the parents, in the second part
OTHER = 0.3  # of these that carry another noise than where contexts are a slide's own
MADE_LEVELS = 4  # finest levels that may have a made parent


@torch.no_grad()
def made_parents(world: World, net, summarizer, vae, level: int, places: Tensor, steps=6):
    """What the denoiser itself hands down to windows (n, 3) of a level: hints (n, 6, 32, 32)."""
    up = level + 1
    step = virtual.TOKEN if up < virtual.FINE else max(virtual.SIDE >> up, 1)
    half = places[:, 1:] // 2
    rest = half % step
    steps_in = (32 - rest) // step + 1
    offset = rest + step * (torch.rand(rest.shape, device=rest.device) * steps_in).long()
    offset = offset.clamp(max=32)
    corner = half - offset
    drawn = world.at(up, places[:, 0], corner[:, 0], corner[:, 1])
    n = len(places)
    levels = torch.full((n,), up, device=half.device)
    context = summarizer(drawn.grids, levels, drawn.shifts).float()
    with torch.autocast(world.device.type, enabled=False):
        latents = latents_of(vae, drawn.pixels)
        planes = vae.to_planes(latents)
        above = Planes(*(F.avg_pool2d(p, 2) for p in planes))
        hint = vae.from_planes(enlarged(above))
    hint = hint + ALONE_NOISE * torch.randn_like(hint)
    kind = PARENT if torch.rand(()) < 0.5 and up < COARSEST else NONE
    net.level_now = up
    known = Known(up, context, kind, hint if kind else None, ALONE_NOISE if kind else 0.0)
    made = make_latents(net, known, torch.randn_like(hint), octave_times(net.alphas, steps)).float()
    with torch.autocast(world.device.type, enabled=False):
        planes = vae.to_planes(made)
        own = []
        for plane, unit in zip(planes, (1, 2), strict=True):
            side = plane.shape[-1] // 2
            line = torch.arange(side, device=plane.device)
            y = (offset[:, 0] // unit)[:, None] + line
            x = (offset[:, 1] // unit)[:, None] + line
            b = torch.arange(n, device=plane.device)[:, None, None]
            own.append(plane.movedim(1, -1)[b, y[:, :, None], x[:, None]].movedim(-1, 1))
        return vae.from_planes(enlarged(Planes(*own)))


@torch.no_grad()
def put_parents(world: World, average: Average, vae, level: int, batch: dict[str, Tensor]) -> None:
    """Let half of the parents of a batch be made."""
    device, size = world.device, len(batch["kind"])
    which = (batch["kind"] == PARENT) & (torch.rand(size, device=device) < MADE)
    most = int(0.4 * size)
    number = torch.nonzero(which)[:most, 0]
    if not len(number):
        return
    padded = torch.zeros(most, dtype=torch.long, device=device)
    padded[: len(number)] = number
    places = batch["places"][batch["where"][padded]]
    hints = made_parents(world, average.unet, average.summarizer, vae, level, places)[: len(number)]
    noise = torch.full((len(number),), ALONE_NOISE, device=device)
    other = torch.rand(len(number), device=device)
    noise = torch.where(other < OTHER, (DRAWN_NOISE * other / OTHER).clamp(min=PARENT_NOISE), noise)
    spoilt = hints + noise.view(-1, 1, 1, 1) * batch["spoil"][number]
    batch["made"] = torch.zeros_like(batch["noise"])
    batch["made"][number] = spoilt.to(batch["made"])
    batch["is_made"] = torch.zeros_like(which)
    batch["is_made"][number] = True
    batch["loss"][number] = noise
