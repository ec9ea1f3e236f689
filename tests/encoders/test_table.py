"""The patch encoders of the table: exact architectures, at reduced depth where they run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from zoomldm.encoders import ENCODERS, load_encoder
from zoomldm.encoders.encoder import prepared
from zoomldm.encoders.loading import _network
from zoomldm.errors import PipelineError
from zoomldm.networks.attention_pool import AttentionPool

# Computed from our networks at these sizes; a few known from their makers agree.
PARAMETERS = {
    "uni": 303_350_784,
    "uni2": 681_394_176,
    "conch-v1.5": 306_109_184,
    "h-optimus-0": 1_134_774_272,
    "h0-mini": 85_739_520,
    "virchow": 631_229_184,
    "virchow2": 631_239_424,
    "prov-gigapath": 1_134_953_984,
    "gpfm": 303_227_904,
    "kaiko-vits16": 21_665_664,
    "kaiko-vits8": 21_670_272,
    "kaiko-vitb16": 85_798_656,
    "kaiko-vitb8": 85_807_872,
    "kaiko-vitl14": 303_230_976,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_at_full_size(name: str) -> None:
    spec = ENCODERS[name]
    assert spec.sizes is not None
    with torch.device("meta"):
        network = _network(spec.sizes, spec)
        side = spec.preprocessing.size
        out = network(torch.empty(1, 3, side, side))
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    assert out.shape == (1, spec.dim)


@pytest.fixture
def tile() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["conch-v1.5", "h0-mini", "virchow2", "kaiko-vits8"])
def test_read_at_one_block(name: str, tmp_path: Path, tile: np.ndarray, monkeypatch) -> None:
    spec = ENCODERS[name]
    assert spec.sizes is not None
    short = replace(spec, sizes=replace(spec.sizes, depth=1))
    monkeypatch.setitem(ENCODERS, name, short)
    assert short.sizes is not None
    torch.manual_seed(0)
    network = _network(short.sizes, short).eval()
    file = tmp_path / (spec.file or "model.safetensors")
    if spec.file:
        torch.save({**network.state_dict(), "mask_token": torch.zeros(1, 1)}, file)
    else:
        save_file(network.state_dict(), file)
    encoder = load_encoder(f"{name}={file}")
    found = encoder.encode_tiles(tile)
    assert found.shape == (1, spec.dim) and encoder.embedding_dim == spec.dim
    with torch.no_grad():
        x = prepared(torch.from_numpy(tile).permute(0, 3, 1, 2), spec.preprocessing)
        np.testing.assert_allclose(found, network(x).numpy(), atol=1e-4)
    other = "uni2" if name != "uni2" else "uni"
    with pytest.raises(PipelineError, match=f"not {other}|holds no vision transformer"):
        load_encoder(f"{other}={file}")


@pytest.mark.parametrize("name", ["phikon-v2", "midnight-12k"])
def test_read_by_transformers(name: str, tmp_path: Path, tile: np.ndarray) -> None:
    transformers = pytest.importorskip("transformers")
    giant = name == "midnight-12k"
    config = transformers.Dinov2Config(
        hidden_size=1536 if giant else 1024,
        num_hidden_layers=1,
        num_attention_heads=24 if giant else 16,
        patch_size=14 if giant else 16,
        image_size=224,
        use_swiglu_ffn=giant,
    )
    torch.manual_seed(0)
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / name)
    encoder = load_encoder(f"{name}={tmp_path / name}")
    spec = ENCODERS[name]
    with torch.no_grad():
        x = prepared(torch.from_numpy(tile).permute(0, 3, 1, 2), spec.preprocessing)
        tokens = model(pixel_values=x).last_hidden_state
    expected = [tokens[:, 0], tokens[:, 1:].mean(1)] if giant else [tokens[:, 0]]
    found = encoder.encode_tiles(tile)
    assert found.shape == (1, spec.dim)
    np.testing.assert_allclose(found, torch.cat(expected, 1).numpy(), atol=1e-4)


@torch.no_grad()
def test_attention_pool_written_out() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(16, 24, 2).double()
    tokens = torch.randn(3, 5, 24, dtype=torch.float64)
    w = pool.state_dict()
    x = F.layer_norm(tokens, (24,), w["ln_k.weight"], w["ln_k.bias"])
    q = F.layer_norm(w["query"], (16,), w["ln_q.weight"], w["ln_q.bias"]) @ w["to_q.weight"].T
    k, v = (x @ w["to_kv.weight"].T).chunk(2, -1)
    heads = []
    for h in range(8):
        part = slice(2 * h, 2 * h + 2)
        scores = torch.einsum("qd,btd->bqt", q[:, part], k[..., part]) / 2**0.5
        heads.append(scores.softmax(-1) @ v[..., part])
    expected = torch.cat(heads, -1) @ w["to_out.weight"].T
    torch.testing.assert_close(pool(tokens), expected)


def test_each_says_licence_source_and_input() -> None:
    for name, spec in ENCODERS.items():
        assert spec.id == name and spec.licence and spec.source and spec.dim > 0
        assert spec.sizes is not None or spec.library == "transformers"
        assert spec.preprocessing.size in (224, 256, 448)
