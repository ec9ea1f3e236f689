"""A digest of a slide file's content, which identifies the slide whatever the file's name."""

import hashlib
from pathlib import Path

MOST_READ_WHOLE = 64 << 20  # bytes up to which a file is read whole
PLACES = 512  # blocks that are read of a larger one
BLOCK = 64 << 10  # bytes of each

# Formats with pixels in other files than the one that is opened.
_MANY_FILES = ("mirax", "hamamatsu", "dicom")


def content_digest(path: Path, vendor: str = "", quickhash: str | None = None) -> str:
    """SHA-256 that identifies a slide file, as 64 hexadecimal digits.

    It covers the decimal size of the file and a line end, then the bytes: all of them up to 64 MiB,
    else 512 blocks of 64 KiB, block i from byte (size - 65536) * i // 511 on, so that the first
    and the last bytes are included. OpenSlide's quickhash follows if the pixels are in other files.

    Args:
        path: the file.
        vendor: its format, as named by OpenSlide.
        quickhash: OpenSlide's own digest, if there is one.

    Raises:
        OSError: the file can't be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        if size <= MOST_READ_WHOLE:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            for place in range(PLACES):
                file.seek((size - BLOCK) * place // (PLACES - 1))
                digest.update(file.read(BLOCK))
    if vendor in _MANY_FILES and quickhash:
        digest.update(quickhash.encode())
    return digest.hexdigest()
