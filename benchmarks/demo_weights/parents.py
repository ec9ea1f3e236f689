"""Parents that the denoiser makes itself, as those are that it meets without a base layer."""

import torch
import virtual
from torch import Tensor
from torch.nn import functional as F
from windows import World

from zoomldm.generation.octaves import ALONE_NOISE, Known, make_latents, octave_times
from zoomldm.geometry.levels import COARSEST
from zoomldm.networks.lowpass import Planes, enlarged
from zoomldm.networks.octave_denoiser import NONE, PARENT
from zoomldm.training.head_fit import latents_of


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
