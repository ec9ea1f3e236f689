"""The vision transformer of other people's patch encoders, against independent ones."""

import math

import pytest
import torch
from torch import Tensor

from zoomldm.networks.patch_vit import PatchViT, ViTSizes

SMALL = ViTSizes(dim=128, depth=2, heads=2, hidden=256, patch=16, side=4)


def random_network(sizes: ViTSizes, seed: int = 0) -> PatchViT:
    torch.manual_seed(seed)
    network = PatchViT(sizes).eval()
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.1)
    return network


def by_hand(w: dict[str, Tensor], sizes: ViTSizes, x: Tensor) -> Tensor:
    """The transformer written out in matrix products, for its own size of picture."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    p, n = sizes.patch, sizes.side
    cut = x.reshape(len(x), 3, n, p, n, p).permute(0, 2, 4, 1, 3, 5).reshape(len(x), n * n, -1)
    tokens = cut @ w["patch_embed.proj.weight"].reshape(sizes.dim, -1).T
    tokens = tokens + w["patch_embed.proj.bias"]
    first, reg = w["cls_token"], w.get("reg_token", torch.zeros(1, 0, sizes.dim))
    positions = w["pos_embed"]
    if sizes.positions_of_class:
        first, positions = first + positions[:, :1], positions[:, 1:]
    if sizes.positions_of_registers:
        reg = reg + positions[:, : sizes.registers]
        positions = positions[:, sizes.registers :]
    tokens = tokens + positions
    registers = [reg.expand(len(x), -1, -1)]
    y = torch.cat([first.expand(len(x), -1, -1), *registers, tokens], 1)
    for i in range(sizes.depth):
        b, width = f"blocks.{i}", sizes.dim // sizes.heads
        q, k, v = linear(norm(y, f"{b}.norm1"), f"{b}.attn.qkv").chunk(3, -1)
        heads = []
        for h in range(sizes.heads):
            part = slice(h * width, (h + 1) * width)
            weight = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)).softmax(-1)
            heads.append(weight @ v[..., part])
        out = linear(torch.cat(heads, -1), f"{b}.attn.proj")
        y = y + out * w.get(f"{b}.ls1.gamma", torch.ones(1))
        hidden = linear(norm(y, f"{b}.norm2"), f"{b}.mlp.fc1")
        if sizes.gated:
            half = hidden.shape[-1] // 2
            hidden = hidden[..., :half] * hidden[..., :half].sigmoid() * hidden[..., half:]
        else:
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        y = y + linear(hidden, f"{b}.mlp.fc2") * w.get(f"{b}.ls2.gamma", torch.ones(1))
    return norm(y, "norm")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"layer_scale": True},
        {"registers": 3, "positions_of_class": False, "layer_scale": True, "gated": True},
        {"registers": 3, "positions_of_registers": True, "heads": 4, "gated": True},
    ],
)
@torch.no_grad()
def test_equals_the_same_written_out(change: dict) -> None:
    sizes = ViTSizes(**{**SMALL.as_dict(), **change})
    network = random_network(sizes).double()
    assert ViTSizes.of(network.state_dict(), sizes.heads) == sizes
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    tokens = by_hand(network.state_dict(), sizes, x)
    mean = tokens[:, 1 + sizes.registers :].mean(1)
    for pooling, expected in (
        ("class", tokens[:, 0]),
        ("class and mean", torch.cat([tokens[:, 0], mean], 1)),
        ("tokens", tokens),
    ):
        network.pooling = pooling  # type: ignore[assignment]
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    network = random_network(SMALL)
    w = network.state_dict()
    config = transformers.ViTConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        image_size=64,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    other = transformers.ViTModel(config, add_pooling_layer=False).eval()
    names = other.state_dict()
    new = {}
    for key in names:
        if "layer." in key or "layers." in key:
            i = next(int(p) for p in key.split(".") if p.isdigit())
            kind = key.rsplit(".", 1)[1]
            b = f"blocks.{i}"
            for mark, n in (("query", 0), ("q_proj", 0), ("key", 1), ("k_proj", 1),
                            ("value", 2), ("v_proj", 2)):  # fmt: skip
                if f".{mark}." in key:
                    new[key] = w[f"{b}.attn.qkv.{kind}"].chunk(3)[n]
            if key in new:
                continue
            if "layernorm_before" in key:
                new[key] = w[f"{b}.norm1.{kind}"]
            elif "layernorm_after" in key:
                new[key] = w[f"{b}.norm2.{kind}"]
            elif "intermediate" in key or "fc1" in key:
                new[key] = w[f"{b}.mlp.fc1.{kind}"]
            elif "attention" in key:
                new[key] = w[f"{b}.attn.proj.{kind}"]
            else:
                new[key] = w[f"{b}.mlp.fc2.{kind}"]
        elif "cls_token" in key:
            new[key] = w["cls_token"]
        elif "position" in key:
            new[key] = w["pos_embed"]
        elif "projection" in key:
            new[key] = w[f"patch_embed.proj.{key.rsplit('.', 1)[1]}"]
        else:
            new[key] = w[f"norm.{key.rsplit('.', 1)[1]}"]
    other.load_state_dict(new)
    x = torch.randn(2, 3, 64, 64)
    found = other(pixel_values=x).last_hidden_state[:, 0]
    torch.testing.assert_close(network(x), found, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_other_sizes_of_picture_interpolate_positions() -> None:
    network = random_network(SMALL)
    assert network(torch.ones(1, 3, 80, 80)).shape == (1, 128)
    column = torch.arange(4.0).repeat(4)  # a position that grows to the right and nowhere else
    network.pos_embed[0, 1:] = column[:, None]
    _, positions = network._positions(5)
    grid = positions[0, :, 0].reshape(5, 5)
    torch.testing.assert_close(grid, grid[:1].expand(5, 5))
    assert (grid[0].diff() > 0).all()


@pytest.mark.parametrize(
    ("name", "count"), [("hipt", 21_665_664), ("uni", 303_350_784), ("uni2", 681_394_176)]
)
def test_sizes_are_the_published_ones_and_read_back(name: str, count: int) -> None:
    from zoomldm.encoders import ENCODERS

    sizes = ENCODERS[name].sizes
    assert sizes is not None
    with torch.device("meta"):
        network = PatchViT(sizes)
    assert sum(p.numel() for p in network.parameters()) == count
    assert ViTSizes.of(network.state_dict()) == sizes
