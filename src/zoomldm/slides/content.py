"""Which slide a file holds, whatever it is called: a digest of its content."""

import hashlib
from pathlib import Path

WHOLE = 64 << 20  # bytes up to which a file is read whole
PLACES = 512  # places that are read of a larger one
BLOCK = 64 << 10  # bytes read at each

# Formats whose pixels lie in other files than the one that is opened.
_MANY_FILES = ("mirax", "hamamatsu", "dicom")


def content_digest(path: Path, vendor: str = "", quickhash: str | None = None) -> str:
    """SHA-256 that tells one slide file from another, as 64 hexadecimal digits.

    Of the decimal size of the file and a line end, then of its bytes: all of them up to 64 MiB,
    else 512 blocks of 64 KiB, block i from byte (size - 65536) * i // 511 on, so that the first
    and the last are among them. OpenSlide's quickhash follows where the pixels lie in other files.

    Args:
        path: the file.
        vendor: its format in OpenSlide's words.
        quickhash: OpenSlide's own digest, if it has one.

    Raises:
        OSError: the file can't be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            for place in range(PLACES):
                file.seek((size - BLOCK) * place // (PLACES - 1))
                digest.update(file.read(BLOCK))
    if vendor in _MANY_FILES and quickhash:
        digest.update(quickhash.encode())
    return digest.hexdigest()
