"""What reading takes off the steps at a base codec's blocks, and what it does to the image.

Usage: python benchmarks/blocks.py ARCHIVE... --slides FOLDER [--chunks 2]

The chunks of most tissue of each archive, decoded as they are and as they are read
(`zoomldm.archive.borders.even_blocks`), beside the slide: steps across lines of 16 px and across
those 8 px from them, over steps beside (`zoomldm.evaluation.fidelity.seams`), PSNR and SSIM.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from zoomldm.archive import Archive, open_archive
from zoomldm.archive.base import LOSSLESS, count_tiles, stored_chunks
from zoomldm.archive.borders import even_blocks
from zoomldm.archive.image_codecs import decode_image
from zoomldm.evaluation.fidelity import seams
from zoomldm.slides import open_slide
from zoomldm.tables import as_markdown

Pixels = NDArray[np.uint8]
HEAD = ["archive", "quality", "16 px", "after", "real", "8 px", "after", "real", "dB", "SSIM"]


def chunks(archive: Archive, count: int) -> list[tuple[Pixels, tuple[int, int]]]:
    """The chunks of most tissue as decoded, cut off at the slide's edge, with their corners."""
    base = archive.manifest.base
    assert base is not None
    places = stored_chunks(base, archive.mask)
    fullest = sorted(places, key=lambda p: -count_tiles(base, archive.mask, *p))[:count]
    found = []
    for row, col in fullest:
        data = archive.base_file(row, col)
        assert data is not None
        shape = (base.chunk, base.chunk, 3)
        x, y = col * base.chunk, row * base.chunk
        pixels = decode_image(data, base.codec, shape, str(archive.path))
        found.append((pixels[: base.height - y, : base.width - x], (x, y)))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("archives", type=Path, nargs="+")
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=2)
    given = parser.parse_args()
    rows, names = [], []
    for path in sorted(given.archives):
        with open_archive(path) as archive:
            base, name = archive.manifest.base, archive.manifest.slide.name
            if base is None or base.codec == LOSSLESS:
                continue
            with open_slide(given.slides / name) as slide:
                for plain, (x, y) in chunks(archive, given.chunks):
                    real = slide.read(base.level, x, y, plain.shape[1], plain.shape[0])
                    even = even_blocks(plain)
                    steps = [
                        seams(image, 16, (at, at)).mean
                        for at in (0, 8)
                        for image in (plain, even, real)
                    ]
                    before, after = (peak_signal_noise_ratio(real, i) for i in (plain, even))
                    alike = [structural_similarity(real, i, channel_axis=2) for i in (plain, even)]
                    rows.append([*steps, after - before, alike[1] - alike[0]])
                    names.append([path.stem, str(base.quality)])
    table = np.array(rows)
    names += [["mean", ""], ["lowest", ""], ["highest", ""]]
    table = np.concatenate([table, [table.mean(0), table.min(0), table.max(0)]])
    text = [[f"{v:.2f}" for v in row[:6]] + [f"{row[6]:+.3f}", f"{row[7]:+.4f}"] for row in table]
    print(as_markdown(HEAD, [[*name, *row] for name, row in zip(names, text, strict=True)]))


if __name__ == "__main__":
    main()
