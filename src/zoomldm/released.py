"""Published checkpoints (`weights.ckpt`, the embedding diffusion's `.pt`) to a pipeline."""

import argparse
import hashlib
import json
import pickle
import pickletools
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, _weights_only_unpickler, nn

from zoomldm.diffusion.samplers import PLMSScheduler
from zoomldm.errors import PipelineError, TargetError
from zoomldm.networks.denoiser import Denoiser
from zoomldm.networks.embedding_dit import EmbeddingDiT
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import TOKENS, ViTSummarizer
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.presets import SCHEDULE

Weights = Literal["ema", "raw"]
INDEX = "model_index.json"
UNET, AVERAGE = "model.diffusion_model.", "model_ema."
AUTOENCODER, SUMMARIZER = "first_stage_model.", "cond_stage_model."
SHOWN = 12
_BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the transformers S, B, L and XL, by width


@dataclass(frozen=True)
class ConvertReport:
    """What `convert_released` did.

    Attributes:
        pipeline: the directory.
        checkpoint: the source.
        sha256: of the source.
        weights: `ema` or `raw`.
        parameters: numbers of each network that was converted.
        embedding_dim: D the system is conditioned on, None for an embedding diffusion alone.
        levels: number of levels.
        done_before: whether the directory held this already.
    """

    pipeline: str
    checkpoint: str
    sha256: str
    weights: Weights
    parameters: dict[str, int] = field(default_factory=dict)
    embedding_dim: int | None = None
    levels: int | None = None
    done_before: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def convert_released(
    checkpoint: Path | str, out: Path | str, weights: Weights = "ema"
) -> ConvertReport:
    """Turn a published checkpoint into a pipeline directory.

    A whole system makes a new pipeline, without patch encoder. An embedding diffusion (the
    `{model, ema, opt, args}` file) is added to the pipeline that `out` holds, or makes one of
    its own. Every size is read off the tensors; nothing in the file is executed.

    Args:
        checkpoint: file that torch.save wrote.
        out: directory to make, in a folder that exists.
        weights: the averaged ones or those of the last training step. Of a whole system only
            the denoiser has averaged ones.

    Raises:
        PipelineError: damaged, unsafe, of another model, or with keys missing, extra or of
            another shape, which are listed.
        TargetError: `out` can't be made or holds something else.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if not checkpoint.is_file():
        raise PipelineError(
            f"{checkpoint}: no such file; expected a checkpoint such as weights.ckpt"
        )
    if not out.resolve().parent.is_dir():
        raise TargetError(f"{out}: folder {out.parent} does not exist; create it first")
    with checkpoint.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {"file": checkpoint.name, "sha256": sha256, "weights": weights}
    content = read_checkpoint(checkpoint)
    report: dict[str, Any] = {
        "pipeline": str(out),
        "checkpoint": str(checkpoint),
        "sha256": sha256,
        "weights": weights,
    }
    held = _source(out)
    if _is_embedding_diffusion(content):
        if held.get("embedding_diffusion") == facts:
            return ConvertReport(**report, done_before=True)
        network = _embedding_diffusion(checkpoint, content, weights)
        _add_embedding_diffusion(network, out, facts)
        count = {"embedding_diffusion": _count(network)}
        return ConvertReport(**report, parameters=count, levels=network.config["levels"])
    if held.get("system") == facts:
        return ConvertReport(**report, done_before=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TargetError(f"{out}: holds something already; name a directory that does not exist")
    parts = _system(checkpoint, content, weights)
    _save(ZoomLDMPipeline(**parts, patch_encoder=None, source={"system": facts}), out)
    return ConvertReport(
        **report,
        parameters={k: _count(v) for k, v in parts.items() if isinstance(v, nn.Module)},
        embedding_dim=parts["summarizer"].config["dim"],
        levels=parts["summarizer"].config["levels"],
    )


def read_checkpoint(path: Path, allowed: Iterable[type] = (argparse.Namespace,)) -> Any:
    """Content of a file that torch.save wrote, nothing in it executed.

    Args:
        path: the file.
        allowed: harmless classes that may occur in it.

    Raises:
        PipelineError: names of other code in the file, which are listed; a damaged file.
    """
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


def _damaged(path: Path, error: Exception) -> PipelineError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    reason = re.split(r"(?<=[a-z])\. ", reason)[0][:120]
    return PipelineError(
        f"{path}: can't be read as a checkpoint ({reason}); the file is cut short, damaged or "
        "of another kind: download it again"
    )


def _unsafe_globals(path: Path) -> list[str]:
    """Names outside what `weights_only` allows, in a zip that torch.save wrote or a bare pickle."""
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
    """Tensors of a checkpoint; asking for one that is missing is the user's error."""

    def __init__(self, path: Path | str, content: Mapping[str, Any]) -> None:
        super().__init__({k: v for k, v in content.items() if isinstance(v, Tensor)})
        self.path = path

    def __missing__(self, name: str) -> Tensor:
        found = ", ".join(list(self)[:3]) or "no tensors"
        raise PipelineError(
            f"{self.path}: not a ZoomLDM checkpoint: {name} is missing (found {found}, ...)"
        )

    def size(self, name: str, axis: int = 0) -> int:
        """Length of an axis of a tensor; 0 where it has no such axis."""
        shape = self[name].shape
        return shape[axis] if axis < len(shape) else 0

    def count(self, pattern: str) -> int:
        """Numbers 0, 1, ... for which a name begins with the pattern's {}."""
        i = 0
        while any(name.startswith(pattern.format(i)) for name in self):
            i += 1
        return i


