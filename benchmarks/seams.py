"""Whether the pyramid's windows can be seen: differences across their lattice over those inside.

    python benchmarks/seams.py SLIDE ARCHIVE [SLIDE ARCHIVE ...]

For the 1,024 px of most tissue: what the pyramid draws, and the slide itself as the control, across
the lattice of windows (224 px), across that of decoded tiles (256 px), and across the first moved
by 96 px: no window ends there, but a block of the codec does (8 px at 5x), as at the others' lines.
"""

import sys

from zoomldm.archive import open_archive
from zoomldm.evaluation.fidelity import seams
from zoomldm.generation.windows import STRIDE
from zoomldm.geometry.lattice import densest_region
from zoomldm.geometry.levels import TILE
from zoomldm.pipeline import load_pipeline
from zoomldm.rendering.opening import open_renderer
from zoomldm.slides import open_slide

SIDE = 1024
LATTICES = {"windows": (STRIDE * 4, 0), "tiles": (TILE, 0), "codec blocks alone": (STRIDE * 4, 96)}


def main(paths: list[str]) -> None:
    """Print mean and worst for each slide, lattice and picture."""
    pipeline = load_pipeline()
    for slide_path, archive_path in zip(paths[::2], paths[1::2], strict=True):
        with open_archive(archive_path) as archive, open_slide(slide_path) as slide:
            x, y, w, h = densest_region(archive.mask, archive.size, SIDE)
            drawn = open_renderer(archive, pipeline).read(0, x, y, w, h)
            real = slide.read(0, x, y, w, h)
        for name, (period, moved) in LATTICES.items():
            found = [seams(p, period, (x - moved, y - moved)) for p in (drawn, real)]
            figures = ", ".join(
                f"{what} {f.mean:.3f} (worst of {f.lines}: {f.worst:.3f})"
                for what, f in zip(("drawn", "real"), found, strict=True)
            )
            print(f"{slide.path.name}, lattice of {name}, {period} px: {figures}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
