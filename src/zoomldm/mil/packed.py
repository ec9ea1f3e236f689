"""Features of many slides in one memory-mapped file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from zoomldm.errors import TargetError


class Packed(Sequence[Tensor]):
    """Bags (N, D) float32, one after another in one file.

    For any number of slides it needs one file descriptor, and the system can reclaim its memory
    because it is a file mapping. It is passed to other processes as a path.

    Args:
        path: the file.
        spans: per bag, the offset of its first value and its number of instances.
        dim: D.
    """

    def __init__(self, path: Path, spans: Sequence[tuple[int, int]], dim: int) -> None:
        self.path, self.spans, self.dim = path, tuple(spans), dim
        self._numbers: Tensor | None = None

    def __len__(self) -> int:
        """Number of bags."""
        return len(self.spans)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> "Packed": ...
    def __getitem__(self, index: int | slice) -> "Tensor | Packed":
        """Return one bag (N, D) without copying it."""
        if isinstance(index, slice):
            return self.choose(range(len(self))[index])
        if self._numbers is None:
            count = self.path.stat().st_size // 4
            self._numbers = torch.from_file(
                str(self.path), shared=False, size=count, dtype=torch.float32
            )
        first, instances = self.spans[index]
        return self._numbers[first : first + instances * self.dim].view(instances, self.dim)

    def choose(self, rows: Iterable[int]) -> "Packed":
        """Select the bags at the given indices, in that order."""
        return Packed(self.path, [self.spans[i] for i in rows], self.dim)

    def __getstate__(self) -> tuple[Path, tuple[tuple[int, int], ...], int]:
        return self.path, self.spans, self.dim

    def __setstate__(self, state: tuple[Path, tuple[tuple[int, int], ...], int]) -> None:
        self.path, self.spans, self.dim = state
        self._numbers = None


class Packer:
    """Collect bags in memory or in a file.

    Args:
        path: the file, or None for memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._bags: list[Tensor] = []
        self._spans: list[tuple[int, int]] = []
        self._next, self._dim = 0, 0
        self._file = path.open("wb") if path else None

    def add(self, bag: Tensor) -> None:
        """Add one bag (N, D) float32.

        Raises:
            TargetError: the disk is full.
        """
        if self._file is None:
            self._bags.append(bag)
            return
        self._dim = bag.shape[1]
        try:
            self._file.write(bag.contiguous().numpy().data)
        except OSError as error:
            raise TargetError(
                f"{self.path}: features can't be packed there ({error.strerror or error}); the "
                f"output folder takes a copy of all of them while it runs: free some space"
            ) from error
        self._spans.append((self._next, len(bag)))
        self._next += bag.numel()

    def done(self) -> Sequence[Tensor]:
        """Return all bags; none can be added afterwards."""
        if self._file is None:
            return tuple(self._bags)
        self._file.close()
        assert self.path is not None
        return Packed(self.path, self._spans, self._dim)

    def __enter__(self) -> "Packer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