class _Faults:
    """Keys that are missing, extra or of another shape, gathered and told together."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors, self.used = tensors, set[str]()
        self.missing: list[str] = []
        self.misshapen: list[str] = []

    def expect(self, name: str, shape: Iterable[int]) -> None:
        self.used.add(name)
        if name not in self.tensors:
            self.missing.append(name)
        elif not _fits(self.tensors[name].shape, tuple(shape)):
            found = list(self.tensors[name].shape)
            self.misshapen.append(f"{name} is {found}, expected {list(shape)}")

    def check(self) -> None:
        extra = sorted(set(self.tensors) - self.used)
        told = [
            f"{what} {_listed(names)}"
            for what, names in (
                ("missing", self.missing),
                ("of another shape:", self.misshapen),
                ("extra", extra),
            )
            if names
        ]
        if told:
            raise PipelineError(
                f"{self.tensors.path}: not a ZoomLDM checkpoint, or a changed one: "
                + "; ".join(told)
            )


def _listed(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _fits(found: Iterable[int], expected: tuple[int, ...]) -> bool:
    """Same shape, or a 1 x 1 convolution where a linear map is expected."""
    found = tuple(found)
    return found == expected or (len(expected) == 2 and found == (*expected, 1, 1))


def fill(network: nn.Module, tensors: Tensors, source: Mapping[str, str]) -> None:
    """Give a network on the meta device the tensors that `source` names for its own."""
    shapes = {k: v.shape for k, v in network.state_dict().items()}
    values = {k: tensors[source[k]].float().reshape(shape) for k, shape in shapes.items()}
    network.load_state_dict(values, assign=True)
    network.eval().requires_grad_(False)


def _names(network: nn.Module, renamed: Callable[[str], str]) -> dict[str, str]:
    return {k: renamed(k) for k in network.state_dict()}


def _sub(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, into in rules:
        name = re.sub(pattern, into, name)
    return name


def _system(path: Path, content: Any, weights: Weights) -> dict[str, Any]:
    """Networks and scheduler of a whole system."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise PipelineError(
            f"{path}: holds a {type(content).__name__}; expected a ZoomLDM state dict"
        )
    tensors = Tensors(path, content)
    scheduler = PLMSScheduler(**_schedule(tensors))
    with torch.device("meta"):
        unet = Denoiser(**unet_config(tensors))
        vae = VQAutoencoder(**autoencoder_config(tensors))
        summarizer = ViTSummarizer(**summarizer_config(tensors))
    sources = {
        "unet": _names(unet, lambda k: UNET + unet_name(k, unet)),
        "vae": _names(vae, lambda k: AUTOENCODER + autoencoder_name(k, vae)),
        "summarizer": _names(summarizer, lambda k: SUMMARIZER + summarizer_name(k, tensors)),
    }
    faults = _Faults(tensors)
    for name in _BUFFERS:
        faults.expect(name, tensors["betas"].shape)
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "summarizer": summarizer}
    for part, names in sources.items():
        for key, value in parts[part].state_dict().items():
            faults.expect(names[key], value.shape)
    average = {k: average_name(v) for k, v in sources["unet"].items()}
    if weights == "ema" and not any(k.startswith(AVERAGE) for k in tensors):
        raise PipelineError(
            f"{path}: holds no averaged weights ({AVERAGE}...); pass --raw for those of the "
            "last training step"
        )
    if any(k.startswith(AVERAGE) for k in tensors):
        for key, value in unet.state_dict().items():
            faults.expect(average[key], value.shape)
        faults.expect(AVERAGE + "decay", ())
        faults.expect(AVERAGE + "num_updates", ())
    faults.check()
    if weights == "ema":
        sources["unet"] = average
    for part, names in sources.items():
        fill(parts[part], tensors, names)
    return {**parts, "scheduler": scheduler}


