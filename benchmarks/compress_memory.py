"""Peak memory of compress on slides of 100,000 x 100,000 px, pyramidal and of a single level.

Usage: python benchmarks/compress_memory.py [--side 100000] [--tissue 0.05] [--pipeline tiny]

Each slide is painted at 0.5 mpp, then `zoomldm compress` runs in a process of its own, whose
resident memory, all its children included, is sampled every 50 ms. Pages that processes share
are counted once for each, so the figure is rather too high than too low. The process's own
high-water mark (ru_maxrss) is printed beside it.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

from paths import painted
from watching import watched

AIM = 2e9


def main() -> int:
    """Paint, compress, sample, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--tissue", type=float, default=0.05)
    parser.add_argument("--pipeline", default="tiny")
    parser.add_argument("--kinds", default="pyramidal,single level")
    options = parser.parse_args()
    ok = True
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            slide = painted(
                Path(folder),
                options.side,
                options.side,
                tissue=options.tissue,
                levels=1 if kind == "single level" else None,
            )
            target = Path(folder) / "a.zldm"
            found = watched(
                [sys.executable, "-m", "zoomldm", "compress", str(slide), "-o", str(target),
                 "--pipeline", options.pipeline],
            )  # fmt: skip
            most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            print(
                f"{kind}: {options.side} x {options.side} px, {slide.stat().st_size / 1e6:.0f} MB, "
                f"tissue {options.tissue:.0%}, {options.pipeline}: peak {found.peak / 1e9:.2f} GB "
                f"sampled, {most / 1e9:.2f} GB high-water, {found.seconds:.0f} s, "
                f"exit code {found.code}",
                flush=True,
            )
            ok &= found.code == 0 and max(found.peak, most) < AIM
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
