"""Plot the logs of training runs: one panel a run.

Run: python benchmarks/curves.py OUT.png NAME=RUN/log.jsonl ...
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHOWN = {
    "autoencoder": [("train", "loss"), ("train", "psnr"), ("held-out", "psnr")],
    "patch encoder": [("train", "contrast"), ("train", "hit"), ("held-out", "auc")],
    "denoiser": [
        ("train", "loss"),
        ("train", "level/20x"),
        ("train", "level/1.25x"),
        ("held-out", "held-out"),
    ],
}


def main() -> None:
    """Draw every run's values over its steps; those of unlike size get an axis of their own."""
    out, *runs = sys.argv[1:]
    figure, axes = plt.subplots(1, len(runs), figsize=(5 * len(runs), 3.5), squeeze=False)
    for axis, run in zip(axes[0], runs, strict=True):
        name, path = run.split("=", 1)
        entries = [json.loads(x) for x in Path(path).read_text().splitlines()]
        other = axis.twinx()
        for i, (kind, key) in enumerate(SHOWN.get(name, [("train", "loss")])):
            points = [(e["step"], e[key]) for e in entries if e["kind"] == kind and key in e]
            if points:
                target = other if key in ("psnr", "auc", "hit") else axis
                target.plot(
                    *zip(*points, strict=True),
                    label=f"{kind} {key}",
                    color=f"C{i}",
                    marker="o" if kind == "held-out" else None,
                )
        axis.set_title(name)
        axis.set_xlabel("step")
        lines = [*axis.get_lines(), *other.get_lines()]
        axis.legend(lines, [str(x.get_label()) for x in lines], fontsize=7)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