def _schedule(tensors: Tensors) -> dict[str, Any]:
    """Settings of the scheduler, its ends read off `betas`; its shape is checked."""
    betas = tensors["betas"].double()
    start, end = round(float(betas[0]), 7), round(float(betas[-1]), 7)
    expected = torch.linspace(start**0.5, end**0.5, len(betas), dtype=torch.float64) ** 2
    if not torch.allclose(betas, expected, rtol=1e-4):
        raise PipelineError(
            f"{tensors.path}: betas from {start} to {end} are not linear in their square root; "
            "expected the released schedule"
        )
    return {
        **SCHEDULE,
        "num_train_timesteps": len(betas),
        "beta_start": start,
        "beta_end": end,
        "prediction_type": "epsilon",
    }


def unet_config(tensors: Tensors) -> dict[str, Any]:
    """Settings of the denoiser, read off the tensors."""
    widths: list[int] = []
    depths: list[int] = []
    attention: list[bool] = []
    context = 0
    widths.append(tensors.size(UNET + "input_blocks.0.0.weight"))
    depths.append(0)
    attention.append(False)
    for i in range(1, tensors.count(UNET + "input_blocks.{}.")):
        block = f"{UNET}input_blocks.{i}."
        if block + "0.op.weight" in tensors:
            widths.append(0)
            depths.append(0)
            attention.append(False)
            continue
        widths[-1] = tensors.size(block + "0.in_layers.2.weight")
        depths[-1] += 1
        key = block + "1.transformer_blocks.0.attn2.to_k.weight"
        if key in tensors:
            attention[-1], context = True, tensors.size(key, 1)
    if len(set(depths)) != 1 or not context:
        raise PipelineError(
            f"{tensors.path}: not a ZoomLDM checkpoint: residual blocks a level {depths}, context "
            f"width {context}; expected as many at each level, and cross-attention"
        )
    return {
        "latent_channels": tensors.size(UNET + "input_blocks.0.0.weight", 1),
        "fold": 1,
        "spatial_context": 0,
        "widths": tuple(widths),
        "depth": depths[0],
        "heads": 1,
        "context_dim": context,
        "attention": tuple(attention),
        "sample_size": 64,
    }


def unet_name(name: str, unet: Denoiser) -> str:
    """Released name of one of the denoiser's tensors, without prefix."""
    depth = int(unet.config["depth"])
    attention = tuple(reversed(unet.config["attention"]))
    name = name.removeprefix("unet.")
    top = name.split(".")
    if top[0] in ("down_blocks", "up_blocks"):
        level, kind, j = int(top[1]), top[2], int(top[3])
        rest = ".".join(top[4:])
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (depth + 1)}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            place = 2 if attention[level] else 1
            return f"output_blocks.{level * (depth + 1) + depth}.{place}.{rest}"
        index = level * (depth + 1) + j
        stem = f"input_blocks.{index + 1}" if top[0] == "down_blocks" else f"output_blocks.{index}"
        name = f"{stem}.{0 if kind == 'resnets' else 1}.{rest}"
        return _residual(name) if kind == "resnets" else name
    if top[0] == "mid_block":
        place = {("resnets", "0"): 0, ("attentions", "0"): 1, ("resnets", "1"): 2}[top[1], top[2]]
        name = f"middle_block.{place}.{'.'.join(top[3:])}"
        return _residual(name) if top[1] == "resnets" else name
    return _sub(
        name,
        (
            (r"^time_embedding\.linear_1", "time_embed.0"),
            (r"^time_embedding\.linear_2", "time_embed.2"),
            (r"^conv_in", "input_blocks.0.0"),
            (r"^conv_norm_out", "out.0"),
            (r"^conv_out", "out.2"),
        ),
    )


def _residual(name: str) -> str:
    return _sub(
        name,
        (
            (r"\.norm1\.", ".in_layers.0."),
            (r"\.conv1\.", ".in_layers.2."),
            (r"\.time_emb_proj\.", ".emb_layers.1."),
            (r"\.norm2\.", ".out_layers.0."),
            (r"\.conv2\.", ".out_layers.3."),
            (r"\.conv_shortcut\.", ".skip_connection."),
        ),
    )


