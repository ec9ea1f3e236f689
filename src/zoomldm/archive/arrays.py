"""Zarr v3 arrays as members: their metadata, and encoding and decoding of their chunks."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from imagecodecs import ZstdError, zstd_decode, zstd_encode
from numpy.typing import NDArray

from zoomldm.archive.manifest import dump_json, parse_json
from zoomldm.errors import ArchiveError

ZSTD_LEVEL = 3
MAX_CHUNK = 1 << 28
_DTYPES = {
    "bool": np.dtype("?"),
    "uint8": np.dtype("u1"),
    "int8": np.dtype("i1"),
    "int32": np.dtype("<i4"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
}


@dataclass(frozen=True)
class ArraySpec:
    """One array: shape, type, chunk shape, and whether its chunks are compressed with zstd."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    zstd: bool

    @property
    def numpy(self) -> np.dtype:
        """The little-endian numpy type."""
        return _DTYPES[self.dtype]

    @property
    def meta_name(self) -> str:
        """Name of the member that holds the metadata."""
        return f"{self.name}/zarr.json"

    @property
    def chunk_bytes(self) -> int:
        """Size of one chunk before compression."""
        return math.prod(self.chunk) * self.numpy.itemsize

    def chunk_name(self, *index: int) -> str:
        """Name of the member that holds a chunk."""
        return "/".join([self.name, "c", *map(str, index)])

    def metadata(self) -> bytes:
        """The array's `zarr.json`."""
        fill = {"bool": False}.get(self.dtype, 0 if "int" in self.dtype else 0.0)
        order: dict[str, Any] = {"name": "bytes"}
        if self.numpy.itemsize > 1:
            order["configuration"] = {"endian": "little"}
        codecs = [order]
        if self.zstd:
            codecs.append(
                {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}
            )
        return dump_json(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": self.shape,
                "data_type": self.dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.chunk}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": fill,
                "codecs": codecs,
                "attributes": {},
            }
        )

    def encode(self, chunk: NDArray) -> bytes:
        """Encode a chunk; one cut short at the array's edge is padded with zeros."""
        if chunk.shape != self.chunk:
            whole = np.zeros(self.chunk, self.numpy)
            whole[tuple(slice(0, n) for n in chunk.shape)] = chunk
            chunk = whole
        raw = np.ascontiguousarray(chunk, self.numpy).tobytes()
        return bytes(zstd_encode(raw, level=ZSTD_LEVEL)) if self.zstd else raw

    def decode(self, data: bytes, what: str) -> NDArray:
        """Decode a chunk (read-only) from its bytes; never allocates more than one chunk's size.

        Raises:
            ArchiveError: the bytes are not exactly one chunk; `what` names it.
        """
        if self.zstd:
            room = bytearray(self.chunk_bytes)
            try:
                # zstd gets a buffer of one chunk: a forged frame can't allocate more.
                size = len(zstd_decode(data, out=room))
            except ZstdError as error:
                raise ArchiveError(f"{what} can't be decompressed ({error})") from error
            raw = np.frombuffer(room, np.uint8)
        else:
            raw = np.frombuffer(data, np.uint8)
            size = raw.size
        if size != self.chunk_bytes:
            raise ArchiveError(f"{what} holds {size} bytes, expected {self.chunk_bytes}")
        array = raw.view(self.numpy).reshape(self.chunk)
        array.flags.writeable = False
        return array


def parse_spec(
    data: bytes, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...], path: object
) -> ArraySpec:
    """Parse an array's `zarr.json`, which must have one of `dtypes` and exactly this shape.

    Raises:
        ArchiveError: it differs, or uses codecs or chunks that are not part of the format.
    """
    what = f"{path}: member {name}/zarr.json"
    meta = parse_json(data, what)
    try:
        chunk = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = [codec["name"] for codec in meta["codecs"]]
        dtype, found = meta["data_type"], tuple(meta["shape"])
        grid, keys = meta["chunk_grid"]["name"], meta["chunk_key_encoding"]
        separator = keys.get("configuration", {}).get("separator", "/")
        order = meta["codecs"][0].get("configuration", {}).get("endian", "little")
        plain = (grid, keys["name"], separator, order) == ("regular", "default", "/", "little")
        empty = meta["fill_value"] == 0
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ArchiveError(f"{what} is not the metadata of a Zarr v3 array") from error
    if dtype not in dtypes or found != shape:
        raise ArchiveError(
            f"{what} declares {dtype} {list(found)}, expected {' or '.join(dtypes)} {list(shape)}"
        )
    if not plain or not empty or codecs not in (["bytes"], ["bytes", "zstd"]):
        raise ArchiveError(f"{what} uses a chunk grid, fill value or codec not in this format")
    if len(chunk) != len(shape) or not all(type(n) is int and 0 < n < 1 << 31 for n in chunk):
        raise ArchiveError(f"{what} has no valid chunk shape")
    spec = ArraySpec(name, dtype, shape, chunk, codecs[-1] == "zstd")
    if spec.chunk_bytes > MAX_CHUNK:
        raise ArchiveError(
            f"{what} declares chunks of {spec.chunk_bytes} bytes, over the limit of {MAX_CHUNK}"
        )
    return spec


def whole_spec(name: str, array: NDArray, zstd: bool = True) -> ArraySpec:
    """The spec of an array stored as one chunk."""
    return ArraySpec(name, array.dtype.name, array.shape, array.shape, zstd)
