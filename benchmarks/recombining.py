"""What the first and the last prediction under a base layer know, band by band, and both together.

Usage: python benchmarks/recombining.py SLIDE ARCHIVE [--pipeline demo] [--tiles 96] [--full]

The first prediction of the denoiser is the mean of the possible images, the last one of them. For
tiles as in `steps.py` it prints the mean squared error of the planes by frequency, of the base
layer, of both predictions and of what `zoomldm.generation.bands.recombined` makes of them, beside
the slide's own power; what luminance has above the cut and what predictions lack of it, on glass
and in tissue; then the figures of `steps.py` for the last prediction and for recombined ones, with
the default cuts and gain, and with others (`--full`). Choose on slides of training cases, not on
others.
"""

from itertools import pairwise

import numpy as np
import torch
from scipy.fft import dctn
from steps import Patches, Scores, arguments_of
from torch import Tensor

from zoomldm.diffusion.multistep import spread_times
from zoomldm.generation.bands import FLAT, GAIN, TEXTURED, above, cuts_under, local_std, recombined
from zoomldm.generation.octaves import LAST, NEAREST
from zoomldm.generation.options import DEFAULTS
from zoomldm.pipeline import load_pipeline

EDGES = (0, 0.06, 0.12, 0.25, 0.35, 0.5, 0.7, 1, 1.5)  # over Nyquist's frequency
SOLVERS = (("2m", 3), ("2m", 4), ("2m", 6), ("ddim", 3), ("ddim", 4))


def by_band(planes: Tensor) -> list[float]:
    """Mean square of (n, c, h, h) in each band, in units of 1e-4."""
    bands = np.asarray(dctn(planes.cpu().numpy(), axes=(-2, -1), norm="ortho"))
    bands = (bands**2).mean((0, 1))
    u = np.arange(len(bands)) / len(bands)
    radius = np.hypot(u[:, None], u)
    pairs = pairwise(EDGES)
    return [1e4 * float(bands[(radius >= a) & (radius < b)].mean()) for a, b in pairs]


def print_by_contrast(real: Tensor, expected: Tensor, sampled: Tensor, cut: float) -> None:
    """What luminance has and what predictions lack above the cut, where the first is how flat."""
    std = local_std(expected)
    parts = [above(x, cut).square() for x in (real, real - expected, sampled - expected)]
    edges = (0, FLAT, TEXTURED, 0.15, 0.3, 9)
    print(f"| std of the first prediction up to | {' | '.join(map(str, edges[1:-1]))} | more |")
    print("|---" * len(edges) + "|")
    inside = [(std >= a) & (std < b) for a, b in pairwise(edges)]
    rows = {"share of the tiles (%)": [100 * float(i.float().mean()) for i in inside]}
    names = "the slide's power", "what the first prediction lacks", "what sampling adds"
    for name, part in zip(names, parts, strict=True):
        rows[name] = [1e4 * float(part[i].mean()) for i in inside]
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(f'{v:.1f}' for v in values)} |")
    print()


def main() -> None:
    """Measure and print."""
    given = arguments_of(__doc__, "other cuts, gains and solvers too").parse_args()
    torch.set_num_threads(1)
    pipeline = load_pipeline(given.pipeline, given.device)
    patches = Patches(given.slide, given.archive, pipeline, given.tiles)
    vae, alphas = pipeline.vae, pipeline.unet.alphas

    usual = cuts_under(patches.loss)

    def sample(solver: str, steps: int) -> tuple[Tensor, Tensor]:
        return patches.sample(spread_times(alphas, steps, LAST, NEAREST), solver)

    def both(
        pair: tuple[Tensor, Tensor], cuts: tuple[float, float] | None = None, gain: float = GAIN
    ) -> Tensor:
        expected, sampled = (vae.to_planes(latents) for latents in pair)
        return vae.from_planes(recombined(expected, sampled, cuts or usual, gain))

    print(f"{len(patches.real)} tiles of {given.slide.stem}, quality as stored\n")
    steps = DEFAULTS["pyramid"][0]
    pair = sample("2m", steps)
    real = vae.to_planes(patches.true)
    for k, name in enumerate(real._fields):
        print(f"| {name}: frequency up to | {' | '.join(map(str, EDGES[1:]))} |")
        print("|---" * len(EDGES) + "|")
        rows = {
            "base layer": patches.hint,
            "first prediction": pair[0],
            "last prediction": pair[1],
            "recombined": both(pair),
        }
        errors = {label: vae.to_planes(latents)[k] - real[k] for label, latents in rows.items()}
        for label, values in {"the slide's power": real[k], **errors}.items():
            print(f"| {label} | {' | '.join(f'{v:.1f}' for v in by_band(values))} |")
        print()
    print_by_contrast(*(vae.to_planes(z).luma for z in (patches.true, *pair)), usual[0])
    scores = Scores(patches)
    print(Scores.HEAD)
    scores.show("last prediction", steps, pair[1])
    scores.show("recombined", steps, both(pair))
    if vae.restores:
        scores.show("first, restored", 1, pair[0], expected=True)
    if not given.full:
        return
    for cuts in ((0.25, 0.25), (0.35, 0.35), (0.5, 0.35), (0.5, 0.5), (0.65, 0.35)):
        scores.show(f"cuts {cuts[0]}, {cuts[1]}", steps, both(pair, cuts))
    for solver, steps in SOLVERS:
        pair = sample(solver, steps)
        for gain in (1.0, 1.15, 1.3, 1.4):
            scores.show(f"{solver}, gain {gain}", steps, both(pair, usual, gain))


if __name__ == "__main__":
    main()
