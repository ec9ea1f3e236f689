"""Load a patch encoder by name, from the hub, a folder, a file or a pipeline."""

import json
import shutil
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoomldm.encoders.encoder import (
    EncoderOptions,
    NetworkEncoder,
    PatchEncoder,
    PipelineEncoder,
    digest_of,
)
from zoomldm.encoders.table import ENCODERS, EncoderSpec, Preprocessing
from zoomldm.errors import PipelineError
from zoomldm.networks.attention_pool import PooledViT
from zoomldm.networks.checkpoint import Mismatches, Tensors, fill, read_checkpoint
from zoomldm.networks.finite import check_finite
from zoomldm.networks.patch_vit import PatchViT, ViTSizes
from zoomldm.pipeline import SHIPPED, load_pipeline, pick_device

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# Entries of a checkpoint that may hold an encoder, and possible prefixes of its tensor names.
_HOLDERS = ("teacher", "state_dict", "model")
_PREFIXES = ("module.", "backbone.", "encoder.")


def load_encoder(
    name: str, device: torch.device | str | None = None, options: EncoderOptions | None = None
) -> PatchEncoder:
    """Load a patch encoder.

    Args:
        name: an id of `ENCODERS`, downloaded if needed; `ID=PATH` for that encoder's weights in a
            local file or folder; a local file or folder alone, recognised by its sizes or its
            config.json; or a pipeline (id or directory).
        device: where it runs, see `pick_device`; None for a GPU if there is one.
        options: its precision and batch.

    Raises:
        ConfigError: half precision for a pipeline's own encoder.
        PipelineError: no such encoder; weights that are unavailable, damaged, unsafe or not that
            encoder's; a library that is not installed.
    """
    place = pick_device("auto" if device is None else str(device))
    known, equals, path = name.partition("=")
    if equals and known in ENCODERS:
        return _load(ENCODERS[known], known, Path(path), place, options)
    if name in ENCODERS:
        spec = ENCODERS[name]
        return _load(spec, name, _downloaded(spec), place, options)
    folder = Path(name)
    if name in (SHIPPED, "tiny") or (folder / "model_index.json").is_file():
        return PipelineEncoder(load_pipeline(name, str(place)), name, options)
    if not folder.exists():
        near = get_close_matches(known, ENCODERS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise PipelineError(
            f"encoder {name!r}: no such encoder, file or folder{hint}; expected one of "
            f"{', '.join(ENCODERS)}, a pipeline, or a path to weights"
        )
    return _load(None, name, folder, place, options)


def _load(
    spec: EncoderSpec | None,
    name: str,
    path: Path,
    device: torch.device,
    options: EncoderOptions | None,
) -> NetworkEncoder:
    """Load an encoder from weights at `path`, which must match `spec` if given."""
    if not path.exists():
        raise PipelineError(f"encoder {name}: {path}: no such file or folder")
    file = _weights_file(path)
    config = _json(path / CONFIG) if path.is_dir() else {}
    if (spec and spec.library == "transformers") or "model_type" in config:
        return _transformers_encoder(spec, name, path, file, config, device, options)
    tensors = _tensors(file)
    pooled = spec is not None and spec.pooling == "attention"
    trunk = {k.removeprefix("trunk."): v for k, v in tensors.items() if k.startswith("trunk.")}
    heads = spec.sizes.heads if spec and spec.sizes else None
    try:
        # Plain dicts, so that a missing key raises a plain KeyError.
        sizes = ViTSizes.of(trunk if pooled else dict(tensors), heads)
    except (KeyError, ValueError) as error:
        raise PipelineError(
            f"{file}: holds no vision transformer under timm's or DINO's names "
            f"({str(error).strip(chr(39))[:80]}); expected the weights of a patch encoder"
        ) from error
    if spec is not None and sizes != spec.sizes:
        raise PipelineError(
            f"{file}: is a ViT of width {sizes.dim}, depth {sizes.depth}, patch {sizes.patch}, "
            f"not {spec.id} ({spec.architecture}); give that encoder's weights"
        )
    preprocessing = spec.preprocessing if spec else _preprocessing(file, sizes, config)
    _check_size(file, preprocessing, sizes)
    with torch.device("meta"):
        network = _network(sizes, spec)
    own = {key: key for key in network.state_dict()}
    mismatches = Mismatches(tensors, "this encoder's weights")
    for key, value in network.state_dict().items():
        mismatches.expect(key, value.shape)
    mismatches.check()
    fill(network, tensors, own)
    described: dict[str, Any] = {
        "sizes": sizes.as_dict(),
        "preparation": preprocessing.as_dict(),
    }
    if spec is not None and spec.pooling != "class":
        described["pooling"] = spec.pooling
    digest = digest_of(described, network.state_dict())
    dim = spec.dim if spec else sizes.dim
    return NetworkEncoder(name, network, preprocessing, dim, digest, device, options)


def _network(sizes: ViTSizes, spec: EncoderSpec | None) -> nn.Module:
    if spec is None or spec.pooling == "class":
        return PatchViT(sizes)
    if spec.pooling == "attention":
        return PooledViT(sizes, spec.dim)
    return PatchViT(sizes, spec.pooling)


def _weights_file(path: Path) -> Path:
    """Return the weights file: `path` itself, or the one in that folder."""
    if path.is_file():
        return path
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    found = sorted(p for p in path.iterdir() if p.suffix in ENDINGS and p.is_file())
    if len(found) != 1:
        what = f"{len(found)} files of weights" if found else "no file of weights"
        raise PipelineError(
            f"{path}: a folder with {what}; expected {WEIGHTS[0]}, {WEIGHTS[1]}, or name one file"
        )
    return found[0]


def _content(file: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a file under their original names, without executing any of it."""
    content: Any = read_checkpoint(file)
    for holder in _HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(holder), Mapping):
            content = content[holder]
            break
    if not isinstance(content, Mapping):
        raise PipelineError(f"{file}: holds a {type(content).__name__}; expected a state dict")
    return content


def _tensors(file: Path) -> Tensors:
    """Read the tensors of a file under the encoder's own names."""
    out: dict[str, Tensor] = {}
    for key, value in _content(file).items():
        short = str(key)
        for prefix in _PREFIXES:
            short = short.removeprefix(prefix)
        if not short.startswith("head.") and short != "mask_token":  # used only in training
            out[short] = value
    return Tensors(file, out)


def _preprocessing(file: Path, sizes: ViTSizes, config: Mapping[str, Any]) -> Preprocessing:
    """Get it from timm's config.json beside the weights, or a known encoder of these sizes."""
    given = config.get("pretrained_cfg")
    if isinstance(given, Mapping):
        try:
            return Preprocessing(given["input_size"][-1], tuple(given["mean"]), tuple(given["std"]))
        except (KeyError, TypeError, IndexError) as error:
            raise PipelineError(
                f"{file.parent / CONFIG}: pretrained_cfg has no usable {error}; expected "
                "input_size, mean and std"
            ) from error
    fits = [e for e in ENCODERS.values() if e.pooling == "class" and e.sizes == sizes]
    if len({e.preprocessing for e in fits}) > 1:
        raise PipelineError(
            f"{file}: could be {' or '.join(e.id for e in fits)}, which take their input "
            f"differently; say which: --encoder {fits[0].id}={file}"
        )
    if fits:
        return fits[0].preprocessing
    named = ", ".join(e.id for e in ENCODERS.values() if e.sizes)
    raise PipelineError(
        f"{file}: a ViT of width {sizes.dim}, depth {sizes.depth}, patch {sizes.patch} is none of "
        f"{named}; put it in a folder with timm's {CONFIG}, which says how its input is prepared"
    )


def _check_size(file: Path, preprocessing: Preprocessing, sizes: ViTSizes) -> None:
    if preprocessing.size % sizes.patch:
        raise PipelineError(
            f"{file}: takes images of {preprocessing.size} px, which its patches of "
            f"{sizes.patch} px do not divide"
        )


class _Pooled(nn.Module):
    """A model of the transformers library as a function of images alone."""

    def __init__(self, model: Any, mean: bool) -> None:
        super().__init__()
        self.model, self.mean = model, mean

    def forward(self, images: Tensor) -> Tensor:
        """Embed prepared images (B, 3, S, S): (B, D)."""
        tokens = self.model(pixel_values=images).last_hidden_state
        if not self.mean:
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)


def _transformers_encoder(
    spec: EncoderSpec | None,
    name: str,
    path: Path,
    file: Path,
    config: Mapping[str, Any],
    device: torch.device,
    options: EncoderOptions | None,
) -> NetworkEncoder:
    transformers = _transformers(name)
    if "model_type" not in config:
        raise PipelineError(
            f"encoder {name}: {path}: expected a folder with {CONFIG} of transformers and weights"
        )
    preprocessing = spec.preprocessing if spec else _processor(path)
    mean = spec is not None and spec.pooling == "class and mean"
    dim = config.get("hidden_size")
    if isinstance(dim, int) and mean:
        dim *= 2
    if spec and dim != spec.dim:
        raise PipelineError(
            f"encoder {name}: {path} has embeddings of {dim} numbers, {spec.id} has {spec.dim}; "
            "give that encoder's folder"
        )
    content = _content(file)
    check_finite(file, ((str(key), value) for key, value in content.items()))
    held = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(50)
    try:
        with TemporaryDirectory() as safe:
            # transformers only gets tensors from the safe reader here, never a pickle.
            tensors = {str(k): v.contiguous() for k, v in content.items()}
            save_file(tensors, Path(safe) / WEIGHTS[0], {"format": "pt"})
            shutil.copy(path / CONFIG, safe)
            model, found = transformers.AutoModel.from_pretrained(
                safe, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except torch.OutOfMemoryError:  # of the GPU; the files are not at fault
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise PipelineError(f"encoder {name}: {path} can't be loaded ({reason})") from error
    finally:
        transformers.logging.set_verbosity(held)
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing or found.get("mismatched_keys"):
        listed = missing or sorted(str(key) for key in found["mismatched_keys"])
        raise PipelineError(
            f"{file}: lacks tensors of {config['model_type']}, or has them in other shapes: "
            f"{', '.join(listed[:6])}; download it again"
        )
    described = {"model_type": config["model_type"], "preparation": preprocessing.as_dict()}
    if mean:
        described["pooling"] = "class and mean"
    digest = digest_of(described, tensors)
    dim = int(model.config.hidden_size) * (2 if mean else 1)
    network = _Pooled(model.float(), mean)
    return NetworkEncoder(name, network, preprocessing, dim, digest, device, options)


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise PipelineError(
            f"encoder {name}: needs transformers, which is not installed; run "
            "pip install 'zoomldm[encoders]'"
        ) from error
    return transformers


def _processor(path: Path) -> Preprocessing:
    """Read preprocessing from a transformers folder; the whole tile is always resized."""
    given = _json(path / PROCESSOR)
    size = given.get("crop_size") or given.get("size")
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    try:
        return Preprocessing(int(size), tuple(given["image_mean"]), tuple(given["image_std"]))  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise PipelineError(
            f"{path}: {PROCESSOR} is missing or has no size, image_mean and image_std; expected "
            "the folder as its makers published it"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: can't be read as JSON ({str(error)[:80]})") from error
    return content if isinstance(content, dict) else {}


def _downloaded(spec: EncoderSpec) -> Path:
    """Return an encoder's weights file or its folder, from the hub or its cache."""
    by_hand = f"pass its files as --encoder {spec.id}=PATH"
    if not spec.on_hub:
        raise PipelineError(
            f"encoder {spec.id}: is on no hub; download {spec.source} and {by_hand}"
        )
    from huggingface_hub import errors, hf_hub_download

    if spec.library == "transformers":
        _transformers(spec.id)
    files = (CONFIG,) if spec.library == "transformers" else ()
    try:
        for name in files:
            hf_hub_download(spec.source, name)
        for name in (spec.file,) if spec.file else WEIGHTS:
            try:
                found = Path(hf_hub_download(spec.source, name))
                return found if spec.file else found.parent
            except errors.RemoteEntryNotFoundError:
                continue
        raise PipelineError(
            f"encoder {spec.id}: {spec.source} holds no {spec.file or ' or '.join(WEIGHTS)}; "
            f"{by_hand}"
        )
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        todo = (
            f"accept its terms at https://huggingface.co/{spec.source} and log in with "
            "`hf auth login`"
            if spec.gated
            else "log in with `hf auth login`"
        )
        raise PipelineError(
            f"encoder {spec.id}: {spec.source} is not given without a login; {todo}, or {by_hand}"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise PipelineError(
            f"encoder {spec.id}: {spec.source} is not in the cache and the hub can't be "
            f"reached; download it where it can and {by_hand}"
        ) from error
