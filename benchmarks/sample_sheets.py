"""The pictures of docs/sampling.md: samples of all levels, a zoom, samples like two tiles.

    python benchmarks/sample_sheets.py docs/

They are of the demo pipeline; references are tiles of the shipped archive, whose slide is held out.
"""

import argparse
import tempfile
from importlib import resources
from pathlib import Path

from PIL import Image

from zoomldm.pipeline import load_pipeline
from zoomldm.sampling.exports import SHEET, SheetOptions, write_samples
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.reference import read_reference

LIKE = ("9344,10880", "8064,10880")  # at 20x: lymphocytes, glands


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="*", help="names of sheets")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(arguments.pipeline, arguments.device)
    options = SampleOptions(batch=8)
    archive = resources.files("zoomldm") / "weights" / "demo.zldm"
    references = [read_reference(f"{archive}@{place}", pipeline) for place in LIKE]
    sheets = {
        "new-tissue": {"n": 8},
        "zoom": {"zoom": True, "n": 4},
        "like-1": {"levels": ["20x"], "n": 8, "like": references[0]},
        "like-2": {"levels": ["20x"], "n": 8, "like": references[1]},
    }
    for name, wanted in sheets.items():
        if arguments.only and name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            chosen = SheetOptions(**wanted, samples=options)
            write_samples(folder, chosen, pipeline=pipeline)
            with Image.open(Path(folder) / SHEET) as sheet:
                sheet.convert("RGB").save(arguments.out / f"{name}.jpg", quality=85)
        print(arguments.out / f"{name}.jpg", flush=True)


if __name__ == "__main__":
    main()
