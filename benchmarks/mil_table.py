"""Table 2's models on real TCGA-BRCA bags with HIPT's splits and protocol.

    python benchmarks/mil_table.py [--out runs/mil] [--seeds 1,2,3] [--jobs 2]

Prints each model's AUC beside the reference run and the published value. Running it again goes
on where it stopped. Needs ../shared/mil.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from zoomldm.mil.run import MilOptions, run_mil
from zoomldm.tables import as_markdown

SHARED = Path(__file__).parents[2] / "shared" / "mil"
# (model, fraction) -> AUC of a reference run of the models' own code on the same bags and folds
REFERENCE = {
    ("clam-sb", 0.25): 0.822,
    ("clam-sb", 1.0): 0.881,
    ("dsmil", 0.25): 0.793,
    ("dsmil", 1.0): 0.827,
    ("abmil", 0.25): 0.821,
    ("max-instance", 0.25): 0.789,
    ("max-instance", 1.0): 0.828,
    ("logistic", 0.25): 0.842,
    ("logistic", 1.0): 0.890,
}


def main() -> None:
    """Run what the table needs, then print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, default=Path("runs/mil"))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--abmil-full", action="store_true", help="also ABMIL on all slides")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    begin, last = time.monotonic(), 0.0

    def advance(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 10 or done == total:
            last = time.monotonic()
            console.print(
                f"{what}: {done}/{total} trainings, {last - begin:.0f} s",
                highlight=False,
                markup=False,
            )

    def run(models: list[str], fractions: list[float], seeds: list[int]):
        options = MilOptions(
            splits=arguments.data / "splits" / "tcga_brca",
            models=tuple(models),
            fractions=tuple(fractions),
            seeds=tuple(seeds),
            jobs=arguments.jobs,
        )
        features = {"HIPT [CLS]4K": arguments.data / "tcga_brca_hipt_cls4k_192_fp16.npz"}
        return run_mil(features, arguments.out, options, progress=advance)

    seeds = [int(s) for s in arguments.seeds.split(",")]
    both = ["clam-sb", "dsmil", "max-instance", "mean-pool", "max-pool", "logistic"]
    if arguments.abmil_full:
        both.insert(2, "abmil")
    else:
        quarter = run(["abmil"], [0.25], seeds)
    report = run(both, [0.25, 1.0], seeds)
    print(report.text())
    rows, misses = [], 0
    for (model, fraction), reference in REFERENCE.items():
        of = report if model in report.models else quarter
        values = of.sources[0].per_fold(model, fraction)
        mean = sum(values.values()) / len(values)
        misses += abs(mean - reference) > 0.02
        cell = of.cell(of.sources[0], model, fraction, "auc")
        rows.append(
            [model, f"{fraction:.0%}", cell, f"{reference:.3f}", f"{mean - reference:+.3f}"]
        )
    print("\n" + as_markdown(["Model", "Training", "AUC", "Reference", "Difference"], rows))
    print(
        f"\n{time.monotonic() - begin:.0f} s; {misses} of {len(rows)} beyond 0.02 of the reference"
    )
    sys.exit(1 if misses else 0)


if __name__ == "__main__":
    main()
