"""Released tensor names for the networks here, and settings read from the tensors' shapes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from zoomldm.errors import PipelineError
from zoomldm.networks.checkpoint import Tensors
from zoomldm.networks.denoiser import Denoiser
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import TOKENS

UNET, AVERAGE = "model.diffusion_model.", "model_ema."
AUTOENCODER, SUMMARIZER = "first_stage_model.", "cond_stage_model."
BUFFERS = (
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
_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # heads of the transformers S, B, L, XL by width


def _sub(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, into in rules:
        name = re.sub(pattern, into, name)
    return name


def unet_config(tensors: Tensors) -> dict[str, Any]:
    """Read the settings of the denoiser from the tensors."""
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
    """Return the released name of a denoiser tensor, without prefix."""
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
    """Return the name of the averaged copy of a denoiser tensor: all dots deleted."""
    return AVERAGE + name.removeprefix("model.").replace(".", "")


def autoencoder_config(tensors: Tensors) -> dict[str, Any]:
    """Read the settings of the autoencoder from the tensors."""
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
    """Return the released name of an autoencoder tensor, without prefix."""
    last = len(vae.config["widths"]) - 1
    name = name.removeprefix("vq.")
    name = re.sub(
        r"up_blocks\.(\d+)", lambda m: f"up.{last - int(m[1])}", name
    )  # the released code counts blocks from the finest, both down and up
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
    """Read the settings of the summarizer from the tensors."""
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
    """Return the released name of a summarizer tensor, without prefix.

    torchvision before 0.12 names an MLP's layers linear_1 and linear_2; later versions 0 and 3.
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


def embedding_diffusion_config(tensors: Tensors) -> dict[str, Any]:
    """Read the settings of the embedding diffusion's network from the tensors."""
    width, context = (tensors.size("x_embedder.weight", axis) for axis in (0, 1))
    return {
        "tokens": tensors.size("pos_embed", 1),
        "context_dim": context,
        "width": width,
        "depth": tensors.count("blocks.{}."),
        # The tensors do not show the number of heads: 64 channels per head except for the largest.
        "heads": _HEADS.get(width) or max(width // 64, 1),
        "levels": tensors.size("y_embedder.embedding_table.weight"),
        "learned_variance": tensors.size("final_layer.linear.weight") == 2 * context,
    }


def embedding_diffusion_name(name: str) -> str:
    """Return the released name of an embedding diffusion tensor."""
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