def average_name(name: str) -> str:
    """Name of the averaged copy of a denoiser's tensor: all dots deleted."""
    return AVERAGE + name.removeprefix("model.").replace(".", "")


def autoencoder_config(tensors: Tensors) -> dict[str, Any]:
    """Settings of the autoencoder, read off the tensors."""
    down = AUTOENCODER + "encoder.down.{}."
    levels = tensors.count(down)
    return {
        "latent_channels": tensors.size(AUTOENCODER + "quantize.embedding.weight", 1),
        "codebook": tensors.size(AUTOENCODER + "quantize.embedding.weight"),
        "widths": tuple(
            tensors.size(down.format(i) + "block.0.conv1.weight") for i in range(levels)
        ),
        "depth": tensors.count(AUTOENCODER + "encoder.down.0.block.{}."),
    }


def autoencoder_name(name: str, vae: VQAutoencoder) -> str:
    """Released name of one of the autoencoder's tensors, without prefix."""
    last = len(vae.config["widths"]) - 1
    name = name.removeprefix("vq.")
    name = re.sub(
        r"up_blocks\.(\d+)", lambda m: f"up.{last - int(m[1])}", name
    )  # the released code counts both ways from the finest
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    return _sub(
        name,
        (
            (r"down_blocks\.", "down."),
            (r"\.resnets\.", ".block."),
            (r"(down|up)samplers\.0", r"\1sample"),
            (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
            (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
            (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
            (r"conv_norm_out", "norm_out"),
            (r"conv_shortcut", "nin_shortcut"),
        ),
    )


def summarizer_config(tensors: Tensors) -> dict[str, Any]:
    """Settings of the summarizer, read off the tensors."""
    layer = SUMMARIZER + "encoder.layers.encoder_layer_{}."
    tokens = tensors.size(SUMMARIZER + "encoder.pos_embedding", 1)
    if tokens != TOKENS + 1:
        raise PipelineError(
            f"{tensors.path}: the summarizer has {tokens} tokens; expected {TOKENS + 1}"
        )
    first = SUMMARIZER + summarizer_name("blocks.0.mlp.0.weight", tensors)
    return {
        "dim": tensors.size(SUMMARIZER + "dim_reduce.weight", 1),
        "width": tensors.size(SUMMARIZER + "dim_reduce.weight"),
        "hidden": tensors.size(first),
        "context_dim": tensors.size(SUMMARIZER + "final_proj.weight"),
        "levels": tensors.size(SUMMARIZER + "mag_embedding.weight"),
        "depth": tensors.count(layer),
    }


def summarizer_name(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Released name of one of the summarizer's tensors, without prefix.

    torchvision before 0.12 called an MLP's layers linear_1 and linear_2, later ones 0 and 3.
    """
    old = any(".mlp.linear_1." in key for key in tensors)
    first, second = ("linear_1", "linear_2") if old else ("0", "3")
    return _sub(
        name,
        (
            (r"^project\.", "dim_reduce."),
            (r"^padding$", "pad_token"),
            (r"^level\.", "mag_embedding."),
            (r"^position$", "encoder.pos_embedding"),
            (r"^norm\.", "encoder.ln."),
            (r"^out\.", "final_proj."),
            (r"^out_norm\.", "layer_norm."),
            (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
            (r"\.norm1\.", ".ln_1."),
            (r"\.norm2\.", ".ln_2."),
            (r"\.attention\.", ".self_attention."),
            (r"\.mlp\.2\.", f".mlp.{second}."),
            (r"\.mlp\.0\.", f".mlp.{first}."),
        ),
    )


def _is_embedding_diffusion(content: Any) -> bool:
    return isinstance(content, dict) and "x_embedder.weight" in (
        content.get("ema") or content.get("model") or content
    )


def embedding_diffusion_config(tensors: Tensors) -> dict[str, Any]:
    """Settings of the embedding diffusion's network, read off the tensors."""
    width, context = (tensors.size("x_embedder.weight", axis) for axis in (0, 1))
    return {
        "tokens": tensors.size("pos_embed", 1),
        "context_dim": context,
        "width": width,
        "depth": tensors.count("blocks.{}."),
        # Heads leave no trace in the tensors; 64 numbers a head but for the largest.
        "heads": _HEADS.get(width) or max(width // 64, 1),
        "levels": tensors.size("y_embedder.embedding_table.weight"),
        "learned_variance": tensors.size("final_layer.linear.weight") == 2 * context,
    }


def embedding_diffusion_name(name: str) -> str:
    """Released name of one of the embedding diffusion's tensors."""
    return _sub(
        name,
        (
            (r"^project\.", "x_embedder."),
            (r"^position$", "pos_embed"),
            (r"^time\.", "t_embedder.mlp."),
            (r"^level\.", "y_embedder.embedding_table."),
            (r"^modulation\.", "final_layer.adaLN_modulation.1."),
            (r"^out\.", "final_layer.linear."),
            (r"\.qkv\.", ".attn.qkv."),
            (r"\.attended\.", ".attn.proj."),
            (r"^(blocks.*)\.mlp\.0\.", r"\1.mlp.fc1."),
            (r"^(blocks.*)\.mlp\.2\.", r"\1.mlp.fc2."),
            (r"\.modulation\.", ".adaLN_modulation.1."),
        ),
    )


def _embedding_diffusion(path: Path, content: dict[str, Any], weights: Weights) -> EmbeddingDiT:
    key = "ema" if weights == "ema" else "model"
    if "x_embedder.weight" not in content and key not in content:
        raise PipelineError(f"{path}: holds no {key!r}; pass --{'raw' if key == 'ema' else 'ema'}")
    tensors = Tensors(path, content.get(key) or content)
    with torch.device("meta"):
        network = EmbeddingDiT(**embedding_diffusion_config(tensors))
    names = _names(network, embedding_diffusion_name)
    faults = _Faults(tensors)
    for name, value in network.state_dict().items():
        faults.expect(names[name], value.shape)
    faults.check()
    fill(network, tensors, names)
    return network


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _source(out: Path) -> dict[str, Any]:
    """Where the parts of a pipeline directory come from; empty where it does not say."""
    try:
        return dict(json.loads((out / INDEX).read_text()).get("source") or {})
    except (OSError, ValueError, AttributeError):
        return {}


def _save(pipeline: ZoomLDMPipeline, out: Path) -> None:
    """Write a pipeline directory whole or not at all."""
    partial = out.resolve().with_name(f".{out.resolve().name}.{secrets.token_hex(8)}.part")
    try:
        pipeline.save_pretrained(partial, safe_serialization=True)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise TargetError(
            f"{out}: can't be written ({error.strerror or error}); choose a folder you may write "
            "to, with space"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _add_embedding_diffusion(network: EmbeddingDiT, out: Path, facts: dict[str, str]) -> None:
    """Put the network into the pipeline at `out`, or make one that has nothing else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        nothing = dict.fromkeys(("unet", "vae", "summarizer", "patch_encoder", "scheduler"))
        source = {"embedding_diffusion": facts}
        _save(ZoomLDMPipeline(**nothing, embedding_diffusion=network, source=source), out)
        return
    if not (out / INDEX).is_file():
        raise TargetError(f"{out}: holds something else than a pipeline; name another directory")
    index = json.loads((out / INDEX).read_text())
    if (index.get("embedding_diffusion") or [None])[0] is not None:
        raise TargetError(f"{out}: has another embedding diffusion already")
    shape = _context_shape(out)
    own = (network.config["tokens"], network.config["context_dim"])
    if shape is not None and shape != own:
        raise PipelineError(
            f"{out}: its summarizer makes contexts of {shape}; the embedding diffusion draws {own}"
        )
    partial = out / f".embedding_diffusion.{secrets.token_hex(8)}.part"
    try:
        network.save_pretrained(partial, safe_serialization=True)
        shutil.rmtree(out / "embedding_diffusion", ignore_errors=True)
        partial.rename(out / "embedding_diffusion")
        index["embedding_diffusion"] = [type(network).__module__, type(network).__name__]
        index["source"] = {**(index.get("source") or {}), "embedding_diffusion": facts}
        changed = out / f".{INDEX}.part"
        changed.write_text(json.dumps(index, indent=2) + "\n")
        changed.replace(out / INDEX)
    except OSError as error:
        raise TargetError(f"{out}: can't be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _context_shape(out: Path) -> tuple[int, int] | None:
    try:
        config = json.loads((out / "summarizer" / "config.json").read_text())
    except (OSError, ValueError):
        return None
    tokens = TOKENS + 1 if config.get("_class_name") == "ViTSummarizer" else TOKENS
    return tokens, config.get("context_dim", 512)
