"""Make what `make demo` shows beside the shipped archive: the real place, and a codec's picture.

    python benchmarks/demo_data.py SLIDE ARCHIVE FOLDER

FOLDER is src/zoomldm/weights/demo; written are real.jpg (the place with most tissue at eight
magnifications, finest first), codec.avif (5x around it at the same bytes a tile), codec.json.
"""

import json
import sys
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from zoomldm.archive import open_archive
from zoomldm.geometry.lattice import densest_point, patch_windows
from zoomldm.slides import open_slide

SIDE = 512  # px at 5x, 64 tiles


def main(slide_path: str, archive_path: str, folder: Path) -> None:
    """Write the three files."""
    with open_archive(archive_path) as archive, open_slide(slide_path) as slide:
        point = densest_point(archive.mask)
        windows = patch_windows(point)
        patches = [slide.read(level, *windows[level]) for level in sorted(windows)]
        Image.fromarray(np.concatenate(patches, 1)).save(folder / "real.jpg", quality=88)
        x, y = (p // 4 // 64 * 64 - SIDE // 2 for p in point)
        image = slide.read(2, x, y, SIDE, SIDE)
        wanted = archive.file_bytes / archive.manifest.tissue_tiles * (SIDE // 64) ** 2
        fits = [
            data
            for quality in range(1, 100)
            if len(data := imagecodecs.avif_encode(image, level=quality, speed=6)) <= wanted
        ]
        (folder / "codec.avif").write_bytes(fits[-1])
        metadata = {"file": "codec.avif", "x": x, "y": y, "raster": list(archive.size)}
        metadata["bytes_per_tile"] = round(len(fits[-1]) / (SIDE // 64) ** 2, 1)
        (folder / "codec.json").write_text(json.dumps(metadata) + "\n")
    print(metadata, "archive:", round(wanted / (SIDE // 64) ** 2, 1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
