"""Archives with one flipped bit each, and archives cut short: is everything noticed?

Usage: python benchmarks/damage.py [--slide SLIDE] [--pipeline tiny] [--flips 100] [--cuts 20]

A training archive (latents included) is made of the slide, or of a painted one. Of each damaged
copy, `verify` must report a problem. Then every array is read, piece by piece: a piece either
raises or gives exactly what the sound archive gives, and at least one raises, unless the flipped
bit lies where no read looks (metadata of the two zarr groups).
"""

import argparse
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from paths import painted

from zoomldm.archive import Archive, open_archive, verify_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.errors import ArchiveError


def reads(archive: Archive) -> list[Callable[[Archive], np.ndarray]]:
    """One read for each piece that an archive gives out."""
    found: list[Callable[[Archive], np.ndarray]] = [
        lambda a: a.mask,
        lambda a: a.background,
        lambda a: (a.overview() or (0, np.empty(0)))[1],
    ]
    for row in range(0, archive.rows, 16):
        for col in range(0, archive.cols, 16):
            found.append(lambda a, r=row, c=col: a.embeddings(r, r + 16, c, c + 16))
    for level in archive.latent_levels:
        found.append(lambda a, k=level: a.offsets(k))
        count = len(archive.offsets(level))
        for first in range(0, count, 64):
            indices = np.arange(first, min(first + 64, count))
            found.append(lambda a, k=level, i=indices: a.latents(k, i))
    return found


def check(
    path: Path, pieces: list[Callable[[Archive], np.ndarray]], expected: list[np.ndarray]
) -> tuple[int, int]:
    """(reads that raised, reads that gave other numbers); opening counts as a read."""
    try:
        archive = open_archive(path)
    except ArchiveError:
        return 1, 0
    raised = wrong = 0
    for read, right in zip(pieces, expected, strict=True):
        try:
            wrong += not np.array_equal(read(archive), right)
        except ArchiveError:
            raised += 1
    return raised, wrong


def main() -> int:
    """Damage, look, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--pipeline", default="tiny")
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        sound, broken = Path(folder) / "a.zldm", Path(folder) / "b.zldm"
        slide = options.slide or painted(Path(folder))
        compress(slide, sound, CompressOptions(for_training=True), pipeline=options.pipeline)
        whole = sound.read_bytes()
        with zipfile.ZipFile(sound) as file:
            unread = [
                range(i.header_offset, i.header_offset + 30 + len(i.filename) + i.file_size)
                for i in file.infolist()
                if i.filename in ("latents/zarr.json", "offsets/zarr.json")
            ]
        with open_archive(sound) as archive:
            pieces = reads(archive)
            expected = [np.array(read(archive)) for read in pieces]
        damages = [("flip", rng.randrange(8 * len(whole))) for _ in range(options.flips)]
        damages += [("cut", rng.randrange(len(whole))) for _ in range(options.cuts)]
        totals = {"flip": [0, 0, 0, 0, 0], "cut": [0, 0, 0, 0, 0]}
        for kind, place in damages:
            data = bytearray(whole)
            if kind == "flip":
                data[place // 8] ^= 1 << place % 8
            else:
                del data[place:]
            broken.write_bytes(data)
            raised, wrong = check(broken, pieces, expected)
            touched = kind == "cut" or not any(place // 8 in span for span in unread)
            total = totals[kind]
            total[0] += 1
            total[1] += bool(verify_archive(broken))
            total[2] += touched
            total[3] += touched and raised > 0
            total[4] += wrong
    print(f"archive of {slide.name}: {len(whole):,} bytes, {len(pieces)} reads each")
    ok = True
    for kind, (count, noticed, touched, raised, wrong) in totals.items():
        print(
            f"  {kind:<5} {count:4} archives: verify noticed {noticed}, reads touched {touched} "
            f"and raised in {raised}, wrong numbers in {wrong} reads"
        )
        ok &= noticed == count and raised == touched and not wrong
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
