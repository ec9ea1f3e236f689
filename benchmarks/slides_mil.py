"""Table 2's comparison on twelve small slides: tile embeddings against the summarizer's features.

    python benchmarks/slides_mil.py ARCHIVES [--pipeline demo] [--write docs/mil-slides.md]

ARCHIVES is a folder with an archive of each slide in index.csv. Malignant against the rest, one
case left out at a time; each fold then holds one class, so the AUC is that of all folds together.
A demonstration: eight cases, of which six trained the networks. Running it again goes on where it
stopped. Needs ../shared/slides.
"""

import argparse
import csv
import time
from pathlib import Path

from zoomldm.errors import ConfigError
from zoomldm.features import FeatureOptions, FeatureReport, extract_features
from zoomldm.mil.run import MilOptions, run_mil
from zoomldm.pipeline import load_pipeline
from zoomldm.tables import as_markdown

SLIDES = Path(__file__).parents[2] / "shared" / "slides"
MODELS = ("clam-sb", "dsmil", "abmil", "max-instance", "mean-pool", "max-pool", "logistic")
SOURCES = {
    "Tile embeddings": FeatureOptions(source="tiles"),
    "Emb CNN": FeatureOptions(source="summarizer"),
    "Denoiser, middle, 1.25x": FeatureOptions(source="unet", level="1.25x"),
}
LIMITS = """\
What it is: a demonstration that the path from archives to Table 2 works, on {slides} slides of
{cases} cases, of which six trained the networks themselves (without labels). It can't rank the
sources: intervals are 95 % bootstrap intervals over cases, and with four cases a class they are
too narrow still. Organ and stain go along with the label, so an AUC near 1 may mean those, and
leaving a case out shifts the classes' shares against it, so that models which learned little fall
below 0.5. The slides are biopsies of a fraction of one 0.15625x patch: most of the 64 tokens
stand for background or lie beyond the slide, and the ratio is far from the paper's (8000 x 384
against 128 x 512: 46.9, stated as 45)."""


def write_labels(index: Path, path: Path) -> tuple[int, int]:
    """Write the label CSV of the slides' index; how many slides and cases."""
    with index.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "case_id", "label"])
        writer.writerows([row["file"], row["case"], row["label"]] for row in rows)
    return len(rows), len({row["case"] for row in rows})


def sizes(reports: list[FeatureReport]) -> list[str]:
    """A line of the sizes table: means over the slides."""
    n = len(reports)
    values = sum(r.values for r in reports)
    parts = [f"{sum(r.bytes[p] for r in reports) / n / 1e3:,.1f}" for p in reports[0].bytes]
    ratio = sum(r.tile_values for r in reports) / values
    return [f"{values / n:,.0f}", *parts, f"{ratio:,.1f}"]


def main() -> None:
    """Make the features, train, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("archives", type=Path)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--slides", type=Path, default=SLIDES)
    parser.add_argument("--out", type=Path, default=Path("runs/mil-slides"))
    parser.add_argument("--write", type=Path, help="Markdown file to write as well")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    begin = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    slides, cases = write_labels(arguments.slides / "index.csv", arguments.out / "labels.csv")
    archives = sorted(arguments.archives.glob("*.zldm"))
    if len(archives) < slides:
        raise ConfigError(f"{arguments.archives}: {len(archives)} archives, expected {slides}")
    model = load_pipeline(arguments.pipeline)
    folders, table = {}, []
    for name, options in SOURCES.items():
        folder = arguments.out / f"{options.source}-features"
        folder.mkdir(exist_ok=True)
        reports = [extract_features(a, folder, options, pipeline=model) for a in archives]
        folders[name] = folder
        table.append([name, *sizes(reports)])
    results = arguments.out / "results"
    results.mkdir(exist_ok=True)
    options = MilOptions(
        labels=arguments.out / "labels.csv",
        folds=cases,
        models=MODELS,
        fractions=(1.0,),
        seeds=tuple(int(s) for s in arguments.seeds.split(",")),
        epochs=arguments.epochs,
        jobs=arguments.jobs,
        positive="malignant",
    )

    def progress(what: str, done: int, total: int) -> None:
        print(f"{what}: {done}/{total}", flush=True)

    report = run_mil(folders, results, options, progress=progress)
    header, rows = report.all_models()
    models = as_markdown(header[:2] + header[3:4], [row[:2] + row[3:4] for row in rows])
    columns = ["Features", "values a slide", "float32 kB", "float16 kB", "int8 kB", "tiles' ratio"]
    page = "\n\n".join(
        [
            "# MIL on twelve slides",
            f"Printed by `python benchmarks/slides_mil.py ARCHIVES --pipeline "
            f"{Path(arguments.pipeline).name}`; pipeline digest `{model.digest()[:16]}`; "
            f"{report.protocol.name} protocol, "
            f"{report.protocol.epochs} epochs, seeds {arguments.seeds}.",
            LIMITS.format(slides=slides, cases=cases),
            "## Table 2's layout: pooled AUC and its interval",
            as_markdown(*report.table2()),
            "## All models",
            models,
            "## Sizes, mean over the slides",
            as_markdown(columns, table),
        ]
    )
    print(report.text())
    if arguments.write:
        arguments.write.write_text(page + "\n")
    print(f"\n{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
