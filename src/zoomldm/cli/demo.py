"""What `make demo` runs: an archive of embeddings becomes pictures, a TIFF, an archive again."""

import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

from zoomldm.cli.output import megabytes, print_table, progress

SIDE = 2048  # px of the 0.5 mpp raster that are written as a TIFF


def main(folder: Path) -> None:
    """Run the demo, writing into `folder`."""
    print("loading the pipeline", flush=True)
    from zoomldm.archive import open_archive
    from zoomldm.compression.compress import compress
    from zoomldm.geometry.lattice import densest_region
    from zoomldm.pipeline import load_pipeline
    from zoomldm.rendering import decompress

    folder.mkdir(exist_ok=True)
    source = Path(str(resources.files("zoomldm") / "weights" / "demo.zldm"))
    with open_archive(source) as archive:
        manifest, size = archive.manifest, archive.size
        region = densest_region(archive.mask, size, SIDE)
    pipeline = load_pipeline()
    ladder, picture, again = (folder / n for n in ("ladder.png", "region.tif", "region.zldm"))
    rows = []

    def step(what: str, run: Any) -> Any:
        start = time.monotonic()
        with progress() as advance:
            result = run(advance)
        seconds = time.monotonic() - start
        print(f"{what}: {seconds:.0f} s", flush=True)
        return result, seconds

    _, seconds = step(
        "ladder of eight magnifications",
        lambda a: decompress(
            source, ladder, level="all", region=region, pipeline=pipeline, progress=_patches(a)
        ),
    )
    raw = size[0] * size[1] * 3
    rows.append(_row("slide -> archive", manifest.slide.file_bytes, source, raw, "-"))
    rows.append(
        [
            "-> ladder.png",
            megabytes(source.stat().st_size),
            megabytes(ladder.stat().st_size),
            "-",
            "-",
            f"{seconds:.0f}",
            "all levels",
        ]
    )
    _, seconds = step(
        "region as a pyramidal TIFF",
        lambda a: decompress(
            source, picture, region=region, pipeline=pipeline, progress=_patches(a)
        ),
    )
    rows.append(
        [
            "-> region.tif",
            megabytes(source.stat().st_size),
            megabytes(picture.stat().st_size),
            "-",
            "-",
            f"{seconds:.0f}",
            "all levels",
        ]
    )
    _, seconds = step(
        "region compressed again", lambda a: compress(picture, again, pipeline=pipeline, advance=a)
    )
    raw = region[2] * region[3] * 3
    rows.append(
        _row(
            "region -> archive",
            picture.stat().st_size,
            again,
            raw,
            f"{seconds:.0f}",
            "nothing yet",
        )
    )
    print_table(
        f"demo: {manifest.slide.name}",
        ["what", "in", "out", "of file", "of pixels", "seconds", "generated"],
        rows,
    )
    print(f"look at {ladder} and {picture}")


def _patches(advance: Any) -> Any:
    return lambda done, total: advance("patches", done, total)


def _row(
    what: str, before: int, after: Path, raw: int, seconds: str, generated: str = "nothing"
) -> list[str]:
    count = after.stat().st_size
    return [
        what,
        megabytes(before),
        megabytes(count),
        f"1/{before / count:.0f}",
        f"1/{raw / count:.0f}",
        seconds,
        generated,
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
