"""Checkpoints that survive a kill: staged, flushed, renamed, with the manifest written last."""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoomldm.errors import DamagedError, TargetError

_PREFIX = "step-"
_MANIFEST = "manifest.json"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(
    root: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict, keep: int = 2
) -> Path:
    """Write `root/step-XXXXXXXX` so that it is either complete or absent.

    Args:
        root: folder of the checkpoints.
        step: optimiser steps done.
        tensors: file stem -> flat dictionary of tensors.
        state: small JSON values (step, configuration, versions).
        keep: number of newest checkpoints to keep; older ones are removed.

    Raises:
        TargetError: it can't be written.
    """
    try:
        return _save(root, step, tensors, state, keep)
    except (OSError, SafetensorError) as error:
        raise TargetError(
            f"{root}: checkpoint of step {step} can't be written ({error}); "
            "make room or rights and run again"
        ) from error


def _save(
    root: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict, keep: int
) -> Path:
    root.mkdir(exist_ok=True)
    final = root / f"{_PREFIX}{step:08d}"
    stage = root / f".tmp-{_PREFIX}{step:08d}"
    for stale in [*root.glob(".tmp-*"), final]:
        if stale.exists():
            shutil.rmtree(stale)
    stage.mkdir()
    for stem, flat in tensors.items():
        # safetensors refuses shared or strided storage, so every tensor is copied.
        save_file(
            {k: v.detach().cpu().contiguous().clone() for k, v in flat.items()},
            stage / f"{stem}.safetensors",
        )
    (stage / "state.json").write_text(json.dumps(state, indent=1))
    files = sorted(stage.iterdir())
    manifest = {f.name: {"bytes": f.stat().st_size, "sha256": _digest(f)} for f in files}
    for file in files:
        _sync(file)
    (stage / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    _sync(stage / _MANIFEST)
    _sync(stage)
    stage.rename(final)
    _sync(root)
    for old in sorted(root.glob(f"{_PREFIX}*"))[:-keep]:
        shutil.rmtree(old)
    return final


def check_checkpoint(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        DamagedError: the manifest or a file is missing, or differs.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for name, entry in manifest.items():
            file = folder / name
            if file.stat().st_size != entry["bytes"] or _digest(file) != entry["sha256"]:
                raise DamagedError(f"{file}: differs from its manifest; remove {folder}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder}: not a whole checkpoint ({error}); remove it") from error


def latest_checkpoint(root: Path) -> Path | None:
    """Newest complete checkpoint below `root`, or None; damaged ones are skipped with a warning."""
    for folder in sorted(root.glob(f"{_PREFIX}*"), reverse=True):
        try:
            check_checkpoint(folder)
        except DamagedError as error:
            warnings.warn(f"{error}; an older checkpoint is taken", stacklevel=2)
            continue
        return folder
    return None


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """Read a checkpoint of `save_checkpoint`: tensors by file stem, and the state."""
    check_checkpoint(folder)
    tensors = {f.stem: load_file(f) for f in folder.glob("*.safetensors")}
    return tensors, json.loads((folder / "state.json").read_text())


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimiser state as flat tensors, `index.key`, so that no pickle is needed."""
    flat = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            flat[f"{index}.{key}"] = torch.as_tensor(value)
    return flat


def restore_optimizer(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Restore the output of `flatten_optimizer`; parameter groups stay as they are.

    Moments get their parameter's memory layout, since sums in another order differ in bits.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value.detach()
    current = optimizer.state_dict()
    current["state"] = state
    optimizer.load_state_dict(current)


def flatten(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Weights and buffers of networks as one dictionary, `network.key`."""
    return {f"{n}.{k}": v for n, m in networks.items() for k, v in m.state_dict().items()}


def restore(networks: dict[str, nn.Module], flat: dict[str, Tensor]) -> None:
    """Restore the output of `flatten`."""
    for name, network in networks.items():
        start = f"{name}."
        network.load_state_dict(
            {k.removeprefix(start): v for k, v in flat.items() if k.startswith(start)}
        )
