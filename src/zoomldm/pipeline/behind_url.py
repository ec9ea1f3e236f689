"""Pipelines behind URLs: downloaded into a cache, and again if they changed."""

import hashlib
import json
import os
import re
from pathlib import Path

from zoomldm.errors import PipelineError, TargetError
from zoomldm.files import atomic_folder
from zoomldm.remote import MissingError, RemoteError, RemoteFile, RemotePath, download

INDEX = "model_index.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SHARDS = f"{_WEIGHTS}.index.json"
_LARGEST = 1 << 24  # bytes of a JSON file
_PART = re.compile(r"\w+")
_SHARD = re.compile(r"[\w.-]+\.safetensors")


def cache_folder() -> Path:
    """Cache of downloaded pipelines: `zoomldm/pipelines` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zoomldm" / "pipelines"


def fetch_url(url: str) -> Path:
    """Folder of a pipeline behind a URL: from the cache, unless it has changed.

    Only configs and safetensors are downloaded: no pickles, no code.

    Args:
        url: URL of the folder that holds `model_index.json`.

    Raises:
        PipelineError: no pipeline there, it can't be read, or it can't be stored here.
    """
    root = url.rstrip("/") + "/"
    try:
        files = _files(root)
        whole = hashlib.sha256(json.dumps([root, files], default=str, sort_keys=True).encode())
        target = cache_folder() / whole.hexdigest()[:32]
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as folder:
            for name in files:
                (folder / name).parent.mkdir(exist_ok=True)
                download(root + name, folder / name)
    except (RemoteError, TargetError, OSError) as error:
        raise PipelineError(f"pipeline {url}: {error}") from error
    return target


def _files(root: str) -> dict[str, tuple]:
    """Names of a pipeline's files, each with an identifier of its version."""
    index, identity = _json(root, INDEX)
    found = {INDEX: identity}
    for part, named in index.items():
        if part.startswith("_") or not isinstance(named, list) or None in named:
            continue
        if not _PART.fullmatch(part):
            raise PipelineError(f"{root}{INDEX}: {part!r} is no name of a network")
        names = [f"{part}/{name}" for name in ("config.json", "scheduler_config.json", _WEIGHTS)]
        try:
            shards, found[f"{part}/{_SHARDS}"] = _json(root, f"{part}/{_SHARDS}")
            names += [f"{part}/{n}" for n in sorted(set(shards.get("weight_map", {}).values()))]
        except MissingError:
            pass
        for name in names:
            if not _SHARD.fullmatch(name.split("/", 1)[1]) and not name.endswith(".json"):
                raise PipelineError(f"{root}{part}/{_SHARDS}: {name!r} is no name of weights")
            try:
                found[name] = RemoteFile(RemotePath(root + name)).identity
            except MissingError:
                continue
    return found


def _json(root: str, name: str) -> tuple[dict, tuple]:
    with RemoteFile(RemotePath(root + name)) as file:
        if file.size > _LARGEST:
            raise PipelineError(f"{root}{name}: has {file.size} bytes, too many for such a file")
        try:
            value = json.loads(file.read(file.size))
        except ValueError as error:
            raise PipelineError(f"{root}{name}: is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise PipelineError(f"{root}{name}: is no list of a pipeline's networks")
        return value, file.identity
