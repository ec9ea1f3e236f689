"""Third-party checkpoints: read without executing code, checked against what is expected."""

import argparse
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, _weights_only_unpickler, nn

from zoomldm.errors import PipelineError
from zoomldm.networks.finite import check_finite

SHOWN = 12


def read_checkpoint(path: Path, allowed: Iterable[type] = (argparse.Namespace,)) -> Any:
    """Read a file written by torch.save, without executing any of it, or by safetensors.

    Args:
        path: the file; safetensors are recognised by their ending or their first bytes.
        allowed: harmless classes that may occur in it.

    Raises:
        PipelineError: the file names other code, which is listed, or is damaged.
    """
    if _is_safetensors(path):
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise PipelineError(
                f"{path}: can't be read as safetensors ({str(error)[:80]}); the file is cut short "
                "or damaged: download it again"
            ) from error
    with torch.serialization.safe_globals(list(allowed)):
        try:
            unsafe = _unsafe_globals(path)
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, IndexError) as error:
            raise _damaged(path, error) from error
        if unsafe:
            raise PipelineError(
                f"{path}: names code that a checkpoint has no use for ({', '.join(unsafe)}); "
                "refused, nothing was run: expected tensors and plain values only"
            )
        try:
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
            )
        except (
            pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError,
            IndexError, TypeError, AttributeError, MemoryError, AssertionError, UnicodeError,
        ) as error:  # fmt: skip
            raise _damaged(path, error) from error


def _is_safetensors(path: Path) -> bool:
    """By the ending, or by the first bytes: eight with the header's length, then JSON."""
    if path.suffix.lower() == ".safetensors":
        return True
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000


def _damaged(path: Path, error: Exception) -> PipelineError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    reason = re.split(r"(?<=[a-z])\. ", reason)[0][:120]
    return PipelineError(
        f"{path}: can't be read as a checkpoint ({reason}); the file is cut short, damaged or "
        "of another kind: download it again"
    )


def _unsafe_globals(path: Path) -> list[str]:
    """Names outside what `weights_only` allows, in a torch.save zip or a bare pickle."""
    if zipfile.is_zipfile(path):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    named: set[str] = set()
    with path.open("rb") as file:
        head = file.read(2)
        file.seek(0)
        if head[:1] != b"\x80":
            raise ValueError("neither a zip nor a pickle")
        # The old format of torch.save is five pickles in a row, then raw numbers.
        for _ in range(5):
            strings: list[str] = []
            try:
                for code, argument, _ in pickletools.genops(file):
                    if code.name == "GLOBAL":
                        named.add(str(argument).replace(" ", "."))
                    elif code.name == "STACK_GLOBAL":
                        named.add(".".join(strings[-2:]))
                    elif isinstance(argument, str):
                        strings.append(argument)
            except (ValueError, EOFError):
                break
    allowed = set(_weights_only_unpickler._get_allowed_globals())
    return sorted(named - allowed - set(_weights_only_unpickler._get_user_allowed_globals()))


class Tensors(dict[str, Tensor]):
    """Tensors of a checkpoint; a missing name raises `PipelineError`, as it is a user error."""

    def __init__(self, path: Path | str, content: Mapping[str, Any]) -> None:
        super().__init__({k: v for k, v in content.items() if isinstance(v, Tensor)})
        self.path = path

    def __missing__(self, name: str) -> Tensor:
        found = ", ".join(list(self)[:3]) or "no tensors"
        raise PipelineError(
            f"{self.path}: not a ZoomLDM checkpoint: {name} is missing (found {found}, ...)"
        )

    def size(self, name: str, axis: int = 0) -> int:
        """Length of a tensor's axis; 0 if it has no such axis."""
        shape = self[name].shape
        return shape[axis] if axis < len(shape) else 0

    def count(self, pattern: str) -> int:
        """How many of 0, 1, ..., in a row, put into the pattern's {}, begin some tensor's name."""
        i = 0
        while any(name.startswith(pattern.format(i)) for name in self):
            i += 1
        return i


class Mismatches:
    """Keys that are missing, extra or of another shape, collected and reported together."""

    def __init__(self, tensors: Tensors, what: str = "a ZoomLDM checkpoint") -> None:
        self.tensors, self.what, self.used = tensors, what, set[str]()
        self.missing: list[str] = []
        self.misshapen: list[str] = []

    def expect(self, name: str, shape: Iterable[int]) -> None:
        """Note whether the tensor exists with this shape."""
        self.used.add(name)
        if name not in self.tensors:
            self.missing.append(name)
        elif not _fits(self.tensors[name].shape, tuple(shape)):
            found = list(self.tensors[name].shape)
            self.misshapen.append(f"{name} is {found}, expected {list(shape)}")

    def check(self) -> None:
        """Report everything that does not fit.

        Raises:
            PipelineError: naming the keys that are missing, of another shape, or not expected.
        """
        extra = sorted(set(self.tensors) - self.used)
        problems = [
            f"{what} {_listed(names)}"
            for what, names in (
                ("missing", self.missing),
                ("of another shape:", self.misshapen),
                ("extra", extra),
            )
            if names
        ]
        if problems:
            raise PipelineError(
                f"{self.tensors.path}: not {self.what}, or changed: " + "; ".join(problems)
            )


def _listed(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _fits(found: Iterable[int], expected: tuple[int, ...]) -> bool:
    """Same shape, or a 1 x 1 convolution where a linear map is expected."""
    found = tuple(found)
    return found == expected or (len(expected) == 2 and found == (*expected, 1, 1))


def fill(network: nn.Module, tensors: Tensors, source: Mapping[str, str]) -> None:
    """Fill a network on the meta device with the tensors that `source` maps to, in float32.

    Raises:
        PipelineError: a tensor with NaN or infinite values, or of integers (quantised).
    """
    own = network.state_dict()
    for key, value in own.items():
        kind = tensors[source[key]].dtype
        if value.is_floating_point() and not kind.is_floating_point:
            raise PipelineError(
                f"{tensors.path}: {source[key]} is {kind}, expected floating point numbers; "
                "quantised weights can't be taken, give the file that they were made from"
            )
    check_finite(tensors.path, ((source[key], tensors[source[key]]) for key in own))
    values = {k: tensors[source[k]].float().reshape(v.shape) for k, v in own.items()}
    network.load_state_dict(values, assign=True)
    network.eval().requires_grad_(False)
